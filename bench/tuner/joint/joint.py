"""The joint search: for which flags of the servers, and at which operating point, a fleet does most.

A setting costs a restart and a search, so as few as possible get one:

    1. start       in the middle of each flag's numbers, with the first of its words: searched in full
    2. flag by flag, with the others at their best: numbers uphill for as long as it goes up, every word
    3. again       while a flag has found another value, for what is best of one may depend on it
    4. refine      with a target the two that may be the best are searched on, in the time of settings that needed no
                   search: which points near a target hold it is luck as long as each is looked at once or twice

    sight          each further setting is first looked at where the best one works: servers that are full there and
                   do clearly less cannot win with other clients either, and are left at once
    search         the others as today; one that has climbed to full servers and stays behind is left without a final

A full server does not get faster by having more or less in flight; that is all that the pruning stands on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from bench.tuner.joint.settings import Axis, Setting, count_settings, start_of
from bench.tuner.measure.visit import Point
from bench.tuner.search.findings import INDIFFERENCE, Findings, is_full
from bench.tuner.search.record import Record
from engine.errors import ConfigError, ServersUnavailable

CANNOT_WIN = 0.95
"""Share of the best rate below which a setting whose servers are full is left: requests of another size change less."""
MOST_BUDGETS, OF_THE_FIRST = 3.0, 0.6
"""Times the time of a search that a setting gets in the end, at most; and the first one's share of what there is."""
TELLING = 0.5
"""Share of the texts in flight at a chosen point from which on settings differ."""


class Trial(Protocol):
    """Servers that run with one setting, and a search on them."""

    def sight(self, point: Point, *, bucketing: bool, expected_per_s: float) -> Record | None:
        """Measure one point; None when these servers do not admit it."""

    def search(self, worth_beating: float | None) -> Findings:
        """Search for the operating point, up to where it is clear that it stays behind `worth_beating` documents/s."""

    def go_on(self, former: Findings, budgets: float, worth_beating: float | None) -> Findings:
        """Search on from what a former search on servers with the same setting has found.

        Args:
            budgets: Times the time of a search that may be taken.
            worth_beating: Documents a second that another setting is certain to bring, so that less is of no use.
        """


@dataclass(slots=True, kw_only=True)
class Tried:
    """A setting that was tried.

    Attributes:
        setting: It.
        findings: Of its search; None when a look was enough, or it does not work.
        chosen: Its operating point, None when it has none or was left.
        left_at_per_s: What it did when it was left, None when it was not.
        trouble: Why it does not work, None when it does.
        searched_on: Whether it was searched on, so that its point is not the luck of few visits.
    """

    setting: Setting
    findings: Findings | None = None
    chosen: Record | None = None
    left_at_per_s: float | None = None
    trouble: str | None = None
    searched_on: bool = False

    @property
    def chosen_texts(self) -> int:
        """Texts in flight at its point, 0 when it has none."""
        return self.chosen.point.texts_in_flight if self.chosen is not None else 0

    @property
    def per_s(self) -> float:
        """Documents a second at its point, 0 when it has none."""
        return self.chosen.rate.per_s if self.chosen is not None else 0.0


@dataclass(slots=True)
class JointFindings:
    """What is known so far.

    Attributes:
        tried: Every setting that was tried, in order.
        best: The one that does most within the target, None as long as none does. One that was searched on comes before
            all others: what they have found may be luck.
    """

    tried: list[Tried] = field(default_factory=list)

    @property
    def best(self) -> Tried | None:
        works = [one for one in self.tried if one.chosen is not None]
        return max(works, key=lambda one: (one.searched_on, one.per_s), default=None)


