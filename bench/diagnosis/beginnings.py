"""The beginning of a stretch, once its cause is known: throughput is noisy, what the cause shows in mostly is not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.diagnosis.changes import LEAST, Signal, noise_of
from bench.recording.recording import Recording

_NEAR_S = 180.0
_SURE = 3.0
"""How many times its noise a signal has to change by to move a beginning."""


def begin_of(part: Recording, at: int, low: int, high: int, *, cause: str, subject: str) -> int:
    """The position at which what a cause shows in changed most clearly; `at` when that says nothing.

    Args:
        at: Where throughput changed.
        low, high: The stretches around it.
    """
    make = _SIGNALS.get(cause)
    if make is None:
        return at
    first = max(low, int(np.searchsorted(part.at, part.at[at] - _NEAR_S)))
    last = min(high, int(np.searchsorted(part.at, part.at[at] + _NEAR_S)) + 1)
    signal = _filled(make(part.between(first, last), subject))
    if signal is None or len(signal) < 2 * LEAST:
        return at
    split = _best_split(signal)
    change = abs(float(np.median(signal[split:]) - np.median(signal[:split])))
    return first + split if change >= _SURE * noise_of(signal) else at


def _best_split(signal: Signal) -> int:
    """Where two means explain a signal best; each of at least two samples."""
    n = len(signal)
    sums = np.cumsum(signal)
    places = np.arange(2, n - 1)
    left = sums[places - 1]
    gain = left**2 / places + (sums[-1] - left) ** 2 / (n - places) - sums[-1] ** 2 / n
    return int(places[int(np.argmax(gain))])


def _filled(signal: Signal) -> Signal | None:
    """A signal whose gaps hold what was there before; None when there is nothing."""
    there = np.isfinite(signal)
    if not there.any():
        return None
    places = np.maximum.accumulate(np.where(there, np.arange(len(signal)), 0))
    places[: int(np.argmax(there))] = int(np.argmax(there))
    return signal[places]


def _column(part: Recording, name: str) -> Signal:
    return part.column(name, np.nan).astype(np.float64)


def _servers(part: Recording, subject: str, name: str) -> Signal:
    """A count of the server that it is about, or of all."""
    some = [index for index, url in enumerate(part.servers) if url == subject] or range(len(part.servers))
    total: Signal = np.sum([_column(part, f"server-{index}.{name}") for index in some], axis=0, dtype=np.float64)
    return total


def _log_ratio(over: Signal, under: Signal) -> Signal:
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Signal = np.log(np.where((over > 0) & (under > 0), over / under, np.nan))
    return found


def _up(part: Recording, subject: str) -> Signal:
    return _servers(part, subject, "up")


def _work(part: Recording, subject: str) -> Signal:
    return _log_ratio(_servers(part, subject, "inference_s"), _servers(part, subject, "tokens"))


def _latency(part: Recording, subject: str) -> Signal:
    return _log_ratio(_servers(part, subject, "latency_s"), _servers(part, subject, "answers"))


def _tokens(part: Recording, _: str) -> Signal:
    return _log_ratio(_servers(part, "", "tokens"), _servers(part, "", "rows"))


def _level(name: str) -> Callable[[Recording, str], Signal]:
    return lambda part, _: _column(part, name)


def _share(name: str) -> Callable[[Recording, str], Signal]:
    return lambda part, _: np.minimum(1.0, _column(part, name) / part.seconds)


_SIGNALS: dict[str, Callable[[Recording, str], Signal]] = {
    "server_out": _up,
    "server_slower": _work,
    "servers_slower": _work,
    "network_slower": _latency,
    "longer_texts": _tokens,
    "shorter_texts": _tokens,
    "source_slower": lambda part, subject: _servers(part, "", "ring_wait_s") / part.seconds,
    "marks_slower": _share("marks.seconds"),
    "cold_slower": _level("ring.vectors_busy"),
    "hot_slower": _share("hot.fsync_s"),
    "busy_machine": _level("machine.pressure_cpu"),
}
