"""Measuring one operating point: warm-up left out, and no longer than it takes to be sure.

A visit to a point goes on until one of these is certain:

    SETTLED       all lengths have been seen and the rate is known to the precision asked for
    GROWS         far above the point it was compared with: there is more to be had with more in flight
    SLOWER        cannot reach the best point any more
    OVER_TARGET   the 95th percentile will be above the target
    REFUSED       the server answers 429: somebody else holds permits
    FAILING       too many requests fail
    TIME          none of these in time

`OVER_TARGET` is certain early: at most 5% of a cycle's requests may be slower than the target, and by Little's law the
mean latency is what is in flight divided by the rate, which the 95th percentile is not below.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.tuner.measure.load import Answer, Load
from bench.tuner.measure.statistics import Blocks, Numbers, Rate, cut_blocks, percentile, rate_of, slope_of, steady_from
from bench.tuner.texts.corpus import N_STRATA, OVERHEAD_CHARACTERS, Cycle, Order, Request
from engine.errors import ServersUnavailable
from gpu_clients.errors import FailureKind

STEP_S = 0.05
FEW_ANSWERS = 6
N_BLOCKS = 8
JUDGEMENTS_PER_CYCLE = 24
MIN_TURNOVERS = 2
MIN_TURNOVERS_OF_A_SAMPLE = 4
MIN_ANSWERS = 40
MIN_ANSWERS_PER_SERVER = 24
MIN_COVERAGE = 0.52
"""Share of a sorted cycle before a visit may end early: half a cycle from its start holds every length."""
MAX_ERROR_SHARE = 0.05
QUIET_SHARE_OF_TARGET = 0.7
_PATIENCE = 6
"""Times the time of a visit until a fleet that does not answer at all is given up."""


class Outcome(enum.Enum):
    """Why a visit ended."""

    SETTLED = "settled"
    GROWS = "grows"
    SLOWER = "slower"
    OVER_TARGET = "over target"
    REFUSED = "refused"
    FAILING = "failing"
    TIME = "time"


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """An operating point: texts of a request, requests in flight at each server."""

    batch_size: int
    concurrency: int

    @property
    def texts_in_flight(self) -> int:
        """Texts in flight at each server; what its permits count."""
        return self.batch_size * self.concurrency


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When a visit may end.

    Attributes:
        max_s: Seconds of steady state, at most.
        precision: Half width of the rate's confidence interval, as a share of it, that settles a point.
        target_p95_s: Bound on the 95th percentile of latency, or None.
        must_reach: Documents a second below which the point is of no use, or None.
        grows_beyond: Documents a second above which more in flight is worth trying, or None.
    """

    max_s: float
    precision: float = 0.02
    target_p95_s: float | None = None
    must_reach: float | None = None
    grows_beyond: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSplit:
    """Where the time at the servers went, seconds on average; 0 when they do not say.

    Attributes:
        tokenization_s, queue_s, inference_s: Of a text.
        total_s: Of a request, which is answered when its slowest text is.
    """

    tokenization_s: float
    queue_s: float
    inference_s: float
    total_s: float = 0.0

    @property
    def known(self) -> bool:
        """Whether the servers say anything."""
        return self.inference_s > 0 or self.queue_s > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What one visit to a point found.

    Attributes:
        point: The point.
        outcome: Why it ended.
        rate: Documents a second of the whole fleet, corrected for the lengths that were seen.
        coverage: How often every length was seen; 1 for a whole cycle.
        latencies_s: Latency of every request after the warm-up, float64; of a sorted cycle each request once.
        characters, servers: Characters of each of these requests, and the server that answered it.
        n_texts: Embedded after the warm-up.
        n_tokens, n_counted_characters: Tokens that the servers counted, and the characters these were; 0 when they do
            not count.
        errors: Failed requests by class, warm-up included.
        steady_s, total_s: Seconds of steady state, and with the warm-up.
        client_cpu: CPU seconds of the client per second of steady state.
        split: Where the time went at the servers.
        texts_by_server: Texts that each server embedded after the warm-up.
        order: What stood beside what.
    """

    point: Point
    outcome: Outcome
    rate: Rate
    coverage: float
    latencies_s: Numbers
    characters: Numbers
    servers: npt.NDArray[np.int64]
    n_texts: int
    n_tokens: int
    n_counted_characters: int
    errors: Counter[str]
    steady_s: float
    total_s: float
    client_cpu: float
    split: ServerSplit
    texts_by_server: tuple[int, ...]
    order: Order

    def p_s(self, share: float) -> float:
        """A percentile of latency in seconds; NaN without an answer."""
        return percentile(self.latencies_s, share)

    @property
    def complete(self) -> bool:
        """Whether every length was seen, so that percentiles are those of all texts."""
        return self.coverage >= 0.9 or self.order is not Order.SORTED


class _Track:
    """The answers of one server in the steady state, in the order in which they came."""

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self.answers: list[Answer] = []
        self.finished_s: list[float] = []
        self.n_texts: list[int] = []
        self.n_characters: list[int] = []
        self.strata: list[int] = []

    def add(self, answer: Answer, request: Request) -> None:
        """Take an answer in."""
        self.answers.append(answer)
        self.finished_s.append(answer.finished_s)
        self.n_texts.append(request.n_texts)
        self.n_characters.append(request.n_characters)
        self.strata.append(request.stratum)

    def blocks(self, work: Work, now_s: float) -> Blocks:
        """The answers in stretches, and the work in each."""
        amounts = work.of(np.array(self.n_texts), np.array(self.n_characters))
        return cut_blocks(np.array(self.finished_s), amounts, N_BLOCKS, now_s=now_s)


@dataclass(frozen=True, slots=True)
class Work:
    """What a request costs in average texts: a straight line in its texts and its characters.

    A stretch that happens to hold long texts would look slow by documents, and fast by characters where every request
    has a fixed price. How much of which it is differs from point to point, so each point's own answers decide.
    """

    per_text: float
    per_character: float

    def of(self, n_texts: npt.NDArray[np.int64], n_characters: npt.NDArray[np.int64]) -> Numbers:
        """The work of requests."""
        return self.per_text * n_texts + self.per_character * n_characters

    @classmethod
    def fitted(cls, tracks: list[_Track], cycle: Cycle) -> Work:
        """The line through the time that texts of each class of length took the servers."""
        seconds, texts, characters = np.zeros(N_STRATA), np.zeros(N_STRATA), np.zeros(N_STRATA)
        for track in tracks:
            strata = np.array(track.strata, dtype=np.int64)
            took_s = np.diff(np.array([track.since_s, *track.finished_s]))
            np.add.at(seconds, strata, np.maximum(took_s, 0.0))
            np.add.at(texts, strata, track.n_texts)
            np.add.at(characters, strata, track.n_characters)
        seen = texts > 0
        line = (float(OVERHEAD_CHARACTERS), 1.0)
        if seen.sum() >= N_STRATA // 2:
            scale = 1.0 / np.sqrt(texts[seen])  # the scatter of a sum grows with the root of its terms
            sides = np.column_stack([texts[seen] * scale, characters[seen] * scale])
            found, *_ = np.linalg.lstsq(sides, seconds[seen] * scale, rcond=None)
            start_s, slope_s = float(found[0]), float(found[1])
            if start_s >= 0 and slope_s >= 0 and start_s + slope_s > 0:
                line = (start_s, slope_s)
            elif slope_s < 0:
                line = (1.0, 0.0)
        average = line[0] + line[1] * cycle.n_characters / cycle.n_texts
        return cls(line[0] / average, line[1] / average)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the answers so far mean.

    Attributes:
        rate: Documents a second.
        coverage: How often every length was seen.
        first: For each server the first answer and the one behind the last that count.
    """

    rate: Rate
    coverage: float
    first: tuple[tuple[int, int], ...]


