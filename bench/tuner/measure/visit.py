"""A visit to an operating point: where it goes, when it may end, and what it found."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.tuner.measure.statistics import Numbers, Rate, percentile
from bench.tuner.texts.corpus import Order


class StopReason(enum.Enum):
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
        cycles: Times that every length of a sorted cycle has to be seen before the point is settled.
    """

    max_s: float
    precision: float = 0.02
    target_p95_s: float | None = None
    must_reach: float | None = None
    grows_beyond: float | None = None
    cycles: int = 1


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
        stop_reason: Why it ended.
        rate: Documents a second of the whole fleet, corrected for the lengths that were seen.
        coverage: How often every length was seen; 1 for a whole cycle.
        latencies_s: Latency of every request after the warm-up, float64; of a sorted cycle each request
            as often as it was gone round.
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
    stop_reason: StopReason
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
