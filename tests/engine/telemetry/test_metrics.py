"""How far a quantile of a histogram may be from the one of the latencies themselves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.telemetry.metrics import LatencyHistogram, WindowedRate, quantiles

LATENCIES = st.lists(st.floats(min_value=1.01e-4, max_value=500.0), min_size=1, max_size=200)
STEP = 1.05


def histogram_of(latencies: list[float]) -> LatencyHistogram:
    """All of them counted."""
    histogram = LatencyHistogram()
    for latency_s in latencies:
        histogram.record(latency_s)
    return histogram


@pytest.mark.seconds
@given(LATENCIES, st.floats(min_value=0.0, max_value=1.0))
def test_a_quantile_is_within_a_bucket_of_the_exact_one(latencies: list[float], share: float) -> None:
    """Less than 5% too high or too low, whatever the latencies are."""
    exact = sorted(latencies)[max(1, math.ceil(share * len(latencies))) - 1]

    found = histogram_of(latencies).quantile(share)

    assert found is not None
    assert exact / STEP < found * (1 + 1e-9)
    assert found < exact * STEP * (1 + 1e-9)


@pytest.mark.seconds
@given(LATENCIES)
def test_quantiles_rise_with_their_share(latencies: list[float]) -> None:
    """p50 is never above p95."""
    histogram = histogram_of(latencies)

    found = [histogram.quantile(share / 20) for share in range(21)]

    assert found == sorted(found, key=lambda value: value or 0.0)


@pytest.mark.seconds
@given(LATENCIES)
def test_several_quantiles_in_one_pass_are_those_taken_one_by_one(latencies: list[float]) -> None:
    histogram = histogram_of(latencies)
    counts = [(bucket, count) for bucket, count in enumerate(histogram.counts) if count]
    shares = [share / 20 for share in range(21)]

    assert quantiles(counts, shares) == [histogram.quantile(share) for share in shares]


def test_a_quantile_is_not_biased_to_an_edge_of_its_bucket() -> None:
    """Of latencies that are spread evenly by ratio every percentile is met to a fifth of a per cent."""
    latencies = [10 ** (-3 + 4 * number / 20_000) for number in range(20_000)]
    histogram = histogram_of(latencies)

    for percent in range(5, 100, 5):
        exact = latencies[math.ceil(percent / 100 * len(latencies)) - 1]
        assert histogram.quantile(percent / 100) == pytest.approx(exact, rel=0.002)


def test_latencies_of_several_processes_add_up() -> None:
    """Quantiles within the 5% of a bucket."""
    left, right = LatencyHistogram(), LatencyHistogram()
    for number in range(1, 101):
        (left if number % 2 else right).record(number / 100)

    both = LatencyHistogram.from_sparse(left.sparse())
    both.add(right)

    for share, expected in ((0.5, 0.5), (0.95, 0.95), (1.0, 1.0)):
        found = both.quantile(share)
        assert found is not None
        assert found == pytest.approx(expected, rel=0.05)
    assert LatencyHistogram().quantile(0.5) is None


def test_a_rate_is_of_the_last_seconds() -> None:
    """An average since the start would hide that a run slows down."""
    rate = WindowedRate(10.0)
    for second in range(100):
        rate.update(min(second, 50) * 1000.0, now=float(second))

    assert rate.per_second() == 0.0


def test_a_rate_is_never_negative() -> None:
    """A crash takes rows back that were not committed."""
    rate = WindowedRate(window_s=10)
    rate.update(100, now=0.0)
    rate.update(40, now=1.0)

    assert rate.per_second() == 0.0
