"""The climb: with one batch size, from few requests in flight upward for as long as throughput grows."""

from __future__ import annotations

from bench.tuner.measure.visit import Point
from bench.tuner.search.findings import Findings, is_full
from bench.tuner.search.record import Record
from bench.tuner.search.survey import Survey

PAYING_GROWTH = 0.02
"""Growth of throughput by which doubling what is in flight pays."""
WORTH_TRYING = 0.003
"""Gain that a batch size has to promise to be tried further: less than what is indifferent, for a promise is rough."""
NEAR = 0.025
"""Batch sizes that stay further behind the best are not refined."""

_MORE_THAN_PROPORTIONAL = 1.15
_KNEE_STEPS = 2


class Climb:
    """Climbs with one batch size after the other."""

    def __init__(self, survey: Survey) -> None:
        self._survey = survey
        self._findings: Findings = survey.findings
        self._target_s = survey.target_p95_s

    def start_of(self, size: int) -> int:
        """Where another batch size begins: with as many texts in flight as the first one needed."""
        best = self._findings.best(self._target_s)
        if best is None:
            return 1
        turn = self._findings.knee(best.point.batch_size, self._target_s) or best
        return max(1, min(self._survey.limits.ceilings[size], round(turn.point.texts_in_flight / size)))

    def climb(self, size: int, start: int) -> None:
        """Double while it pays, then look between the last good point and the first that was not."""
        good: Record | None = None
        bad: int | None = None
        concurrency = start
        ceiling = self._survey.limits.ceilings[size]
        flat = 0
        while self._survey.has_time():
            record = self._survey.visit("climb", Point(size, concurrency), before=good)
            if not record.holds(self._target_s):
                bad = concurrency
                if good is not None or concurrency == 1:
                    break
                if concurrency == 2 and (one := self._findings.records.get(Point(size, 1))) is not None:
                    good = one if one.holds(self._target_s) else None
                    break
                concurrency = max(1, self._aim(size, concurrency))
                continue
            paid = good is None or record.rate.per_s >= good.rate.per_s * (1 + PAYING_GROWTH)
            flat = 0 if paid else flat + 1
            if good is None or record.rate.per_s > good.rate.per_s:
                good = record
            if bad is not None or concurrency >= ceiling or self._cannot_win(record):
                break
            if flat >= 2 or (flat == 1 and is_full(record)):
                break
            if self._is_late_by_littles_law(size, min(ceiling, 2 * concurrency)):
                bad = min(ceiling, 2 * concurrency)
                break
            concurrency = min(ceiling, 2 * concurrency)
        if good is not None and not self._cannot_win(good):
            self._refine(size, good, bad)

    def _aim(self, size: int, concurrency: int) -> int:
        """Requests in flight that should just hold the target, judged by a point that did not."""
        record = self._findings.records[Point(size, concurrency)]
        target_s = self._target_s
        if target_s is None or not record.works:
            return concurrency // 2
        aimed = int(concurrency * 0.97 * target_s / max(record.p_s(0.95), record.mean_latency_s))
        return min(concurrency - 1, max(concurrency // 4, aimed))

    def _is_late_by_littles_law(self, size: int, concurrency: int) -> bool:
        """Whether the mean latency, in flight per rate, is above the target whatever is measured there.

        Full servers do not get faster by having more in flight; a tenth is granted all the same.
        """
        target_s, best = self._target_s, self._findings.best(self._target_s)
        if target_s is None or best is None or not best.split.known or not is_full(best):
            return False
        return size * concurrency * self._survey.n_servers / (1.1 * best.rate.per_s) > target_s

    def _cannot_win(self, record: Record) -> bool:
        """Whether a batch size would not be better than the others even with as much in flight as it may have.

        What more in flight would bring is read off what it brought the others.
        """
        size, in_flight = record.point.batch_size, record.point.texts_in_flight
        reach = self._survey.limits.ceilings[size]
        target_s = self._target_s
        if target_s is not None:
            # latency grows with what is in flight, but not from nothing
            reach = min(reach, int(_MORE_THAN_PROPORTIONAL * record.point.concurrency * target_s / record.p_s(0.95)))
        promise = record.rate.per_s
        if reach > record.point.concurrency:
            promise *= self._findings.growth(in_flight, reach * size)
        return promise < self._findings.best_of_others(size, self._target_s) * (1 + WORTH_TRYING)

    def _refine(self, size: int, good: Record, bad: int | None) -> None:
        if bad is not None:
            self._refine_to_target(size, good, bad)
        else:
            self._refine_knee(size)

    def _refine_to_target(self, size: int, good: Record, bad: int) -> None:
        """The most in flight that still holds the target."""
        target_s = self._target_s
        while self._survey.has_time() and bad - good.point.concurrency > 1:
            low = good.point.concurrency
            failed = self._findings.records.get(Point(size, bad))
            if failed is not None and failed.works and failed.rate.high < good.rate.per_s * (1 + 2 * WORTH_TRYING):
                return  # the knee lies below: more in flight would bring nothing
            promise = good.rate.per_s * self._findings.growth(size * low, size * (bad - 1))
            if promise < self._findings.best_of_others(size, self._target_s) * (1 + WORTH_TRYING):
                return  # another batch size has got there already
            reach = 0.5
            if target_s is not None and (failed is None or failed.works):
                below = good.p_s(0.95)
                # latency grows about with what is in flight
                above = max(failed.p_s(0.95), failed.mean_latency_s) if failed is not None else below * bad / low
                reach = min(0.9, max(0.1, (0.98 * target_s - below) / max(above - below, 1e-9)))
            middle = min(bad - 1, max(low + 1, low + round((bad - low) * reach)))
            if Point(size, middle) in self._findings.records:
                return
            record = self._survey.visit("refine", Point(size, middle))
            if record.holds(self._target_s):
                if record.rate.per_s < good.rate.per_s * (1 + WORTH_TRYING / 2) and bad - middle < middle - low:
                    return
                good = record
            else:
                bad = middle

    def _refine_knee(self, size: int) -> None:
        """The least in flight that brings as much as any: halve the last step that paid, twice."""
        for _ in range(_KNEE_STEPS):
            points = self._findings.of_size(size)
            best_per_s = max(record.rate.per_s for record in points)
            leader = self._findings.best(self._target_s)
            if leader is None or best_per_s < (1 - NEAR) * leader.rate.per_s or not self._survey.has_time():
                return
            at = next(i for i, record in enumerate(points) if record.rate.per_s >= best_per_s * (1 - WORTH_TRYING))
            high = points[at].point.concurrency
            low = points[at - 1].point.concurrency if at else 0
            middle = (low + high) // 2
            if middle <= low or high - low <= max(1, high // 4):
                return
            self._survey.visit("refine", Point(size, middle))
