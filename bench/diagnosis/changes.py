"""Change points: at which samples the mean of a noisy signal changes, and by more than its noise explains.

PELT minimises the sum of squares around the means of the segments plus a penalty for each, exactly and in about linear
time (Source: Killick, Fearnhead, Eckley, "Optimal detection of changepoints with a linear computational cost", 2012).
The unit of the squares is the signal's own noise, taken from differences of neighbours, whose median no change moves;
noise that is correlated over a few samples shows in differences of short means, and the larger of both counts. A long
signal is cut into windows; what a window's edge makes of it is taken back where neighbours do not differ.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Signal = npt.NDArray[np.float64]
WINDOW = 1500
LEAST = 4
"""Samples of a segment."""
_PENALTY = 4.0  # times log n; 2 to 3 suffice for independent normal noise, which throughput never quite has
_LEAST_NOISE = 0.01
_Z = 4.0
_BLOCKS = (4, 12)
_NEAR = 200
_FEW = 6
"""A noise that is taken from few samples is only roughly known: it counts as larger."""


def noise_of(signal: Signal) -> float:
    """The standard deviation of a signal around its (piecewise constant) mean, robustly."""
    if len(signal) < 3:
        return _LEAST_NOISE
    found = [_spread(np.diff(signal)) / math.sqrt(2)]
    for size in _BLOCKS:
        n_blocks = len(signal) // size
        if n_blocks >= 6:
            means = signal[: n_blocks * size].reshape(n_blocks, size).mean(axis=1)
            found.append(_spread(np.diff(means)) / math.sqrt(2) * math.sqrt(size))
    return max(_LEAST_NOISE, *found) * (1 + _FEW / len(signal))


def _spread(values: Signal) -> float:
    """Standard deviation from the median of absolute values; these are differences, their centre is 0."""
    return float(np.median(np.abs(values)) / 0.6745)


def change_points(signal: Signal, least_change: float) -> list[int]:
    """Where segments begin, without 0, in order.

    Args:
        signal: float64 (n,), no NaN.
        least_change: Neighbouring segments whose means differ by less are one.
    """
    smooth = _without_single_outliers(signal)
    n = len(smooth)
    points: list[int] = []
    for begin in range(0, n, WINDOW):
        end = min(n, begin + WINDOW)
        if begin:
            points.append(begin)
        points += [begin + point for point in _pelt(smooth[begin:end], noise_of(signal[begin:end]), n)]
    return _merged(signal, smooth, points, least_change)


def _without_single_outliers(signal: Signal) -> Signal:
    """The running median of three: it keeps edges, and drops what lasted for one sample."""
    if len(signal) < 3:
        return signal
    middle = np.median(np.stack([signal[:-2], signal[1:-1], signal[2:]]), axis=0)
    return np.concatenate([signal[:1], middle, signal[-1:]])


def _pelt(signal: Signal, noise: float, n_all: int) -> list[int]:
    """The change points of one window."""
    n = len(signal)
    if n < 2 * LEAST:
        return []
    scaled = (signal - signal.mean()) / noise
    sums = np.concatenate([[0.0], np.cumsum(scaled)])
    squares = np.concatenate([[0.0], np.cumsum(scaled**2)])
    penalty = _PENALTY * math.log(max(n_all, 8))
    best = np.full(n + 1, np.inf)
    best[0] = -penalty
    last = np.zeros(n + 1, np.int64)
    candidates = np.array([0])
    for end in range(LEAST, n + 1):
        n_in = end - candidates
        total = sums[end] - sums[candidates]
        cost = best[candidates] + (squares[end] - squares[candidates]) - total**2 / n_in
        choice = int(np.argmin(cost))
        best[end] = cost[choice] + penalty
        last[end] = candidates[choice]
        begin = end + 1 - LEAST
        candidates = candidates[cost <= best[end]]
        if begin >= LEAST and np.isfinite(best[begin]):
            candidates = np.append(candidates, begin)
    points = []
    end = n
    while (end := int(last[end])) > 0:
        points.append(end)
    return points[::-1]


def _merged(signal: Signal, smooth: Signal, points: list[int], least_change: float) -> list[int]:
    """Drop, the weakest first, the change points at which neighbours do not differ enough.

    The longer a signal is, the more often chance alone makes two stretches of it differ.
    """
    z = max(_Z, 1.5 * math.sqrt(2 * math.log(max(len(signal), 8))))
    edges = [0, *points, len(signal)]

    def strength(index: int) -> float:
        """Of the change at `edges[index]`, in what is needed."""
        left, right = smooth[edges[index - 1] : edges[index]], smooth[edges[index] : edges[index + 1]]
        noise = noise_of(
            signal[max(edges[index - 1], edges[index] - _NEAR) : min(edges[index + 1], edges[index] + _NEAR)]
        )
        needed = max(least_change, z * noise * math.sqrt(1 / len(left) + 1 / len(right)))
        return abs(float(np.median(right) - np.median(left))) / needed  # medians: a sample may lie across a change

    strengths = [math.inf, *(strength(index) for index in range(1, len(edges) - 1)), math.inf]
    while len(edges) > 2 and (weakest := min(strengths)) < 1.0:
        gone = strengths.index(weakest)
        del edges[gone], strengths[gone]
        for index in (gone - 1, gone):
            if 0 < index < len(edges) - 1:
                strengths[index] = strength(index)
    return edges[1:-1]
