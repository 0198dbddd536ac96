"""The joint search: for which flags of the servers, and at which operating point, a fleet does most.

A setting costs a restart and a search, so as few as possible get one:

    1. start       in the middle of each flag's numbers, with the first of its words: searched in full
    2. flag by flag, with the others at their best: numbers uphill for as long as it goes up, every word
    3. again       while a flag has found another value, for what is best of one may depend on it
    4. refine      with a target the best one is searched on: points near a target want more time than one search has

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
from bench.tuner.search.findings import Findings, is_full
from bench.tuner.search.record import Record
from engine.errors import ConfigError, ServersUnavailable

CANNOT_WIN = 0.95
"""Share of the best rate below which a setting whose servers are full is left: requests of another size change less."""


class Trial(Protocol):
    """Servers that run with one setting, and a search on them."""

    def sight(self, point: Point, *, bucketing: bool, expected_per_s: float) -> Record | None:
        """Measure one point; None when these servers do not admit it."""

    def search(self, worth_beating: float | None) -> Findings:
        """Search for the operating point, up to where it is clear that it stays behind `worth_beating` documents/s."""

    def go_on(self, former: Findings) -> Findings:
        """Search on from what a former search on servers with the same setting has found."""


@dataclass(slots=True, kw_only=True)
class Tried:
    """A setting that was tried.

    Attributes:
        setting: It.
        findings: Of its search; None when a look was enough, or it does not work.
        chosen: Its operating point, None when it has none or was left.
        left_at_per_s: What it did when it was left, None when it was not.
        trouble: Why it does not work, None when it does.
    """

    setting: Setting
    findings: Findings | None = None
    chosen: Record | None = None
    left_at_per_s: float | None = None
    trouble: str | None = None

    @property
    def per_s(self) -> float:
        """Documents a second at its point, 0 when it has none."""
        return self.chosen.rate.per_s if self.chosen is not None else 0.0


@dataclass(slots=True)
class JointFindings:
    """What is known so far.

    Attributes:
        tried: Every setting that was tried, in order.
        best: The one that does most within the target, None as long as none does.
    """

    tried: list[Tried] = field(default_factory=list)

    @property
    def best(self) -> Tried | None:
        found = max(self.tried, key=lambda one: one.per_s, default=None)
        return found if found is not None and found.chosen is not None else None


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
        # the time of a setting that needed no search: together they stay within what all would take
        if self._refine and sum(one.chosen is not None for one in self.findings.tried) < count_settings(self._axes):
            self._search_on()
        return self.findings

    def _search_on(self) -> None:
        """Search on with the best setting; what goes wrong there changes nothing of what is known."""
        best = self.findings.best
        if best is None or best.findings is None:
            return
        with contextlib.suppress(ServersUnavailable, ConfigError), self._run(best.setting) as trial:
            found = trial.go_on(best.findings)
            if found.chosen is not None:
                best.findings, best.chosen = found, found.chosen
                if self._listener is not None:
                    self._listener(best)

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
