"""The search for the operating point: from one request in flight upward, and no further than it pays.

    1. order       one request at each server, with texts of like length in it and with any: whether sorting pays, and
                   so whether the run (and everything that follows here) sorts
    2. floor       one request of the smallest batch size at each server: the least latency there is
    3. climb       the largest batch size that holds the target: 1, 2, 4, ... in flight while throughput grows
    4. others      the other batch sizes with as many texts in flight, because texts in flight decide, not requests;
                   one that is not better there at a full server cannot win
    5. refine      between the last point that was good and the first that was not
    6. final       the points that may be the best, again and again in shuffled order, so that no drift picks the winner

Among the points within `INDIFFERENCE` of the best throughput, the one with the least latency is chosen.
"""

from __future__ import annotations

import numpy as np

from bench.tuner.measure.limits import Limits
from bench.tuner.measure.load import Load
from bench.tuner.measure.visit import Point, Visit
from bench.tuner.search.climb import Climb
from bench.tuner.search.final import FinalRound
from bench.tuner.search.findings import Findings, is_full
from bench.tuner.search.polish import Polish
from bench.tuner.search.record import Record
from bench.tuner.search.survey import Listener, Survey, TuneConfig
from bench.tuner.texts.corpus import Corpus, Order
from engine.errors import ConfigError, ServersUnavailable
from gpu_clients.errors import ACTIONS, Action, FailureKind

PAYING_ORDER = 1.03
"""Gain by sorting below which a run does better without: unsorted, latencies are more even."""

_TEXTS_THAT_SHOW_PADDING = 16
_BEHIND, _BEHIND_WITHIN_A_TARGET = 0.96, 0.9
"""Share of another setting's rate below which a climb is enough; with a target smaller requests may bring more."""


