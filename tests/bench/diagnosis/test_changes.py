"""Change points: found where they are, and none where there is only noise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.diagnosis.changes import WINDOW, change_points, noise_of

SEEDS = range(12)
LEAST = math.log(1.07)


def noise(seed: int, n: int, spread: float, memory: float) -> np.ndarray:
    """Noise that remembers: an autoregressive series of that standard deviation."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0.0, spread * math.sqrt(1 - memory**2), n)
    found = np.zeros(n)
    for index in range(1, n):
        found[index] = memory * found[index - 1] + steps[index]
    return found


@pytest.mark.seconds
@pytest.mark.parametrize("memory", [-0.4, 0.0, 0.4])
@pytest.mark.parametrize("n", [20, 200, 4000])
def test_noise_alone_has_no_change(n: int, memory: float) -> None:
    found = [change_points(noise(seed, n, 0.1, memory), LEAST) for seed in SEEDS]

    assert sum(map(bool, found)) <= 1, found


@pytest.mark.parametrize("drop", [0.85, 0.6, 0.3])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_change_is_found_within_a_few_samples(seed: int, drop: float) -> None:
    signal = noise(seed, 120, 0.06, 0.2)
    at = 30 + seed * 5
    signal[at:] += math.log(drop)

    (found,) = change_points(signal, LEAST)

    assert abs(found - at) <= (8 if drop > 0.8 else 3)  # a small one drowns for longer


@pytest.mark.parametrize("seed", SEEDS)
def test_every_one_of_several_changes_is_found_also_across_windows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    places = np.cumsum(rng.integers(200, 700, 8))
    signal = noise(seed, int(places[-1]) + 300, 0.08, 0.3)
    for index, place in enumerate(places):
        signal[place:] += 0.5 if index % 2 else -0.5
    assert len(signal) > WINDOW

    found = change_points(signal, LEAST)

    assert len(found) == len(places)
    assert np.abs(np.array(found) - places).max() <= 4


def test_one_sample_that_is_off_is_no_change() -> None:
    signal = noise(1, 100, 0.05, 0.0)
    signal[50] -= 3.0

    assert change_points(signal, LEAST) == []


def test_noise_is_measured_whatever_changes_beneath_it() -> None:
    signal = noise(2, 400, 0.1, 0.0)
    signal[100:] -= 2.0
    signal[250:] += 1.0

    assert noise_of(signal) == pytest.approx(0.1, rel=0.3)


def test_a_signal_too_short_to_judge_has_no_change() -> None:
    assert change_points(np.array([1.0, 5.0, 1.0]), LEAST) == []
    assert change_points(np.array([]), LEAST) == []
