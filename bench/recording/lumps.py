"""Seconds that were told late: a process that is held up tells of it when that is over, all at once."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from bench.recording.recording import Recording

WATCHES = ("writer.write_s", "writer.fsync_s", "hot.fsync_s", "marks.seconds", "reader.page_s")
"""Counts of one watch each, which cannot have run for longer than the time that has passed."""


def without_lumps(recording: Recording) -> Recording:
    """The recording with the seconds of watches in the samples in which they were spent; sums stay as they are."""
    columns = dict(recording.columns)
    for name in WATCHES:
        if name in columns and np.any(columns[name] > recording.seconds * 1.05):
            columns[name] = spread_back(columns[name].astype(np.float64), recording.seconds).astype(np.float32)
    return dataclasses.replace(recording, columns=columns)


def spread_back(values: npt.NDArray[np.float64], seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values none of which exceeds its sample's seconds: what is too much goes to the samples before.

    What even the first sample has no room for stays there.
    """
    spread = values.copy()
    for last in np.flatnonzero(values > seconds)[::-1]:
        index = int(last)
        while index > 0 and (excess := spread[index] - seconds[index]) > 0:
            spread[index] -= excess
            index -= 1
            spread[index] += excess
    return spread
