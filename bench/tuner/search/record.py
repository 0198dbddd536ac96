"""A record: what is known of one operating point after one or several visits."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from bench.tuner.measure.statistics import Numbers, Rate, percentile
from bench.tuner.measure.visit import Point, ServerSplit, StopReason, Visit


@dataclass(slots=True)
class Record:
    """All visits to one point.

    Attributes:
        point: The point.
        visits: While exploring.
        repeats: In the final, every round one; once there are some, they alone count.
    """

    point: Point
    visits: list[Visit] = field(default_factory=list)
    repeats: list[Visit] = field(default_factory=list)

    @property
    def counted(self) -> list[Visit]:
        """The visits that the figures are taken from: the repeats, else the most complete visit."""
        if self.repeats:
            return self.repeats
        return [max(self.visits, key=lambda visit: (visit.complete, visit.coverage, visit.steady_s))]

    @property
    def rate(self) -> Rate:
        """Documents a second; with repeats their mean, and half of what the rounds differ by."""
        rates = [visit.rate for visit in self.counted]
        if len(rates) == 1:
            return rates[0]
        values = [rate.per_s for rate in rates]
        return Rate(per_s=math.fsum(values) / len(values), half_width=(max(values) - min(values)) / 2)

    @property
    def latencies_s(self) -> Numbers:
        """Latency of every request that counts."""
        return np.concatenate([visit.latencies_s for visit in self.counted])

    def p_s(self, share: float) -> float:
        """A percentile of latency in seconds."""
        return percentile(self.latencies_s, share)

    @property
    def mean_latency_s(self) -> float:
        """Mean latency of a request."""
        return float(self.latencies_s.mean()) if len(self.latencies_s) else math.nan

    @property
    def errors(self) -> Counter[str]:
        """Failed requests by class, of all visits."""
        return sum((visit.errors for visit in [*self.visits, *self.repeats]), Counter())

    @property
    def total_s(self) -> float:
        """Seconds spent on the point, warm-up included."""
        return math.fsum(visit.total_s for visit in [*self.visits, *self.repeats])

    @property
    def tokens_exact(self) -> bool:
        """Whether the servers counted the tokens."""
        return any(visit.n_tokens for visit in self.counted)

    @property
    def characters_per_token(self) -> float | None:
        """As the servers count, None when they do not say."""
        n_tokens = sum(visit.n_tokens for visit in self.counted)
        return sum(visit.n_counted_characters for visit in self.counted) / n_tokens if n_tokens else None

    @property
    def split(self) -> ServerSplit:
        """Where a text's time went at the servers."""
        counted = self.counted
        total = sum(visit.n_texts for visit in counted) or 1

        def mean(name: str) -> float:
            return math.fsum(getattr(visit.split, name) * visit.n_texts for visit in counted) / total

        return ServerSplit(
            tokenization_s=mean("tokenization_s"),
            queue_s=mean("queue_s"),
            inference_s=mean("inference_s"),
            total_s=mean("total_s"),
        )

    @property
    def client_cpu(self) -> float:
        """CPU seconds of the client per second."""
        counted = self.counted
        steady_s = math.fsum(visit.steady_s for visit in counted)
        return math.fsum(visit.client_cpu * visit.steady_s for visit in counted) / steady_s if steady_s > 0 else 0.0

    @property
    def works(self) -> bool:
        """Whether requests are answered at all at this point, and over a time of which a rate can be taken."""
        return (
            bool(len(self.latencies_s))
            and self.rate.per_s > 0
            and not any(visit.stop_reason in (StopReason.REFUSED, StopReason.FAILING) for visit in self.counted)
        )

    @property
    def is_complete(self) -> bool:
        """Whether the point works and every length was seen, so that its figures are those of all texts."""
        return self.works and all(visit.complete for visit in self.counted)

    def holds(self, target_p95_s: float | None) -> bool:
        """Whether the point works and keeps the 95th percentile under the target."""
        if not self.works:
            return False
        if target_p95_s is None:
            return True
        over = any(visit.stop_reason is StopReason.OVER_TARGET for visit in self.counted)
        return not over and self.p_s(0.95) <= target_p95_s
