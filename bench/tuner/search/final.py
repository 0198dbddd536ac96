"""The final round: points that may be the best are repeated in shuffled order, then one of them is chosen."""

from __future__ import annotations

from collections.abc import Collection

from bench.tuner.measure.visit import Point
from bench.tuner.search.findings import INDIFFERENCE, Findings
from bench.tuner.search.record import Record
from bench.tuner.search.survey import ROUNDS, Survey

NEAR = 0.025
"""Points that come so near to the best are repeated."""
MAX_CONTENDERS = 3
_SURE_ROUNDS = 2
P95_MARGIN = 0.99
"""Share of the target that a chosen point's 95th percentile may take: a following run is not the same minute."""
STILL_GOOD = 0.97
"""Share of the chosen throughput down to which a point with more in flight may be the ceiling of a run."""

_MAX_DESCENTS = 3
_LIKE_IN_FLIGHT = 0.1
_SIMILAR_LATENCY = 1.1


class FinalRound:
    """The last part of a search: repeats the contenders and chooses among them."""

    def __init__(self, survey: Survey) -> None:
        self._survey = survey
        self._findings: Findings = survey.findings
        self._target_s = survey.target_p95_s

    def run(self) -> None:
        """Repeat the contenders; when none of them holds the target after all, those just below them."""
        for _ in range(_MAX_DESCENTS):
            contenders = self._repeat_all_near()
            if any(self._holds_for_sure(record) for record in contenders) or not self._survey.has_time():
                return
            for record in contenders:
                if record.point.concurrency > 1:
                    self._survey.visit("refine", Point(record.point.batch_size, record.point.concurrency - 1))

    def _repeat_all_near(self) -> list[Record]:
        """Repeat the contenders, and whatever a single visit shows above them: it may have been lucky, or they not."""
        contenders = self._contenders()
        self._repeat(contenders)
        while self._survey.has_time():
            repeated = [record for record in self._findings.within(self._target_s) if record.repeats]
            if not repeated:
                break  # nothing to be above of: what lies below the contenders comes before whatever else there is
            best_per_s = max(record.rate.per_s for record in repeated)
            above = [
                record
                for record in self._findings.within(self._target_s)
                if not record.repeats and record.rate.per_s > (1 + INDIFFERENCE) * best_per_s
            ]
            if not above:
                break
            above.sort(key=lambda record: record.rate.per_s, reverse=True)
            contenders += above[:MAX_CONTENDERS]
            self._repeat(above[:MAX_CONTENDERS])
        return contenders

    def _contenders(self) -> list[Record]:
        """The points that may turn out to be the best; of equals with as many texts in flight only one."""
        works = [record for record in self._findings.records.values() if record.holds(self._target_s)]
        best_per_s = max((record.rate.per_s for record in works), default=0.0)
        near = [record for record in works if record.rate.per_s >= (1 - NEAR) * best_per_s]
        # of equals, larger requests are less work for everybody
        near.sort(key=lambda record: (record.rate.per_s // (INDIFFERENCE * best_per_s), record.point.batch_size))
        different: list[Record] = []
        for record in reversed(near):
            in_flight = record.point.texts_in_flight
            if all(abs(in_flight / other.point.texts_in_flight - 1) > _LIKE_IN_FLIGHT for other in different):
                different.append(record)
        if len(different) > MAX_CONTENDERS:
            # the quickest to answer is wanted as well as the best
            quickest = min(different[MAX_CONTENDERS - 1 :], key=lambda record: record.p_s(0.95))
            different = [*different[: MAX_CONTENDERS - 1], quickest]
        return different

    def _repeat(self, contenders: list[Record]) -> None:
        fresh = [record for record in contenders if not record.repeats]
        self._findings.contenders += [record.point for record in fresh]
        for number in range(ROUNDS):
            # a third time only what two rounds have not made sure of
            order = [record for record in contenders if number < _SURE_ROUNDS or self._is_open(record)]
            self._survey.rng.shuffle(order)
            for record in order:
                if len(record.repeats) > number:
                    continue
                if not self._survey.has_time():
                    return
                self._survey.visit("final", record.point, repeat=True)

    def _is_open(self, record: Record) -> bool:
        """Whether two rounds differ so much, or come so near to the target, that a third could change the choice."""
        target_s = self._target_s
        rates = [visit.rate.per_s for visit in record.repeats]
        if max(rates) - min(rates) > 2 * INDIFFERENCE * max(rates):
            return True
        return target_s is not None and abs(record.p_s(0.95) / target_s - 1.0) < 2 * (1 - P95_MARGIN)

    def choose(self, certain: Collection[Point] | None = None) -> None:
        """Put the operating point, and the ceiling of a run, into the findings.

        Args:
            certain: Points that hold the target for certain, which come first; None for those that hold it by a margin.
        """
        findings, target_s = self._findings, self._target_s
        pool = [record for record in findings.records.values() if record.repeats and record.holds(target_s)]
        sure = [record for record in pool if self._holds_for_sure(record)]
        sure = [record for record in sure if certain is None or record.point in certain] or sure
        pool = sure or pool or [record for record in findings.records.values() if record.holds(self._target_s)]
        if not pool:
            return
        best_per_s = max(record.rate.per_s for record in pool)
        equals = [record for record in pool if record.rate.per_s >= (1 - INDIFFERENCE) * best_per_s]
        quickest_s = min(record.p_s(0.95) for record in equals)
        quick = [record for record in equals if record.p_s(0.95) <= _SIMILAR_LATENCY * quickest_s]
        # of equals, larger requests are less work for everybody
        findings.chosen = max(quick, key=lambda record: (record.point.batch_size, -record.point.concurrency))
        chosen = findings.chosen
        findings.ceiling = max(
            record.point.concurrency
            for record in findings.records.values()
            if record is chosen
            or (
                record.point.batch_size == chosen.point.batch_size
                and record.point.concurrency > chosen.point.concurrency
                and record.holds(target_s)
                and record.rate.per_s >= STILL_GOOD * chosen.rate.per_s
            )
        )

    def _holds_for_sure(self, record: Record) -> bool:
        return record.holds(None if self._target_s is None else P95_MARGIN * self._target_s)
