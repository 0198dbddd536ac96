"""The buckets of Prometheus' histogram, out of the finer ones that latencies are counted in."""

from __future__ import annotations

import itertools

from engine.telemetry.metrics import N_BUCKETS, LatencyHistogram, upper_bound

_STEP = 14
"""Buckets of 5% in one that is scraped: each reaches about twice as far as the one before."""
_FIRST = 48
_LAST = N_BUCKETS - 6
EDGES = range(_FIRST, _LAST + 1, _STEP)
BOUNDS = [f"{upper_bound(bucket):.4g}" for bucket in EDGES]
"""Seconds, 1 ms to about 420 s. They lie on edges of the finer buckets, so no count is split by a guess."""


def cumulative(latency: LatencyHistogram) -> list[tuple[str, float]]:
    """Counts up to each bound, and all of them up to +Inf."""
    sums = list(itertools.accumulate(latency.counts))
    counts: list[tuple[str, float]] = [(bound, sums[edge]) for bound, edge in zip(BOUNDS, EDGES, strict=True)]
    return [*counts, ("+Inf", sums[-1])]