class Meter:
    """Takes answers in and says what they mean so far.

    Attributes:
        steady_since_s: When the warm-up ended, None before.
        n_answers: Good answers after it.
        slowest_s: The longest latency after it.
    """

    def __init__(self, load: Load, cycle: Cycle, point: Point, number: int) -> None:
        self.began_s = load.now_s()
        self.steady_since_s: float | None = None
        self.errors: Counter[str] = Counter()
        self.n_answers = 0
        self.slowest_s = 0.0
        self._load = load
        self._cycle = cycle
        self._point = point
        self._number = number
        self._owed = [point.concurrency] * load.n_servers  # answers of the warm-up that are still to come
        self._tracks: list[_Track] = []
        self._cpu_from_s = 0.0

    def take(self, answers: list[Answer]) -> None:
        """Take answers in."""
        for answer in sorted(answers, key=lambda item: item.finished_s):
            if answer.error is not None:
                self.errors[answer.error] += 1
            if answer.point != self._number:
                continue
            if self.steady_since_s is None:
                self._warm_up(answer)
            elif answer.error is None:
                self.n_answers += 1
                self.slowest_s = max(self.slowest_s, answer.latency_s)
                self._tracks[answer.server].add(answer, self._cycle.requests[answer.request])

    def end_warm_up(self, now_s: float) -> None:
        """Count from here on."""
        self.steady_since_s = now_s
        self._tracks = [_Track(now_s) for _ in range(self._load.n_servers)]
        self._cpu_from_s = self._load.cpu_s()

    def _warm_up(self, answer: Answer) -> None:
        """Every place in flight has to be taken anew once, and nothing of an earlier point may be left."""
        self._owed[answer.server] -= 1
        if max(self._owed) <= 0 and not self._load.leftover:
            self.end_warm_up(answer.finished_s)

    # -- what it means ---------------------------------------------------------------------------------

    def read(self) -> Reading:
        """The rate, and what it stands on."""
        now_s = self._load.now_s()
        tracks = [track for track in self._tracks if track.answers]
        work = Work.fitted(tracks, self._cycle)
        blocks = [track.blocks(work, now_s) for track in tracks]
        # sorted texts never are in a steady state by themselves: their lengths rise and fall
        steady = 0 if self._cycle.order is Order.SORTED else steady_from(blocks)
        kept = [block.since(steady) for block in blocks]
        spans = tuple((block.first[0], block.first[-1]) for block in kept)
        n_texts = sum(
            answer.n_texts
            for track, (start, stop) in zip(tracks, spans, strict=True)
            for answer in track.answers[start:stop]
        )
        rate = rate_of(kept)
        if min((stop - start for start, stop in spans), default=0) < FEW_ANSWERS:
            rate = self._plain_rate(work, now_s)
            spans = tuple((0, len(track.answers)) for track in tracks)
        elif self._cycle.order is not Order.SORTED:
            rate = Rate(per_s=sum(map(slope_of, kept)), half_width=rate.half_width)
        return Reading(rate=rate, coverage=n_texts / self._cycle.n_texts, first=spans)

    def _plain_rate(self, work: Work, now_s: float) -> Rate:
        """All work in all the time: rough, but nothing finer stands on so few answers."""
        took_s = now_s - (self.steady_since_s if self.steady_since_s is not None else now_s)
        done = sum(float(work.of(np.array(t.n_texts), np.array(t.n_characters)).sum()) for t in self._tracks)
        return Rate(per_s=done / took_s if took_s > 0 else 0.0, half_width=math.inf)

    def n_slower_than(self, bound_s: float) -> int:
        """Requests of the cycle that were answered after more than a bound; each counts once."""
        return len({answer.request for track in self._tracks for answer in track.answers if answer.latency_s > bound_s})

    def visit(self, outcome: Outcome) -> Visit:
        """All that was found."""
        reading = self.read()
        tracks = [track for track in self._tracks if track.answers]
        spans = zip(tracks, reading.first, strict=True)
        kept = [answer for track, (start, stop) in spans for answer in track.answers[max(0, start - 1) : stop]]
        now_s = self._load.now_s()
        measured_s = now_s - self.steady_since_s if self.steady_since_s is not None else 0.0
        n_texts = sum(answer.n_texts for answer in kept)
        even = self._each_once(kept)
        counted = [answer for answer in kept if answer.tokens is not None]
        by_server = [0] * self._load.n_servers
        for answer in kept:
            by_server[answer.server] += answer.n_texts
        return Visit(
            point=self._point,
            outcome=outcome,
            rate=reading.rate,
            coverage=reading.coverage,
            latencies_s=np.array([answer.latency_s for answer in even], dtype=np.float64),
            characters=np.array(
                [self._cycle.requests[answer.request].n_characters for answer in even], dtype=np.float64
            ),
            servers=np.array([answer.server for answer in even], dtype=np.int64),
            n_texts=n_texts,
            n_tokens=sum(answer.tokens or 0 for answer in counted),
            n_counted_characters=sum(self._cycle.requests[answer.request].n_characters for answer in counted),
            errors=self.errors,
            steady_s=measured_s,
            total_s=now_s - self.began_s,
            client_cpu=(self._load.cpu_s() - self._cpu_from_s) / measured_s if measured_s > 0 else 0.0,
            split=_split(kept, n_texts),
            texts_by_server=tuple(by_server),
            order=self._cycle.order,
        )

    def _each_once(self, answers: list[Answer]) -> list[Answer]:
        """What percentiles are taken from: of a sorted cycle that was gone round, each request once.

        It begins with the longest texts. A few requests more than once around are more of the slowest, of which one
        in twenty decides the 95th percentile.
        """
        if self._cycle.order is not Order.SORTED:
            return answers
        first: dict[int, Answer] = {}
        for answer in sorted(answers, key=lambda item: item.finished_s):
            first.setdefault(answer.request, answer)
        return list(first.values())


