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

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from bench.tuner.corpus import WINDOW_TEXTS, Corpus, Order
from bench.tuner.limits import Limits
from bench.tuner.load import Load
from bench.tuner.measure import Outcome, Point, Rules, Visit, measure
from bench.tuner.record import Record

INDIFFERENCE = 0.01
"""Points whose throughput differs by less are equally good."""
PAYING_GROWTH = 0.03
"""Growth of throughput by which doubling what is in flight pays."""
HOPELESS = 0.97
"""A point that certainly stays below this share of the best is not looked at any longer."""
NEAR = 0.025
"""Points that come so near to the best are repeated in the final."""
MAX_CONTENDERS = 3
ROUNDS = 3
P95_MARGIN = 0.99
"""Share of the target that a chosen point's 95th percentile may take: a following run is not the same minute."""

PAYING_ORDER = 1.03
"""Gain by sorting below which a run does better without: unsorted, latencies are more even."""

FULL_QUEUE = 1.25
"""GPU batches that a text waits for when GPU batches are full."""

_FLOOR_PRECISION = 0.1
_CLIMB_PRECISION = 0.04
_FINAL_PRECISION = 0.03
_TEXTS_THAT_SHOW_PADDING = 16
_MORE_THAN_PROPORTIONAL = 1.15
_EXPLORING_SHARE = 0.6
_SIMILAR_LATENCY = 1.1
_MIN_CYCLE_TEXTS = 256
_CYCLE_SHARE_OF_A_VISIT = 0.8
_SAMPLE_TEXTS = 2 * WINDOW_TEXTS
_DEFAULT_BATCH_TOKENS = 16_384
_DEFAULT_CHARACTERS_PER_TOKEN = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneConfig:
    """What to look for, and how long.

    Attributes:
        target_p95_s: Bound on the 95th percentile of request latency, or None.
        seconds: Steady state of one visit to a point, at most.
        max_seconds: The whole search, at most.
        seed: Of the order in which contenders are repeated.
    """

    target_p95_s: float | None = None
    seconds: float = 10.0
    max_seconds: float = 300.0
    seed: int = 0


@dataclass(slots=True)
class Findings:
    """What is known so far; complete once the search has ended.

    Attributes:
        records: Every point that was visited.
        chosen: The operating point, or None.
        contenders: Points that were repeated in the final.
        floor: One request of the smallest batch size in flight at each server.
        ceiling: Largest requests in flight of the chosen batch size that were measured and still good.
        sorting_gain: Throughput with like lengths together per throughput in natural order, or None.
        bucketing: Whether the run should sort, and whether the points were measured so.
        characters_per_token: As the servers count, or an estimate.
        tokens_estimated: Whether that is an estimate.
        notes: Sentences on what happened on the way.
        seconds: The search took so long.
        ended: Whether the search came to its end.
    """

    records: dict[Point, Record] = field(default_factory=dict)
    chosen: Record | None = None
    contenders: list[Point] = field(default_factory=list)
    floor: Record | None = None
    ceiling: int = 1
    sorting_gain: float | None = None
    bucketing: bool = True
    characters_per_token: float = _DEFAULT_CHARACTERS_PER_TOKEN
    tokens_estimated: bool = True
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    ended: bool = False


Listener = Callable[[str, Visit], None]


