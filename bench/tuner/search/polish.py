"""The polish: which points around a chosen one hold the target, looked at until that is certain or the time is over.

Going once round all texts tells the 95th percentile of a fleet that pads, or whose servers are unlike, to some 7%, and
the rate to 1%: how requests meet in GPU batches is a matter of luck. Which one of a dozen points near the target seems
to hold it is luck then, and each request in flight less costs throughput. So a point is looked at again and again, each
time for several times round, and every time round counts as one draw of its percentile. Whatever may bring more than
what is certain already is looked at, in this order:

    above     the next step up, where latency leaves room for it
    likely    points that seem to hold the target and are certain soon if they go on so, the soonest first
    between   a point that brings too little and the next larger one, which may miss the target
    below     the next step down, where nothing is certain yet
    possible  points at the target, of which it may never be certain

A point is certain when its percentile keeps two standard errors away from the target.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.tuner.measure.visit import Point, Visit
from bench.tuner.search.findings import INDIFFERENCE
from bench.tuner.search.record import Record
from bench.tuner.search.survey import Survey

CYCLES = 3
"""Times round all texts of one look, from the second look at a point on: a warm-up takes half as long as one."""
CERTAIN = 2.0
"""Standard errors between a percentile and the target from which on it is certain to hold or to miss it."""
UNKNOWN_SCATTER, LEAST_SCATTER = 0.07, 0.005
"""Of a percentile from one time round to the next, as a share of it: as long as too few looks tell, and at least."""
_LOOKS_THAT_TELL = 8
_FINEST_STEP = 24
"""Part of the requests in flight that is the least step: 4% of latency is less of throughput."""
SOON = 4 * CYCLES
"""Times round all texts with which a point has to be certain if it is to be looked at before others are."""
_AIM = 0.98
"""Share of the target that a step aims at."""


@dataclass(slots=True)
class Polish:
    """Looks at the points around a chosen one.

    Attributes:
        survey: What the search shares.
        target_s: What the 95th percentile of latency is to stay within.
        worth_beating: Documents a second below which a point is of no use.
        looked_at: The points that were looked at.
    """

    survey: Survey
    target_s: float
    worth_beating: float = 0.0
    looked_at: set[Point] = field(default_factory=set)

    def run(self, chosen: Point) -> frozenset[Point]:
        """Look at the points around a chosen one; returns those that hold the target for certain."""
        for size, ceiling in sorted(self.survey.limits.ceilings.items()):
            if self.survey.has_time():
                self._look(Point(size, min(ceiling, max(1, chosen.texts_in_flight // size))))
        while self.survey.has_time() and (point := self._next()) is not None:
            self._look(point)
        return frozenset(point for point in self.looked_at if self._is_certain(point))

    def _look(self, point: Point) -> None:
        """Once, and longer from the second time on; a visit of another kind before it counts no longer."""
        self.survey.visit("final", point, repeat=True, cycles=CYCLES if point in self.looked_at else 1)
        self.looked_at.add(point)

    def _next(self) -> Point | None:
        """What to look at next, None when the best point is certain."""
        certain = (self._per_s(point) for point in self.looked_at if self._is_certain(point))
        worth_it = (1 + INDIFFERENCE) * max(self.worth_beating, *certain, 0.0)
        steps = (self._above, self._likely, self._between, self._below, self._possible)
        return next((point for step in steps for point in step(worth_it)), None)

    def _above(self, worth_it: float) -> Iterator[Point]:
        for known in self._by_size():
            most = known[-1]
            if not self._works(most):
                continue
            size, there = most.batch_size, most.concurrency
            above = max(there + _step(there), min(2 * there, self._aimed(most)))
            above = min(self.survey.limits.ceilings[size], above)
            growth = 1 + (above / there - 1) / 2  # of latency, at least about; in proportion where servers are full
            promise = self._per_s(most) * self.survey.findings.growth(most.texts_in_flight, size * above)
            if above > there and growth * self._p95_s(most) <= self.target_s and promise > worth_it:
                yield Point(size, above)

    def _likely(self, worth_it: float) -> list[Point]:
        seem_to = (point for point in self._open(worth_it) if self._p95_s(point) <= self.target_s)
        return sorted((point for point in seem_to if self._cycles_needed(point) <= SOON), key=self._cycles_needed)

    def _possible(self, worth_it: float) -> list[Point]:
        return sorted(self._open(worth_it), key=self._cycles_needed)

    def _open(self, worth_it: float) -> list[Point]:
        return [
            point
            for point in self.looked_at
            if self._per_s(point) > worth_it and self._may_hold(point) and not self._is_certain(point)
        ]

    def _between(self, worth_it: float) -> Iterator[Point]:
        for known in self._by_size():
            for low, high in itertools.pairwise(known):
                middle = (low.concurrency + high.concurrency) // 2
                gap = self._may_hold(low) and self._per_s(low) <= worth_it < self._per_s(high)
                if gap and middle - low.concurrency >= _step(low.concurrency):
                    yield Point(low.batch_size, middle)

    def _below(self, worth_it: float) -> Iterator[Point]:
        for known in self._by_size():
            least = known[0]
            there = least.concurrency
            if there > 1 and not self._is_certain(least) and self._per_s(least) > worth_it:
                aimed = self._aimed(least) if self._works(least) else there // 2
                yield Point(least.batch_size, min(there - _step(there), max(there // 2, aimed)))

    def _aimed(self, point: Point) -> int:
        """Requests in flight that should just hold the target, where latency grows with what is in flight."""
        return int(point.concurrency * _AIM * self.target_s / self._p95_s(point))

    def _by_size(self) -> list[list[Point]]:
        """The points that were looked at, of each batch size those with less in flight first."""
        sizes = sorted({point.batch_size for point in self.looked_at})
        return [sorted(point for point in self.looked_at if point.batch_size == size) for size in sizes]

    # -- what the looks say ----------------------------------------------------------------------------

    def _record(self, point: Point) -> Record:
        return self.survey.findings.records[point]

    def _works(self, point: Point) -> bool:
        return self._record(point).works

    def _per_s(self, point: Point) -> float:
        return self._record(point).rate.per_s

    def _p95_s(self, point: Point) -> float:
        return self._record(point).p_s(0.95)

    def _cycles(self, point: Point) -> int:
        """How often all texts were gone round there."""
        return sum(_cycles_of(visit) for visit in self._record(point).repeats)

    def _is_certain(self, point: Point) -> bool:
        enough = self._cycles(point) > CYCLES
        return enough and self._works(point) and self._p95_s(point) * (1 + self._doubt(point)) <= self.target_s

    def _may_hold(self, point: Point) -> bool:
        return self._works(point) and self._p95_s(point) * (1 - self._doubt(point)) <= self.target_s

    def _doubt(self, point: Point) -> float:
        """By which share a percentile may be wrong."""
        return CERTAIN * self._scatter() / math.sqrt(max(1, self._cycles(point)))

    def _cycles_needed(self, point: Point) -> float:
        """Times round all texts after which it is certain what a point does, by what it did; once says little."""
        if self._cycles(point) < CYCLES:
            return 0.0
        distance = max(1e-3, abs(self._p95_s(point) / self.target_s - 1))
        return (CERTAIN * self._scatter() / distance) ** 2

    def _scatter(self) -> float:
        """How a percentile scatters from one time round to the next, as a share of it; as at any point around here."""
        squares, degrees = 0.0, 0
        for point in self.looked_at:
            looks = [
                (_cycles_of(visit), visit.p_s(0.95)) for visit in self._record(point).repeats if len(visit.latencies_s)
            ]
            if len(looks) > 1:
                mean_s = math.fsum(n * p95_s for n, p95_s in looks) / sum(n for n, _ in looks)
                squares += math.fsum(n * (p95_s / mean_s - 1) ** 2 for n, p95_s in looks)
                degrees += len(looks) - 1
        found = math.sqrt(squares / degrees) if degrees else 0.0
        return max(found, UNKNOWN_SCATTER if degrees < _LOOKS_THAT_TELL else LEAST_SCATTER)


def _cycles_of(visit: Visit) -> int:
    return max(1, int(visit.coverage))


def _step(concurrency: int) -> int:
    return max(1, concurrency // _FINEST_STEP)
