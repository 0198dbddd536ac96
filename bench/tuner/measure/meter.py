"""The meter: answers of servers taken in, and what they mean so far: rate, coverage, latencies, CPU."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.tuner.measure.load import Answer, Load
from bench.tuner.measure.statistics import Blocks, Numbers, Rate, cut_blocks, rate_of, slope_of, steady_from
from bench.tuner.measure.visit import Point, ServerSplit, StopReason, Visit
from bench.tuner.texts.corpus import N_STRATA, OVERHEAD_CHARACTERS, Cycle, Order, Request

FEW_ANSWERS = 6
"""Answers of a server with fewer than which its blocks say nothing."""
N_BLOCKS = 8
"""Blocks that a server's answers are cut into, for how far they scatter."""


class ServerAnswers:
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
    def fitted(cls, tracks: list[ServerAnswers], cycle: Cycle) -> Work:
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
    """Rate and coverage by the answers so far.

    Attributes:
        rate: Documents a second.
        coverage: How often every length was seen.
        first: For each server the first answer and the one behind the last that count.
    """

    rate: Rate
    coverage: float
    first: tuple[tuple[int, int], ...]


class Meter:
    """Takes the answers of a visit in; ends the warm-up, and works out rate, latencies and CPU.

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
        self._tracks: list[ServerAnswers] = []
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
        self._tracks = [ServerAnswers(now_s) for _ in range(self._load.n_servers)]
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

    def visit(self, stop_reason: StopReason) -> Visit:
        """All that was found."""
        reading = self.read()
        tracks = [track for track in self._tracks if track.answers]
        spans = zip(tracks, reading.first, strict=True)
        kept = [answer for track, (start, stop) in spans for answer in track.answers[max(0, start - 1) : stop]]
        now_s = self._load.now_s()
        measured_s = now_s - self.steady_since_s if self.steady_since_s is not None else 0.0
        n_texts = sum(answer.n_texts for answer in kept)
        even = self._of_percentiles(kept)
        counted = [answer for answer in kept if answer.tokens is not None]
        by_server = [0] * self._load.n_servers
        for answer in kept:
            by_server[answer.server] += answer.n_texts
        return Visit(
            point=self._point,
            stop_reason=stop_reason,
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

    def _of_percentiles(self, kept: list[Answer]) -> list[Answer]:
        """The answers that percentiles are taken from: of a sorted cycle as many of all as it has, or whole times that.

        It begins with the longest texts. A few more than a cycle, or a few less, are of the slowest, of which one in
        twenty decides the 95th percentile; and where servers are unlike, so is what a stretch of each of them leaves
        out. Any stretch of the fleet as long as the cycle is a fair one; of a shorter one each request counts once.
        """
        if self._cycle.order is not Order.SORTED:
            return kept
        every = sorted((answer for track in self._tracks for answer in track.answers), key=lambda item: item.finished_s)
        size = len(self._cycle.requests)
        if len(every) >= size:
            return every[: len(every) // size * size]
        return list({answer.request: answer for answer in reversed(every)}.values())


def _split(answers: list[Answer], n_texts: int) -> ServerSplit:
    share = 1.0 / n_texts if n_texts else 0.0
    return ServerSplit(
        tokenization_s=share * math.fsum(answer.tokenization_s * answer.n_texts for answer in answers),
        queue_s=share * math.fsum(answer.queue_s * answer.n_texts for answer in answers),
        inference_s=share * math.fsum(answer.inference_s * answer.n_texts for answer in answers),
        total_s=math.fsum(answer.total_s for answer in answers) / max(1, len(answers)),
    )
