"""Findings: what a search knows of all points so far, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bench.tuner.measure.visit import Point
from bench.tuner.search.record import Record

INDIFFERENCE = 0.01
"""Points whose throughput differs by less are equally good."""

FULL_QUEUE = 1.25
"""GPU batches that a text waits for when GPU batches are full."""

DEFAULT_CHARACTERS_PER_TOKEN = 4.0


@dataclass(slots=True)
class Findings:
    """Every point that a search has visited, and what it chose; complete once the search has ended.

    Attributes:
        records: Every point that was visited.
        chosen: The operating point, or None.
        contenders: Points that were repeated in the final.
        floor: One request of the smallest batch size in flight at each server.
        ceiling: Largest requests in flight of the chosen batch size that were measured and still good.
        sorting_gain: Throughput with like lengths together per throughput in natural order, or None.
        bucketing: Whether the run should sort, and whether the points were measured so.
        characters_per_text: Mean of the texts.
        characters_per_token: As the servers count, or an estimate.
        tokens_estimated: Whether that is an estimate.
        notes: Sentences on what happened on the way.
        seconds: The search took so long.
        ended: Whether the search came to its end.
        left_at_per_s: What was reached when it was clear that another setting of the servers brings more, or None.
    """

    records: dict[Point, Record] = field(default_factory=dict)
    chosen: Record | None = None
    contenders: list[Point] = field(default_factory=list)
    floor: Record | None = None
    ceiling: int = 1
    sorting_gain: float | None = None
    bucketing: bool = True
    characters_per_text: float = 0.0
    characters_per_token: float = DEFAULT_CHARACTERS_PER_TOKEN
    tokens_estimated: bool = True
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    ended: bool = False
    left_at_per_s: float | None = None

    def tokens_per_s(self, record: Record) -> float:
        """Tokens a second at a point: its documents, as long as the texts are on average."""
        return record.rate.per_s * self.characters_per_text / (record.characters_per_token or self.characters_per_token)

    def within(self, target_p95_s: float | None) -> list[Record]:
        """The points that work and hold the target."""
        return [record for record in self.records.values() if record.holds(target_p95_s)]

    def best(self, target_p95_s: float | None) -> Record | None:
        """The one of them with the highest throughput."""
        return max(self.within(target_p95_s), key=lambda record: record.rate.per_s, default=None)

    def best_of_others(self, batch_size: int, target_p95_s: float | None) -> float:
        """Documents a second that the other batch sizes reach within the target, 0 when there is none."""
        rivals = (record for record in self.within(target_p95_s) if record.point.batch_size != batch_size)
        return max((record.rate.per_s for record in rivals), default=0.0)

    def of_size(self, batch_size: int) -> list[Record]:
        """The points of a batch size, from few to many in flight."""
        records = [record for point, record in self.records.items() if point.batch_size == batch_size]
        return sorted(records, key=lambda record: record.point.concurrency)

    def growth(self, low: int, high: int) -> float:
        """By which factor throughput grows from `low` to `high` texts in flight, by all points that work."""
        known: dict[int, float] = {}
        for point, record in self.records.items():
            if record.works:
                known[point.texts_in_flight] = max(known.get(point.texts_in_flight, 0.0), record.rate.per_s)
        in_flight = sorted(known)
        rates = np.maximum.accumulate([known[count] for count in in_flight])
        top = float(np.interp(high, in_flight, rates))
        if high > in_flight[-1] and len(in_flight) >= 2:
            slope = (rates[-1] - rates[-2]) / (in_flight[-1] - in_flight[-2])
            top += float(slope) * (high - in_flight[-1])
        return min(top / float(np.interp(low, in_flight, rates)), high / low)

    def knee(self, batch_size: int, target_p95_s: float | None) -> Record | None:
        """The least in flight, of a batch size, that brings nearly all that any point of it brought in the target."""
        records = [record for record in self.of_size(batch_size) if record.holds(target_p95_s)]
        most = max((record.rate.per_s for record in records), default=0.0)
        return next((record for record in records if record.rate.per_s >= (1 - 2 * INDIFFERENCE) * most), None)

    def nearest(self) -> Record | None:
        """The point with the least 95th percentile."""
        works = self.within(None)
        return min(works, key=lambda record: record.p_s(0.95), default=None)


def is_full(record: Record) -> bool:
    """Whether GPU batches are full, so that more in flight only waits; unknown counts as yes.

    With two requests in flight a text waits for one GPU batch at most, however small those are. It waits for longer
    only once there is more than fits into the next one.
    """
    split = record.split
    return not split.known or split.queue_s >= FULL_QUEUE * split.inference_s