def _split(answers: list[Answer], n_texts: int) -> ServerSplit:
    share = 1.0 / n_texts if n_texts else 0.0
    return ServerSplit(
        tokenization_s=share * math.fsum(answer.tokenization_s * answer.n_texts for answer in answers),
        queue_s=share * math.fsum(answer.queue_s * answer.n_texts for answer in answers),
        inference_s=share * math.fsum(answer.inference_s * answer.n_texts for answer in answers),
        total_s=math.fsum(answer.total_s for answer in answers) / max(1, len(answers)),
    )


def measure(load: Load, cycle: Cycle, concurrency: int, rules: Rules) -> Visit:
    """Visit an operating point.

    Raises:
        ServersUnavailable: not a single answer came.
    """
    point = Point(cycle.batch_size, concurrency)
    meter = Meter(load, cycle, point, load.begin(cycle, concurrency))
    warm_until_s = meter.began_s + 2 * rules.max_s
    every = max(1, len(cycle.requests) // JUDGEMENTS_PER_CYCLE)
    judge_at = every
    while True:
        meter.take(load.step(STEP_S))
        now_s = load.now_s()
        if outcome := _broken(meter):
            return meter.visit(outcome)
        if meter.steady_since_s is None:
            if now_s >= warm_until_s:
                meter.end_warm_up(now_s)
            continue
        if meter.n_answers >= judge_at:
            judge_at = meter.n_answers + every
            if outcome := _judge(meter, load, cycle, point, rules):
                return meter.visit(outcome)
        if now_s >= meter.steady_since_s + rules.max_s:
            if meter.n_answers or meter.errors:
                return meter.visit(Outcome.TIME)
            if now_s >= meter.began_s + _PATIENCE * rules.max_s:
                raise ServersUnavailable(
                    f"no server answered within {now_s - meter.began_s:.0f} s at batch size {point.batch_size} and "
                    f"concurrency {concurrency}: look at the servers, or give more --seconds for a point"
                )


def _broken(meter: Meter) -> Outcome | None:
    failed = meter.errors.total()
    if meter.errors[FailureKind.OVERLOADED.value] >= 2:
        return Outcome.REFUSED
    if failed >= 5 and failed > MAX_ERROR_SHARE * (failed + meter.n_answers):
        return Outcome.FAILING
    return None


def _judge(meter: Meter, load: Load, cycle: Cycle, point: Point, rules: Rules) -> Outcome | None:
    reading = meter.read()
    rate, coverage = reading.rate, reading.coverage
    target_s = rules.target_p95_s
    if target_s is not None and _is_late(meter, load, cycle, point, rate, target_s):
        return Outcome.OVER_TARGET
    turnovers = meter.n_answers / (point.concurrency * load.n_servers)
    is_sample = cycle.order is not Order.SORTED
    if is_sample:
        has_seen_enough = turnovers >= MIN_TURNOVERS_OF_A_SAMPLE and meter.n_answers >= max(
            MIN_ANSWERS, MIN_ANSWERS_PER_SERVER * load.n_servers
        )
    else:
        has_seen_enough = turnovers >= MIN_TURNOVERS and coverage >= MIN_COVERAGE
    if not has_seen_enough:
        return None
    if rules.must_reach is not None and rate.high < rules.must_reach:
        return Outcome.SLOWER
    quiet = target_s is None or meter.slowest_s < QUIET_SHARE_OF_TARGET * target_s
    if rules.grows_beyond is not None and rate.low > rules.grows_beyond and quiet:
        return Outcome.GROWS
    if rate.relative <= rules.precision and (is_sample or coverage >= 1.0):
        return Outcome.SETTLED
    # more of it would sharpen the rate only against a noise that repeating the visit shows better
    return Outcome.SETTLED if coverage >= 1.0 else None


def _is_late(meter: Meter, load: Load, cycle: Cycle, point: Point, rate: Rate, target_s: float) -> bool:
    """Whether the 95th percentile is certain to be above the target."""
    n_late = meter.n_slower_than(target_s)
    if cycle.order is Order.SORTED:
        # what comes later in the cycle may all be quick: more than 5% of everything has to be late already
        return n_late > max(1.0, 0.05 * len(cycle.requests))
    in_flight = point.texts_in_flight * load.n_servers
    if math.isfinite(rate.half_width) and in_flight / rate.high > target_s:
        return True
    allowed = 0.05 * meter.n_answers
    return n_late > allowed + 3.0 * math.sqrt(allowed) + 2.0
