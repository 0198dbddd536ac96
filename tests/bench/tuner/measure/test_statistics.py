"""Rates from bursts, confidence that keeps its word, and a steady state that is found."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from bench.tuner.measure.statistics import (
    Blocks,
    cut_blocks,
    percentile,
    rate_of,
    slope_of,
    steady_from,
    student_t,
)


def bursts(n_bursts: int, per_burst: int, every_s: float, *, first_s: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Answers as a GPU gives them: some at a time, then a pause."""
    times = [first_s + burst * every_s + answer * 1e-5 for burst in range(n_bursts) for answer in range(per_burst)]
    return np.array(times), np.full(len(times), 32.0)


def test_borders_of_blocks_stand_in_the_pauses_between_gpu_batches() -> None:
    """A block that ended in the midst of a burst would count its time and not its work."""
    times, work = bursts(40, 4, 0.1)

    blocks = cut_blocks(times, work, 8, now_s=float(times[-1]) + 0.05)

    assert all(first % 4 == 0 for first in blocks.first)
    # whole bursts of 4 x 32 texts every 0.1 s, whatever their number
    assert blocks.work / blocks.seconds == pytest.approx(np.full(len(blocks), 1280.0), rel=1e-3)


def test_the_rate_of_a_fleet_is_the_sum_of_its_servers() -> None:
    """Each with blocks of its own."""
    quick, slow = bursts(60, 3, 0.05), bursts(30, 3, 0.1)
    tracks = [cut_blocks(*side, 8, now_s=3.1) for side in (quick, slow)]

    rate = rate_of(tracks)

    assert rate.per_s == pytest.approx(3 * 32 / 0.05 + 3 * 32 / 0.1, rel=0.01)
    assert rate.low < rate.per_s < rate.high
    assert sum(map(slope_of, tracks)) == pytest.approx(rate.per_s, rel=0.02)


def test_the_slope_hardly_feels_a_request_that_was_half_done_at_an_end() -> None:
    """Where the ratio of the sums would be off by all of it."""
    times, work = bursts(20, 3, 0.1)
    work[2] += 32.0  # done by the batch before, counted in this one
    blocks = cut_blocks(times, work, 8, now_s=float(times[-1]))
    true_per_s = 3 * 32 / 0.1

    ends = (float(work[1:].sum())) / float(times[-1] - times[0])

    assert abs(slope_of(blocks) - true_per_s) < 0.5 * abs(ends - true_per_s)


def test_the_interval_covers_the_true_rate_about_as_often_as_it_says() -> None:
    """95% of the time, for answers that come at random."""
    draw = random.Random(5)
    covered = 0
    for _ in range(300):
        times = np.cumsum([draw.expovariate(100.0) for _ in range(400)])
        rate = rate_of([cut_blocks(times, np.ones(400), 8, now_s=float(times[-1]))])
        covered += rate.low <= 100.0 <= rate.high

    assert 0.88 <= covered / 300 <= 1.0


def test_a_slow_start_is_left_out_and_a_steady_one_is_not() -> None:
    """By whole blocks, at most half of them."""
    seconds = np.ones(16)
    first = tuple(range(0, 17 * 50, 50))
    steady = np.full(16, 100.0) + np.array([1, -1] * 8)
    rising = steady.copy()
    rising[:4] = (20, 40, 60, 80)

    def track(work: np.ndarray) -> list[Blocks]:
        return [Blocks(work, seconds, first, np.arange(850.0), np.arange(850.0))]

    assert steady_from(track(steady)) == 0
    assert steady_from(track(rising)) == 4
    assert steady_from(track(np.linspace(10, 500, 16))) <= 8


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50.0), (0.95, 95.0), (0.99, 99.0), (1.0, 100.0)])
def test_a_percentile_is_a_value_that_occurred(share: float, expected: float) -> None:
    """The smallest that so many do not exceed."""
    values = np.array(random.Random(1).sample(range(1, 101), 100), dtype=np.float64)

    assert percentile(values, share) == expected


def test_no_values_have_no_percentile_and_no_freedom_has_no_bound() -> None:
    """Never a number that nobody measured."""
    assert math.isnan(percentile(np.array([]), 0.5))
    assert math.isinf(student_t(0))
    assert student_t(1) > student_t(5) > student_t(1000) == 1.96
