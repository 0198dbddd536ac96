"""Where the stretches of a run begin: by its throughput, and by what may go wrong long before that suffers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from bench.diagnosis.changes import LEAST, Signal, change_points
from bench.recording.recording import Recording

LEAST_CHANGE = math.log(1.07)
"""A change of throughput by less than 7% is none."""
_BUSY = (("marks.seconds",), ("writer.write_s", "writer.fsync_s"), ("hot.fsync_s",), ("reader.page_s",))
"""Counts of seconds of what may be busy all of the time."""
_BUSY_CHANGE = math.log(2.5)
_SATURATED = 0.6
_WORK_CHANGE = math.log(1.6)
_WORK_BINS = 400
_UP_CHANGE = 0.3
_BINS_S = 2.0
_SAME_TURN = 3 * LEAST

Positions = npt.NDArray[np.int64]


def steady_part(part: Recording) -> Recording | None:
    """A run without what comes before the first answers and after the last document was read.

    A run that stands still while documents are left is not over.
    """
    running = ~(part.column("phase.running", 1.0) < 0.5)
    answered = np.flatnonzero((part.column("rows") > 0) & running)
    has_work = part.column("left", 0.0) > 0
    alive = np.flatnonzero(running & ((part.column("rows") > 0) | has_work))
    alive = alive[alive >= answered[0]] if len(answered) else answered
    if len(alive) < 2 * LEAST:
        return None
    first, last = alive[0], alive[-1]
    return part.between(int(first) + 1, int(last))


def edges_of(part: Recording) -> list[int]:
    """Positions at which stretches begin and end.

    By throughput; by how busy marking, storage and source are, as throughput shows marks only once a million documents
    wait, and takes a run that stops and goes for a noisy one; and by what a single server needs for its work, which is
    lost in the noise of many.
    """
    first = _bins(part)
    seconds = np.add.reduceat(part.seconds, first)
    rate = np.add.reduceat(part.column("rows").astype(np.float64), first) / seconds
    busy = [
        sum(np.add.reduceat(part.column(name).astype(np.float64), first) for name in names) / seconds for names in _BUSY
    ]
    points = {*change_points(_log(rate), LEAST_CHANGE)}
    for point in [*(point for one in busy for point in _saturations(one)), *_turns_of_servers(part, first)]:
        if LEAST <= point <= len(first) - LEAST:  # the same turn in throughput comes with its noise: this one is exact
            points = {other for other in points if abs(point - other) > _SAME_TURN} | {point}
    return [0, *(int(first[point]) for point in sorted(points)), len(part)]


def _saturations(busy: npt.NDArray[np.float64]) -> Iterator[int]:
    """Where something began, or ceased, to take most of its time."""
    found = change_points(np.log(0.05 + np.minimum(busy, 1.0)), _BUSY_CHANGE)
    for point, begin, end in zip(found, [0, *found], [*found[1:], len(busy)], strict=False):
        if max(busy[begin:point].mean(), busy[point:end].mean()) >= _SATURATED:
            yield point


def _turns_of_servers(part: Recording, first: Positions) -> Iterator[int]:
    """Where a server's inference time for a token changed by much, or it went out or came back."""
    every = max(1, len(first) // _WORK_BINS)
    coarse = first[::every]
    for index in range(len(part.servers)):
        tokens = np.add.reduceat(part.column(f"server-{index}.tokens").astype(np.float64), coarse)
        seconds = np.add.reduceat(part.column(f"server-{index}.inference_s").astype(np.float64), coarse)
        there = np.flatnonzero((tokens > 0) & (seconds > 0))
        if len(there) >= 2 * LEAST:
            for point in change_points(np.log(seconds[there] / tokens[there]), _WORK_CHANGE):
                yield int(there[point]) * every
        up = part.column(f"server-{index}.up", 1.0)[first]
        known = np.flatnonzero(np.isfinite(up))
        if len(known) >= 2 * LEAST and up[known].min() < 1 - _UP_CHANGE:
            for point in change_points(up[known].astype(np.float64), _UP_CHANGE):
                yield int(known[point])


def _bins(part: Recording) -> Positions:
    """First sample of every bin: samples of a second are two by two, so that batches that come together even out."""
    bins, seconds = [0], 0.0
    for index, duration in enumerate(part.seconds):
        if seconds >= _BINS_S - 0.3:
            bins.append(index)
            seconds = 0.0
        seconds += float(duration)
    return np.array(bins, np.int64)


def _log(rate: npt.NDArray[np.float64]) -> Signal:
    """The logarithm of a rate; nothing at all counts as a fiftieth of the median."""
    positive = rate[rate > 0]
    least = 0.02 * float(np.median(positive)) if len(positive) else 1.0
    found: Signal = np.log(np.maximum(rate, least))
    return found
