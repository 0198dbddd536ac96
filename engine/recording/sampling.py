"""From the live figures of a run to samples: increments of counters, means of levels, quantiles of latency."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.recording.fields import FROM_BEFORE, child_counts, levels, run_counts
from engine.telemetry.metrics import quantiles


@dataclass(slots=True, kw_only=True)
class Sample:
    """What happened within some seconds.

    Attributes:
        at: Their end, Unix seconds.
        seconds: How many.
        counts: What was added within them, by field.
        levels: Means over them, by field.
    """

    at: float
    seconds: float
    counts: dict[str, float]
    levels: dict[str, float]


@dataclass(slots=True)
class LevelMeans:
    """Means of levels, weighted by time; a level that is there for a part of it counts for that part."""

    sums: dict[str, list[float]] = field(default_factory=dict)

    def add(self, values: dict[str, float], weight: float) -> None:
        """Add levels that stood for a while."""
        sums = self.sums
        for name, value in values.items():
            found = sums.get(name)
            if found is None:
                sums[name] = [value * weight, weight]
            else:
                found[0] += value * weight
                found[1] += weight

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        means = {name: total / weight for name, (total, weight) in self.sums.items() if weight > 0}
        self.sums = {}
        return means


class Merged:
    """Samples that are merged until they span a period."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._begin()

    def _begin(self) -> None:
        self._seconds = 0.0
        self._at = 0.0
        self._counts: dict[str, float] = {}
        self._levels = LevelMeans()

    def add(self, sample: Sample) -> Sample | None:
        """Take a sample in; the merged one when the period is full."""
        self._at = sample.at
        self._seconds += sample.seconds
        counts = self._counts
        for name, value in sample.counts.items():
            counts[name] = counts.get(name, 0.0) + value
        self._levels.add(sample.levels, sample.seconds)
        return self.take() if self._seconds >= self._period_s else None

    def take(self) -> Sample | None:
        """What there is, None when there is nothing."""
        if not self._seconds:
            return None
        merged = Sample(at=self._at, seconds=self._seconds, counts=self._counts, levels=self._levels.take())
        self._begin()
        return merged


class Sampler:
    """Makes samples of the figures of a run, which come about once a second.

    Attributes:
        servers: URLs by role, as far as they are known.
    """

    def __init__(self, now_s: float) -> None:
        """
        Args:
            now_s: Monotonic seconds.
        """
        self.servers: dict[str, str] = {}
        self._sampled_s = self._seen_s = now_s
        self._levels = LevelMeans()
        self._of_run: dict[str, float] = {}
        self._of_children: dict[str, float] = {}
        self._latency: dict[str, dict[str, int]] = {}
        self._generation: int | None = None
        self._last: dict[str, Any] | None = None
        self._counts: dict[str, float] = {}

    def see(self, figures: dict[str, Any], now_s: float) -> None:
        """Take the figures of a moment in: their levels; counters are looked at when a sample is taken."""
        is_over = self._last is not None and bool(self._last["clients"]) and not figures["clients"]
        if self._last is not None and (is_over or figures.get("generation") != self._generation):
            self._count(self._last)  # nobody will tell these again
        if figures.get("generation") != self._generation:
            self._generation = figures.get("generation")
            self._of_children = {}
            self._latency = {}
        self._last = figures
        self._levels.add(levels(figures), max(1e-3, now_s - self._seen_s))
        self._seen_s = now_s

    def _count(self, figures: dict[str, Any]) -> None:
        """Add what the counters have grown by."""
        counters = run_counts(figures)
        for name in FROM_BEFORE & counters.keys():
            self._of_run.setdefault(name, counters[name])
        self._add(counters, self._of_run)
        self._add(child_counts(figures), self._of_children)
        for role, facts in figures["clients"].items():
            if "url" in facts:
                self.servers[role] = facts["url"]

    def _add(self, counters: dict[str, float], before: dict[str, float]) -> None:
        """Add what counters have grown by; one that fell begins anew (a crash took back what was not committed)."""
        counts = self._counts
        known, told = before.get, counts.get
        for name, value in counters.items():
            added = value - known(name, 0.0)
            counts[name] = told(name, 0.0) + added if added > 0.0 else told(name, 0.0)
        before.update(counters)

    def seconds_since(self, now_s: float) -> float:
        """Seconds since the last sample."""
        return now_s - self._sampled_s

    def take(self, figures: dict[str, Any], machine: dict[str, float], now_s: float) -> Sample:
        """The sample of the time since the last one.

        Args:
            figures: Those that `see` took last.
            machine: Levels of the machine over that time.
        """
        self._count(figures)
        found = self._levels.take()
        for role, facts in figures["clients"].items():
            found.update(self._latency_of(role, facts.get("latency", {})))
        sample = Sample(
            at=figures["at"], seconds=self.seconds_since(now_s), counts=self._counts, levels={**found, **machine}
        )
        self._sampled_s = now_s
        self._counts = {}
        return sample

    def _latency_of(self, role: str, counts: dict[str, int]) -> dict[str, float]:
        """Median and 95th percentile of the requests that were answered since the last sample."""
        known = self._latency.get(role, {}).get
        self._latency[role] = counts
        new = [(int(bucket), count - was) for bucket, count in counts.items() if count > (was := known(bucket, 0))]
        if not new:
            return {}
        new.sort()
        p50, p95 = quantiles(new, (0.5, 0.95))
        return {f"{role}.p50": p50, f"{role}.p95": p95}