class Search:
    """One search.

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
        self.findings = Findings()
        self._load = load
        self._corpus = corpus
        self._limits = limits
        self._config = config
        self._rng = random.Random(config.seed)
        self._listener = listener
        self._began_s = load.now_s()
        self._exploring = True
        self._gpu_batch_tokens = max_batch_tokens or _DEFAULT_BATCH_TOKENS
        self._dense_texts: int | None = None

    def run(self) -> Findings:
        """Search; `findings` holds everything, also when this is interrupted.

        Raises:
            ServersUnavailable, ConfigError: see `bench.tuner.load.FleetLoad.step`.
        """
        findings = self.findings
        self._decide_order()
        sizes = self._floors()
        if sizes:
            first = sizes[-1]
            self._climb(first, 1)
            for size in reversed(sizes[:-1]):
                self._climb(size, self._start_of(size))
            self._exploring = False
            self._final()
            self._choose()
        if not self._time_left():
            findings.notes.append(
                f"--max-seconds {self._config.max_seconds:g} was used up: more time may find a better point"
            )
        findings.seconds = self._load.now_s() - self._began_s
        findings.ended = True
        return findings

    # -- 1. order --------------------------------------------------------------------------------------

    def _decide_order(self) -> None:
        """Send texts of like length together, then as they come: a server that pads is faster with the former."""
        size = max(self._limits.ceilings)
        concurrency = min(self._limits.ceilings[size], -(-_TEXTS_THAT_SHOW_PADDING // size))
        like = Order.SPREAD if concurrency <= 2 else Order.SORTED
        visits = []
        for order in (Order.NATURAL, like):
            cycle = self._corpus.cycle(size, self._cycle_texts(order), order, self._rng)
            visit = measure(self._load, cycle, concurrency, Rules(max_s=self._slice_s() / 2, precision=_FLOOR_PRECISION))
            self._tell("order", visit)
            visits.append(visit)
        natural, sorted_ = visits
        if not natural.n_texts or not sorted_.n_texts:
            return
        gain = slowdown_by_mixing(natural, sorted_) if concurrency == 1 else sorted_.rate.per_s / natural.rate.per_s
        self.findings.sorting_gain = gain
        self.findings.bucketing = gain >= PAYING_ORDER
        point = Point(size, concurrency)
        self.findings.records[point] = Record(point, [sorted_ if self.findings.bucketing else natural])

    # -- 2. floor --------------------------------------------------------------------------------------

    def _floors(self) -> list[int]:
        """One request in flight, batch size by batch size; returns the batch sizes that may hold the target."""
        sizes = sorted(self._limits.ceilings)
        target_s = self._config.target_p95_s
        good = []
        for size in sizes:
            # without a target only the ends are of interest: the least latency, and where the climb begins
            if target_s is None and size not in (sizes[0], sizes[-1]):
                good.append(size)
                continue
            record = self._visit("floor", Point(size, 1))
            if self.findings.floor is None:
                self.findings.floor = record
                self._learn_tokens(record)
            if not record.works:
                continue
            if not record.holds(target_s):
                break  # a larger request takes longer still
            good.append(size)
        return good

    def _learn_tokens(self, record: Record) -> None:
        visit = record.counted[0]
        if visit.tokens_exact and visit.n_tokens:
            self.findings.characters_per_token = visit.n_characters / visit.n_tokens
            self.findings.tokens_estimated = False

    # -- 3. and 4. climb -------------------------------------------------------------------------------

    def _start_of(self, size: int) -> int:
        """Where another batch size begins: with as many texts in flight as the first one needed."""
        best = self._best()
        if best is None:
            return 1
        turn = knee(self.findings, best.point.batch_size, self._config.target_p95_s) or best
        return max(1, min(self._limits.ceilings[size], round(turn.point.texts_in_flight / size)))

    def _climb(self, size: int, start: int) -> None:
        """Double while it pays, then look between the last good point and the first that was not."""
        good: Record | None = None
        bad: int | None = None
        concurrency = start
        ceiling = self._limits.ceilings[size]
        flat = 0
        while self._time_left():
            record = self._visit("climb", Point(size, concurrency), before=good)
            if not self._is_good(record):
                bad = concurrency
                if good is not None or concurrency == 1:
                    break
                if self._known(size, 1) is not None and concurrency == 2:
                    good = self._known(size, 1)
                    break
                concurrency = max(1, self._aim(size, concurrency))
                continue
            paid = good is None or record.rate.per_s >= good.rate.per_s * (1 + PAYING_GROWTH)
            flat = 0 if paid else flat + 1
            if good is None or record.rate.per_s > good.rate.per_s:
                good = record
            if bad is not None or concurrency >= ceiling or self._cannot_win(record):
                break
            if flat >= 2 or (flat == 1 and _is_full(record)):
                break
            if self._is_late_by_littles_law(size, min(ceiling, 2 * concurrency)):
                bad = min(ceiling, 2 * concurrency)
                break
            concurrency = min(ceiling, 2 * concurrency)
        if good is not None and not self._cannot_win(good):
            self._refine(size, good, bad)

    def _aim(self, size: int, concurrency: int) -> int:
        """Requests in flight that should just hold the target, judged by a point that did not."""
        record = self.findings.records[Point(size, concurrency)]
        target_s = self._config.target_p95_s
        if target_s is None or not record.works:
            return concurrency // 2
        aimed = int(concurrency * 0.97 * target_s / max(record.p_s(0.95), record.mean_latency_s))
        return min(concurrency - 1, max(concurrency // 4, aimed))

    def _is_late_by_littles_law(self, size: int, concurrency: int) -> bool:
        """Whether the mean latency, in flight per rate, is above the target whatever is measured there.

        Full servers do not get faster by having more in flight; a tenth is granted all the same.
        """
        target_s, best = self._config.target_p95_s, self._best()
        if target_s is None or best is None or not best.split.known or not _is_full(best):
            return False
        return size * concurrency * self._load.n_servers / (1.1 * best.rate.per_s) > target_s

    def _cannot_win(self, record: Record) -> bool:
        """Whether a batch size would not be better than the others even with as much in flight as it may have.

        What more in flight would bring is read off what it brought the others.
        """
        size, in_flight = record.point.batch_size, record.point.texts_in_flight
        rivals = [other for point, other in self.findings.records.items() if point.batch_size != size]
        best_per_s = max((other.rate.per_s for other in rivals if self._is_good(other)), default=0.0)
        reach = self._limits.ceilings[size]
        target_s = self._config.target_p95_s
        if target_s is not None:
            # latency grows with what is in flight, but not from nothing
            reach = min(reach, int(_MORE_THAN_PROPORTIONAL * record.point.concurrency * target_s / record.p_s(0.95)))
        promise = record.rate.per_s
        if reach > record.point.concurrency:
            promise *= self._growth(in_flight, reach * size)
        return promise < best_per_s * (1 + INDIFFERENCE)

    def _growth(self, low: int, high: int) -> float:
        """By which factor throughput grows from `low` to `high` texts in flight, by all points that work."""
        known: dict[int, float] = {}
        for point, record in self.findings.records.items():
            if record.works:
                known[point.texts_in_flight] = max(known.get(point.texts_in_flight, 0.0), record.rate.per_s)
        in_flight = sorted(known)
        rates = np.maximum.accumulate([known[count] for count in in_flight])
        top = float(np.interp(high, in_flight, rates))
        if high > in_flight[-1] and len(in_flight) >= 2:
            slope = (rates[-1] - rates[-2]) / (in_flight[-1] - in_flight[-2])
            top += float(slope) * (high - in_flight[-1])
        return min(top / float(np.interp(low, in_flight, rates)), high / low)

    # -- 5. refine -------------------------------------------------------------------------------------

    def _refine(self, size: int, good: Record, bad: int | None) -> None:
        if bad is not None:
            self._refine_to_target(size, good, bad)
        else:
            self._refine_knee(size)

    def _refine_to_target(self, size: int, good: Record, bad: int) -> None:
        """The most in flight that still holds the target."""
        target_s = self._config.target_p95_s
        while self._time_left() and bad - good.point.concurrency > 1:
            low = good.point.concurrency
            failed = self.findings.records.get(Point(size, bad))
            if failed is not None and failed.works and failed.rate.high < good.rate.per_s * (1 + 2 * INDIFFERENCE):
                return  # the knee lies below: more in flight would bring nothing
            best = self._best()
            if best is not None and best.rate.per_s < good.rate.per_s * (1 + INDIFFERENCE) and _is_full(good):
                if best is not good:
                    return  # another batch size has got there already
            reach = 0.5
            if target_s is not None and (failed is None or failed.works):
                below = good.p_s(0.95)
                # latency grows about with what is in flight
                above = max(failed.p_s(0.95), failed.mean_latency_s) if failed is not None else below * bad / low
                reach = min(0.9, max(0.1, (0.98 * target_s - below) / max(above - below, 1e-9)))
            middle = min(bad - 1, max(low + 1, low + round((bad - low) * reach)))
            if Point(size, middle) in self.findings.records:
                return
            record = self._visit("refine", Point(size, middle))
            if self._is_good(record):
                if record.rate.per_s < good.rate.per_s * (1 + INDIFFERENCE / 2) and bad - middle < middle - low:
                    return
                good = record
            else:
                bad = middle

    def _refine_knee(self, size: int) -> None:
        """The least in flight that brings as much as any: halve the last step that paid, twice."""
        for _ in range(2):
            points = sorted(
                (record for point, record in self.findings.records.items() if point.batch_size == size),
                key=lambda record: record.point.concurrency,
            )
            best_per_s = max(record.rate.per_s for record in points)
            leader = self._best()
            if leader is None or best_per_s < (1 - NEAR) * leader.rate.per_s or not self._time_left():
                return
            at = next(i for i, record in enumerate(points) if record.rate.per_s >= best_per_s * (1 - INDIFFERENCE))
            high = points[at].point.concurrency
            low = points[at - 1].point.concurrency if at else 0
            middle = (low + high) // 2
            if middle <= low or high - low <= max(1, high // 4):
                return
            self._visit("refine", Point(size, middle))

    # -- 6. final --------------------------------------------------------------------------------------

    def _final(self) -> None:
        """Repeat the contenders; when none of them holds the target after all, those just below them."""
        for _ in range(3):
            contenders = self._contenders()
            self._repeat(contenders)
            if any(self._holds_for_sure(record) for record in contenders) or not self._time_left():
                return
            lower = [record.point.concurrency - 1 for record in contenders]
            for record, concurrency in zip(contenders, lower, strict=True):
                if concurrency >= 1:
                    self._visit("refine", Point(record.point.batch_size, concurrency))

    def _contenders(self) -> list[Record]:
        works = [record for record in self.findings.records.values() if self._is_good(record)]
        if not works:
            return []
        best_per_s = max(record.rate.per_s for record in works)
        near = [record for record in works if record.rate.per_s >= (1 - NEAR) * best_per_s]
        near.sort(key=lambda record: record.rate.per_s, reverse=True)
        if len(near) > MAX_CONTENDERS:
            # of many equals the quickest to answer is wanted as well as the best
            kept = near[: MAX_CONTENDERS - 1]
            kept.append(min(near[MAX_CONTENDERS - 1 :], key=lambda record: record.p_s(0.95)))
            near = kept
        return near

    def _repeat(self, contenders: list[Record]) -> None:
        fresh = [record for record in contenders if not record.repeats]
        self.findings.contenders += [record.point for record in fresh]
        for number in range(ROUNDS):
            order = contenders[:]
            self._rng.shuffle(order)
            for record in order:
                if len(record.repeats) > number:
                    continue
                if not self._time_left():
                    return
                self._visit("final", record.point, repeat=True)
            if number == 1 and self._is_decided(contenders):
                return

    def _is_decided(self, contenders: list[Record]) -> bool:
        """Whether two rounds agree so well that a third could hardly change the choice."""
        target_s = self._config.target_p95_s
        for record in contenders:
            first, second = (visit.rate.per_s for visit in record.repeats[:2])
            if abs(first - second) > 2 * INDIFFERENCE * max(first, second):
                return False
            if target_s is not None and abs(record.p_s(0.95) / target_s - 1.0) < 2 * (1 - P95_MARGIN):
                return False
        return True

    def _choose(self) -> None:
        findings, target_s = self.findings, self._config.target_p95_s
        pool = [record for record in findings.records.values() if record.repeats and record.holds(target_s)]
        sure = [record for record in pool if self._holds_for_sure(record)]
        pool = sure or pool or [record for record in findings.records.values() if self._is_good(record)]
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
                and record.rate.per_s >= HOPELESS * chosen.rate.per_s
            )
        )

    # -- visits ----------------------------------------------------------------------------------------

    def _visit(self, part: str, point: Point, *, before: Record | None = None, repeat: bool = False) -> Record:
        """Visit a point; a repeat is added to what is known of it."""
        record = self.findings.records.get(point)
        if record is not None and not repeat:
            return record
        rules = self._rules(part, point, before)
        order = Order.NATURAL
        if self.findings.bucketing:
            # two in flight already meet at the end of their latencies, which only a target asks for
            lonely = 1 if self._config.target_p95_s is not None else 2
            order = Order.SPREAD if point.concurrency <= lonely and not repeat else Order.SORTED
        cycle = self._corpus.cycle(point.batch_size, self._cycle_texts(order), order, self._rng)
        visit = measure(self._load, cycle, point.concurrency, rules)
        if record is None:
            record = self.findings.records[point] = Record(point)
        (record.repeats if repeat else record.visits).append(visit)
        self.findings.seconds = self._load.now_s() - self._began_s
        self._tell(part, visit)
        return record

    def _tell(self, part: str, visit: Visit) -> None:
        if self._listener is not None:
            self._listener(part, visit)

    def _rules(self, part: str, point: Point, before: Record | None) -> Rules:
        target_s, best = self._config.target_p95_s, self._best()
        if part == "floor":
            return Rules(max_s=self._slice_s() / 2, precision=_FLOOR_PRECISION, target_p95_s=target_s)
        if part == "final":
            return Rules(max_s=self._slice_s(), precision=_FINAL_PRECISION)
        climbing = part == "climb" and before is not None and point.concurrency < self._limits.ceilings[point.batch_size]
        return Rules(
            max_s=self._slice_s(),
            precision=_CLIMB_PRECISION,
            target_p95_s=target_s,
            must_reach=0.9 * best.rate.per_s if best is not None else None,
            grows_beyond=before.rate.per_s * 1.15 if climbing and before is not None else None,
        )

    def _cycle_texts(self, order: Order) -> int:
        """Texts of a cycle: as dense as a run's window where order matters, and short enough to be gone round."""
        if order is not Order.SORTED:
            return min(self._corpus.n_texts, _SAMPLE_TEXTS)
        best = max((record.rate.per_s for record in self.findings.records.values() if record.works), default=0.0)
        affordable = max(_MIN_CYCLE_TEXTS, _CYCLE_SHARE_OF_A_VISIT * self._slice_s() * best)
        if self._dense_texts is None:
            tokens = self._gpu_batch_tokens * self.findings.characters_per_token
            self._dense_texts = self._corpus.texts_for_density(self._load.n_servers * tokens)
        return int(min(affordable, self._dense_texts))

    def _slice_s(self) -> float:
        """Steady state of one visit, at most: what is asked for, while that leaves time for others."""
        return max(0.2, min(self._config.seconds, self._left_s() / 4))

    def _left_s(self) -> float:
        share = _EXPLORING_SHARE if self._exploring else 1.0
        return share * self._config.max_seconds - (self._load.now_s() - self._began_s)

    def _time_left(self) -> bool:
        return self._left_s() > 0.02 * self._config.max_seconds

    # -- judgement -------------------------------------------------------------------------------------

    def _known(self, size: int, concurrency: int) -> Record | None:
        record = self.findings.records.get(Point(size, concurrency))
        return record if record is not None and self._is_good(record) else None

    def _is_good(self, record: Record) -> bool:
        return record.holds(self._config.target_p95_s)

    def _holds_for_sure(self, record: Record) -> bool:
        target_s = self._config.target_p95_s
        return record.holds(None if target_s is None else P95_MARGIN * target_s)

    def _best(self) -> Record | None:
        good = [record for record in self.findings.records.values() if self._is_good(record)]
        return max(good, key=lambda record: record.rate.per_s, default=None)


