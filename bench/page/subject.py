"""What a page is about: a recording, its diagnosis, and how moments and series become places on a chart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bench.diagnosis.diagnosis import Diagnosis, Run
from bench.diagnosis.verdict import clock
from bench.page.charts import Values, binned
from bench.recording.recording import Recording


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What the GPUs cost: money an hour for one, None when nobody said, and how many there are."""

    gpu_hour: float | None = None
    n_gpus: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What the page is about."""

    recording: Recording
    diagnosis: Diagnosis
    price: Price

    @property
    def run(self) -> Run:
        """The last run."""
        return self.diagnosis.runs[-1]

    @property
    def span(self) -> tuple[float, float]:
        """Begin and end of all of it, Unix seconds."""
        return float(self.recording.begin[0]), float(self.recording.at[-1])

    @property
    def ends(self) -> tuple[str, str]:
        """The same in words."""
        begin, end = self.span
        return clock(begin, day=True), clock(end, day=True)

    def place(self, at: float) -> float:
        """Where a moment stands on the axis, 0 to 1."""
        begin, end = self.span
        return min(1.0, max(0.0, (at - begin) / max(1e-9, end - begin)))

    def series(self, values: Values) -> Values:
        """A series of the samples as points of a chart."""
        recording = self.recording
        middle = recording.at - recording.seconds / 2
        return binned(middle, recording.seconds, values, *self.span)

    def rate(self, *names: str) -> Values:
        """A count, or several together, a second, as points of a chart."""
        total = np.sum([self.recording.column(name).astype(np.float64) for name in names], axis=0)
        return self.series(total / np.maximum(self.recording.seconds, 1e-9))

    def level(self, name: str) -> Values:
        """A level as points of a chart."""
        return self.series(self.recording.column(name, math.nan).astype(np.float64))