class Search:
    """One search for the operating point of a fleet.

    Attributes:
        findings: What is known so far; may be read at any time, also after an interruption.
    """

    def __init__(
        self,
        load: Load,
        corpus: Corpus,
        limits: Limits,
        config: TuneConfig,
        *,
        max_batch_tokens: int | None = None,
        listener: Listener | None = None,
    ) -> None:
        """
        Args:
            max_batch_tokens: Tokens of a GPU batch, when the servers say so.
            listener: Told of every visit: in which part of the search, and what it found.
        """
        self._survey = Survey(load, corpus, limits, config, max_batch_tokens=max_batch_tokens, listener=listener)
        self._max_seconds = config.max_seconds
        self._former: Findings | None = None
        self.findings: Findings = self._survey.findings

    def sight(self, point: Point, *, bucketing: bool, expected_per_s: float) -> Record | None:
        """Measure one point before the search; None when the servers do not admit it.

        Args:
            bucketing: Whether to send texts of like length together.
            expected_per_s: What another setting of the servers does there, in documents a second: sorted texts have
                to lie as densely as in the measurement that this one is compared with.
        """
        if point.concurrency > self._survey.limits.ceilings.get(point.batch_size, 0):
            return None
        self.findings.bucketing = bucketing
        self._survey.expected_per_s = expected_per_s
        record = self._survey.visit("climb", point)
        # it was measured in an order that the search has not decided on yet
        self.findings.records.clear()
        return record

    def adopt(self, former: Findings, budgets: float = 1.0) -> None:
        """Begin where another search on the same servers has ended: with all that it knows, and time of its own.

        Args:
            budgets: Times the time of a search that this one may take.
        """
        self._survey.extend(budgets)
        mine = self.findings
        mine.records.update(former.records)
        mine.bucketing, mine.sorting_gain, mine.floor = former.bucketing, former.sorting_gain, former.floor
        mine.characters_per_token, mine.tokens_estimated = former.characters_per_token, former.tokens_estimated
        mine.contenders += former.contenders
        self._former = former

    def run(self, worth_beating: float | None = None) -> Findings:
        """Search; `findings` holds everything, also when this is interrupted.

        Args:
            worth_beating: Documents a second that another setting of the servers brings: once it is clear that this
                one stays behind, nothing is chosen and the search ends. When it goes on from another search, only
                points that are certain to hold the target are chosen then.

        Raises:
            ServersUnavailable: a server stopped answering, or none answers a single request with vectors.
            ConfigError: the servers refuse every request.
        """
        survey, findings = self._survey, self.findings
        if self._former is not None and self._former.chosen is not None:
            self._search_on(self._former.chosen.point, worth_beating)
            return findings
        self._decide_order()
        sizes = self._floors()
        if not findings.within(None):
            raise _nothing_works(findings)
        if sizes:
            climb = Climb(survey)
            climb.climb(sizes[-1], 1)
            if worth_beating is not None and self._stays_behind(worth_beating):
                findings.ended = True
                return findings
            for size in reversed(sizes[:-1]):
                climb.climb(size, climb.start_of(size))
            survey.stop_exploring()
            final = FinalRound(survey)
            final.run()
            final.choose()
        if not survey.has_time():
            findings.notes.append(f"--max-seconds {self._max_seconds:g} was used up: more time may find a better point")
        findings.ended = True
        return findings

    def _search_on(self, chosen: Point, worth_beating: float | None) -> None:
        """Make sure which points around a chosen one hold the target, and choose again."""
        survey, findings = self._survey, self.findings
        survey.stop_exploring()
        certain = None
        if survey.target_p95_s is not None:
            certain = Polish(survey, survey.target_p95_s, worth_beating or 0.0).run(chosen)
        if certain or worth_beating is None:
            FinalRound(survey).choose(certain)
        findings.ended = True

    def _stays_behind(self, worth_beating: float) -> bool:
        """Whether full servers do clearly less than that, after a climb with the largest requests."""
        best = self.findings.best(self._survey.target_p95_s)
        target_s = self._survey.target_p95_s
        share = _BEHIND if target_s is None else _BEHIND_WITHIN_A_TARGET
        if best is None or best.rate.high >= share * worth_beating or not is_full(best):
            return False
        self.findings.left_at_per_s = best.rate.per_s
        return True

    def _decide_order(self) -> None:
        """Send texts of like length together, then as they come: a server that pads is faster with the former."""
        ceilings = self._survey.limits.ceilings
        size = max(ceilings)
        point = Point(size, min(ceilings[size], -(-_TEXTS_THAT_SHOW_PADDING // size)))
        mixed = self._survey.measure("order", point, Order.NATURAL)
        alike = self._survey.measure("order", point, Order.SPREAD if point.concurrency <= 2 else Order.SORTED)
        if not mixed.n_texts or not alike.n_texts or mixed.rate.per_s <= 0:
            return
        gain = slowdown_by_mixing(mixed, alike) if point.concurrency == 1 else alike.rate.per_s / mixed.rate.per_s
        self.findings.sorting_gain = gain
        self.findings.bucketing = gain >= PAYING_ORDER
        self.findings.records[point] = Record(point, [alike if self.findings.bucketing else mixed])

    def _floors(self) -> list[int]:
        """One request in flight, batch size by batch size; returns the batch sizes that may hold the target."""
        sizes = sorted(self._survey.limits.ceilings)
        target_s = self._survey.target_p95_s
        good = []
        for size in sizes:
            # without a target only the ends are of interest: the least latency, and where the climb begins
            if target_s is None and size not in (sizes[0], sizes[-1]):
                good.append(size)
                continue
            record = self._survey.visit("floor", Point(size, 1))
            if self.findings.floor is None:
                self.findings.floor = record
                self._learn_tokens(record)
            if not record.works:
                if size in self._survey.limits.ceilings:
                    self.findings.notes.append(f"batch size {size} left out: {_errors_of(record)}")
                continue
            if not record.holds(target_s):
                break  # a larger request takes longer still
            good.append(size)
        return good

    def _learn_tokens(self, record: Record) -> None:
        ratio = record.characters_per_token
        if ratio is not None:
            self.findings.characters_per_token = ratio
            self.findings.tokens_estimated = False


def slowdown_by_mixing(mixed: Visit, alike: Visit) -> float:
    """How much longer a request with texts of any length takes than one of like lengths with as many characters.

    Both were sent one at a time, so a latency is the time that the server worked on one request. A straight line
    through those of like lengths says what a request with the characters of a mixed one should take.
    """
    ratios, weights = [], []
    for server in np.unique(mixed.servers):
        here, there = mixed.servers == server, alike.servers == server
        if there.sum() < 3:
            continue
        characters, latencies_s = alike.characters[there], alike.latencies_s[there]
        if np.ptp(characters) > 0:
            slope, start_s = np.polyfit(characters, latencies_s, 1)
        else:
            slope, start_s = 0.0, float(latencies_s.mean())
        expected_s = start_s + slope * float(mixed.characters[here].mean())
        if expected_s > 0:
            ratios.append(float(mixed.latencies_s[here].mean()) / expected_s)
            weights.append(int(here.sum()))
    return float(np.average(ratios, weights=weights)) if ratios else 1.0


def _errors_of(record: Record) -> str:
    """The errors of a point in words."""
    errors = record.errors
    if not errors:
        return "no request was answered in time"
    return "requests failed (" + ", ".join(f"{count} {kind}" for kind, count in errors.most_common()) + ")"


def _nothing_works(findings: Findings) -> ConfigError | ServersUnavailable:
    """No request was answered with vectors: is it what was asked, or who was asked?"""
    failed = [record for record in findings.records.values() if record.errors]
    what = "; ".join(f"batch size {record.point.batch_size}: {_errors_of(record)}" for record in failed)
    kinds = {FailureKind(kind) for record in failed for kind in record.errors}
    if kinds and all(ACTIONS[kind] is Action.DIVIDE and kind is not FailureKind.BACKEND for kind in kinds):
        return ConfigError(f"the servers refuse these texts ({what}): look at --truncate, --prompt and the texts")
    return ServersUnavailable(f"no point can be measured ({what or 'no request was answered in time'})")
