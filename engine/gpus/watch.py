"""The watch over the GPUs of a run: their figures of this moment for people, and what they come to for the summary."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.gpus.nvml import GpuSample
from engine.gpus.processes import gpu_samples

EVERY_S = 1.0
STALE_S = 10.0
"""Age from which a sample is no longer shown: the driver hangs with a GPU that is failing."""
IDLE = 0.6
"""Mean utilization below which a GPU was not what set the pace."""
BUSY = 0.9
_OFTEN = 0.1
"""Share of the samples from which throttling is worth a word."""

Reader = Callable[[Sequence[str]], tuple[GpuSample, ...]]


@dataclass(slots=True)
class GpuTotals:
    """What one GPU has come to over a run.

    Attributes:
        last: Its last sample.
        n_samples: How many there were.
        energy_j: Joules, by the power at each sample.
        most_memory_bytes, hottest_c: Peaks.
        throttled: How many samples found it throttled, by reason.
    """

    last: GpuSample
    n_samples: int = 0
    energy_j: float = 0.0
    most_memory_bytes: int | None = None
    hottest_c: int | None = None
    throttled: Counter[str] = field(default_factory=Counter)
    _n_utilized: int = 0
    _utilization: float = 0.0

    def add(self, sample: GpuSample, seconds: float) -> None:
        """Take a sample in that stands for so many seconds."""
        self.n_samples += 1
        # a server that restarts, or has ended with the run, is still the one that this GPU worked for
        self.last = sample if sample.server else dataclasses.replace(sample, server=self.last.server)
        if sample.utilization is not None:
            self._n_utilized += 1
            self._utilization += sample.utilization
        self.energy_j += (sample.power_w or 0.0) * seconds
        self.most_memory_bytes = _most(self.most_memory_bytes, sample.memory_used_bytes)
        self.hottest_c = _most(self.hottest_c, sample.temperature_c)
        self.throttled.update(sample.throttled)

    @property
    def utilization(self) -> float | None:
        """Mean share of the time in which it worked."""
        return self._utilization / self._n_utilized if self._n_utilized else None

    def as_dict(self) -> dict[str, Any]:
        """The totals as JSON values."""
        mean = self.utilization
        return {
            "index": self.last.index,
            "uuid": self.last.uuid,
            "name": self.last.name,
            "server": self.last.server,
            "utilization": None if mean is None else round(mean, 3),
            "memory_used_bytes": self.most_memory_bytes,
            "memory_total_bytes": self.last.memory_total_bytes,
            "energy_wh": round(self.energy_j / 3600, 3),
            "temperature_c": self.hottest_c,
            "throttled": {reason: round(count / self.n_samples, 3) for reason, count in self.throttled.items()},
        }


def _most(known: int | None, new: int | None) -> int | None:
    return new if known is None else known if new is None else max(known, new)


class GpuWatch:
    """A thread that samples the GPUs every second; `stop` ends it.

    Attributes:
        urls: Servers whose GPUs are looked for; may be replaced at any time.
    """

    def __init__(self, read: Reader = gpu_samples, *, every_s: float = EVERY_S) -> None:
        self.urls: tuple[str, ...] = ()
        self._read = read
        self._every_s = every_s
        self._totals: dict[str, GpuTotals] = {}
        self._latest: tuple[GpuSample, ...] = ()
        self._sampled_s = 0.0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        # a daemon: the driver may never answer, and nobody waits for it
        self._thread = threading.Thread(target=self._sample_until_stopped, name="gpus", daemon=True)
        self._thread.start()

    def latest(self) -> list[dict[str, Any]]:
        """The last samples as JSON values; empty before the first, and when they are old."""
        with self._lock:
            fresh = time.monotonic() - self._sampled_s < STALE_S
            return [sample.as_dict() for sample in self._latest] if fresh else []

    def totals(self) -> list[GpuTotals]:
        """What every GPU has come to so far, those with servers of the run first."""
        with self._lock:
            found = list(self._totals.values())
        return sorted(found, key=lambda gpu: (gpu.last.server is None, gpu.last.index))

    def verdict(self) -> str:
        """What they say about the pace, see `gpu_verdict`."""
        return gpu_verdict(self.totals())

    def stop(self) -> None:
        """Sample no more."""
        self._ended.set()

    def _sample_until_stopped(self) -> None:
        before_s = time.monotonic()
        while True:
            samples = self._read(self.urls)
            if not samples and not self._totals:
                return  # the driver is here, but no GPU
            now_s = time.monotonic()
            with self._lock:
                for sample in samples:
                    self._totals.setdefault(sample.uuid, GpuTotals(sample)).add(sample, now_s - before_s)
                # with the server that each was known to work for: one look at all processes may miss one
                self._latest, self._sampled_s = tuple(self._totals[sample.uuid].last for sample in samples), now_s
            before_s = now_s
            if self._ended.wait(self._every_s):
                return


def gpu_verdict(totals: Sequence[GpuTotals]) -> str:
    """What the GPUs say about the pace, in words behind the bottleneck's; empty when no server's GPU is in sight."""
    of_servers = [gpu for gpu in totals if gpu.last.server is not None and gpu.utilization is not None]
    if not of_servers:
        return ""
    shares = [gpu.utilization or 0.0 for gpu in of_servers]
    low, high = min(shares), max(shares)
    span = f"{low:.0%}" if round(low, 2) == round(high, 2) else f"{low:.0%} to {high:.0%}"
    words = f"their GPUs were {span} busy"
    if high < IDLE:
        words += ": they waited for work, for the servers' HTTP and tokenizer, or for more in flight"
    elif low >= BUSY:
        words += ": only faster or more GPUs, or cheaper batches, would do more"
    reasons = Counter[str]()
    for gpu in of_servers:
        reasons.update({r for r, count in gpu.throttled.items() if count >= _OFTEN * gpu.n_samples})
    if reasons:
        words += "; throttled by " + ", ".join(
            f"{reason} ({count} of {len(of_servers)})" for reason, count in reasons.most_common()
        )
    return words
