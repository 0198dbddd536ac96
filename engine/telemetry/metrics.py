"""The kinds of metric: a latency histogram that adds up over processes, a rate over a window, a stopwatch."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence

_GROWTH = 1.05
_FLOOR_S = 1e-4
_LOG_GROWTH = math.log(_GROWTH)
N_BUCKETS = 320
"""0.1 ms to about 570 s in steps of 5%."""


def upper_bound(bucket: int) -> float:
    """The longest latency in seconds that a bucket counts."""
    return float(_FLOOR_S * _GROWTH**bucket)


def quantiles(counts: Sequence[tuple[int, int]], shares: Sequence[float]) -> list[float]:
    """The latencies in seconds that shares of all do not exceed, as `LatencyHistogram.quantile` has them.

    Args:
        counts: Buckets in order with their counts, none of which is 0; at least one.
        shares: In order.
    """
    total = sum([count for _, count in counts])
    found: list[float] = []
    at, seen = 0, 0
    bucket, count = counts[0]
    for share in shares:
        rank = max(1, math.ceil(share * total))
        while seen + count < rank:
            seen += count
            at += 1
            bucket, count = counts[at]
        part = (rank - seen - 0.5) / count
        found.append(float(_FLOOR_S * _GROWTH ** (bucket - 1 + part)))
    return found


class LatencyHistogram:
    """Counts of latencies in buckets that grow by 5%, so that histograms of several processes can be added."""

    __slots__ = ("counts",)

    def __init__(self, counts: Sequence[int] | None = None) -> None:
        self.counts = [0] * N_BUCKETS
        for bucket, count in enumerate(counts or ()):
            self.counts[bucket] = count

    def record(self, latency_s: float) -> None:
        """Count one latency in seconds."""
        bucket = int(math.log(latency_s / _FLOOR_S) / _LOG_GROWTH) + 1 if latency_s > _FLOOR_S else 0
        self.counts[min(bucket, N_BUCKETS - 1)] += 1

    def add(self, other: LatencyHistogram) -> None:
        """Take another histogram's counts in."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]

    def quantile(self, share: float) -> float | None:
        """The latency in seconds that `share` of all do not exceed, None without any.

        Within a bucket latencies are taken as spread evenly by ratio. The result is off by less than the bucket's 5%
        either way, and by its middle, not by its edge, when a bucket holds a single one.
        """
        counts = [(bucket, count) for bucket, count in enumerate(self.counts) if count]
        return quantiles(counts, (share,))[0] if counts else None

    def sparse(self) -> dict[str, int]:
        """The counts that are not zero, for a message."""
        return {str(bucket): count for bucket, count in enumerate(self.counts) if count}

    @classmethod
    def from_sparse(cls, counts: dict[str, int]) -> LatencyHistogram:
        """Read `sparse` back."""
        histogram = cls()
        for bucket, count in counts.items():
            histogram.counts[int(bucket)] = count
        return histogram


class WindowedRate:
    """Rate of a growing counter over the last seconds (an average since the start hides that a run slows down)."""

    def __init__(self, window_s: float = 10.0) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, float]] = deque()

    def update(self, value: float, now: float | None = None) -> None:
        """Note the counter's value now (monotonic seconds)."""
        now = time.monotonic() if now is None else now
        self._samples.append((now, value))
        while len(self._samples) > 2 and now - self._samples[1][0] >= self._window_s:
            self._samples.popleft()

    def per_second(self) -> float:
        """The rate; 0 before two samples, and while a crash has just taken back what was not committed."""
        if len(self._samples) < 2:
            return 0.0
        (start, first), (end, last) = self._samples[0], self._samples[-1]
        return max(0.0, (last - first) / (end - start)) if end > start else 0.0


class Stopwatch:
    """Times calls of one thread, as `with watch:`; another thread may look on.

    Attributes:
        count: Calls that are over.
    """

    __slots__ = ("_began_s", "_over_s", "count")

    def __init__(self) -> None:
        self.count = 0
        self._over_s = 0.0
        self._began_s: float | None = None

    def __enter__(self) -> None:
        self._began_s = time.monotonic()

    def __exit__(self, *_: object) -> None:
        began_s, self._began_s = self._began_s, None
        if began_s is not None:
            self._over_s += time.monotonic() - began_s
        self.count += 1

    @property
    def seconds(self) -> float:
        """Seconds spent in all calls, in the one that goes on too: a call that hangs is seen while it does."""
        began_s = self._began_s
        return self._over_s + (0.0 if began_s is None else time.monotonic() - began_s)