class JointSearch:
    """One joint search.

    Attributes:
        findings: What is known so far; may be read at any time, also after an interruption.
    """

    def __init__(
        self,
        axes: tuple[Axis, ...],
        run: Callable[[Setting], AbstractContextManager[Trial]],
        *,
        refine: bool = True,
        listener: Callable[[Tried], None] | None = None,
    ) -> None:
        """
        Args:
            run: Runs servers with a setting, for as long as its context lasts.
            refine: Whether to search on with the best setting in the end: with a target, points near it want time.
            listener: Told of every setting that was tried.
        """
        self._axes = axes
        self._run = run
        self._refine = refine
        self._listener = listener
        self._known: dict[Setting, Tried] = {}
        self.findings = JointFindings()

    def search(self) -> JointFindings:
        """Search.

        Raises:
            ServersUnavailable: no setting works at all; the first one's trouble is quoted.
            ConfigError: the texts are refused whatever the setting.
        """
        here = start_of(self._axes)
        self._try(here)
        while True:
            before = here
            for axis in self._axes:
                here = self._along(axis, here)
            if here == before or len(self._known) == count_settings(self._axes):
                break
        if all(one.trouble is not None for one in self.findings.tried):
            raise ServersUnavailable(f"no setting of --server-flags works; {self.findings.tried[0].trouble}")
        if self._refine:
            self._search_on()
        return self.findings

    def _search_on(self) -> None:
        """Search on with the most promising setting, then with its rival; in the time of settings without a search.

        What goes wrong there changes nothing of what is known.
        """
        searched = sum(one.chosen is not None for one in self.findings.tried)
        budgets = count_settings(self._axes) - searched - 1.0  # one of them for the restarts
        if budgets < 0:
            return
        for one in self._rivals():
            before = self.findings.best
            share = max(1.0, min(MOST_BUDGETS, OF_THE_FIRST * budgets))
            with contextlib.suppress(ServersUnavailable, ConfigError):
                self._go_on(one, share, before.per_s if before is not None and before.searched_on else None)
            budgets -= share
            if budgets < 1:
                return

    def _go_on(self, one: Tried, budgets: float, worth_beating: float | None) -> None:
        assert one.findings is not None
        with self._run(one.setting) as trial:
            found = trial.go_on(one.findings, budgets, worth_beating)
        beats = found.chosen is not None and found.chosen.rate.per_s > (1 + INDIFFERENCE) * (worth_beating or 0.0)
        if beats or worth_beating is None:
            one.findings, one.chosen, one.searched_on = found, found.chosen, True
            if self._listener is not None:
                self._listener(one)

    def _rivals(self) -> list[Tried]:
        """The best setting and the one that may turn out to be better, the most promising one first.

        A target is told less exactly than a rate: with as much in flight, the one that does more answers sooner too
        (Little's law), whatever point each has found.
        """
        best = self.findings.best
        if best is None:
            return []
        others = [one for one in self.findings.tried if one is not best and one.chosen is not None]
        rival = max(others, key=lambda one: _gain(best, one), default=None)
        if rival is None or _gain(best, rival) < CANNOT_WIN:
            return [best]
        return [best, rival] if _gain(best, rival) <= 1.0 else [rival, best]

    def _along(self, axis: Axis, here: Setting) -> Setting:
        """The best setting that differs from `here` in one flag at most."""
        if not axis.is_ordered:
            tried = [self._try(here.changed(axis.name, value)) for value in axis.values]
            return self._better(here, max(tried, key=lambda one: one.per_s).setting)
        for step in (1, -1):
            found = self._uphill(axis, here, step)
            if found != here:
                return found  # one that rises to one side falls to the other
        return here

    def _uphill(self, axis: Axis, here: Setting, step: int) -> Setting:
        at = axis.values.index(here.value(axis.name)) + step
        while 0 <= at < len(axis.values):
            there = here.changed(axis.name, axis.values[at])
            if self._better(here, there) is here:
                return here
            here, at = there, at + step
        return here

    def _better(self, here: Setting, there: Setting) -> Setting:
        return there if self._try(there).per_s > self._try(here).per_s else here

    def _try(self, setting: Setting) -> Tried:
        if setting in self._known:
            return self._known[setting]
        tried = self._known[setting] = Tried(setting=setting)
        try:
            with self._run(setting) as trial:
                self._explore(trial, tried)
        except (ServersUnavailable, ConfigError) as error:
            tried.trouble = str(error)
        self.findings.tried.append(tried)
        if self._listener is not None:
            self._listener(tried)
        return tried

    def _explore(self, trial: Trial, tried: Tried) -> None:
        best = self.findings.best
        if best is not None and best.chosen is not None and best.findings is not None:
            seen = trial.sight(best.chosen.point, bucketing=best.findings.bucketing, expected_per_s=best.per_s)
            if seen is not None and seen.works and is_full(seen) and seen.rate.high < CANNOT_WIN * best.per_s:
                tried.left_at_per_s = seen.rate.per_s
                return
        tried.findings = trial.search(best.per_s if best is not None else None)
        tried.chosen = tried.findings.chosen
        if tried.findings.left_at_per_s is not None:
            tried.left_at_per_s = tried.findings.left_at_per_s


def _gain(one: Tried, other: Tried) -> float:
    """What another setting does per what this one does, at the points that both have measured; else at their own."""
    if one.findings is None or other.findings is None or not one.per_s:
        return 0.0
    ours, theirs = one.findings.records, other.findings.records
    ratios = [
        theirs[point].rate.per_s / ours[point].rate.per_s
        for point in ours.keys() & theirs.keys()
        if point.texts_in_flight >= TELLING * one.chosen_texts and ours[point].is_complete and theirs[point].is_complete
    ]
    return sum(ratios) / len(ratios) if ratios else other.per_s / one.per_s