def slowdown_by_mixing(mixed: Visit, alike: Visit) -> float:
    """How much longer a request with texts of any length takes than one of like lengths with as many characters.

    Both were sent one at a time, so a latency is the time that the server worked on one request. A straight line through
    those of like lengths says what a request of a mixed one's characters should take.
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


def _is_full(record: Record) -> bool:
    """Whether GPU batches are full, so that more in flight only waits; unknown counts as yes.

    With two requests in flight a text waits for one GPU batch at most, however small those are. It waits for longer
    only once there is more than fits into the next one.
    """
    split = record.split
    return not split.known or split.queue_s >= FULL_QUEUE * split.inference_s


def nearest(findings: Findings) -> Record | None:
    """The point with the least 95th percentile."""
    works = [record for record in findings.records.values() if record.works]
    return min(works, key=lambda record: record.p_s(0.95), default=None)


def knee(findings: Findings, batch_size: int, target_p95_s: float | None = None) -> Record | None:
    """The least in flight, of a batch size, that brings nearly all that any point of it brought within the target."""
    records = [
        record
        for point, record in findings.records.items()
        if point.batch_size == batch_size and record.holds(target_p95_s)
    ]
    if not records:
        return None
    most = max(record.rate.per_s for record in records)
    enough = [record for record in records if record.rate.per_s >= (1 - 2 * INDIFFERENCE) * most]
    return min(enough, key=lambda record: record.point.concurrency)


def is_finite(value: float) -> bool:
    """Whether a figure may be printed as a number."""
    return math.isfinite(value)
