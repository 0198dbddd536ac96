"""Pauses before a request is sent again, and the budget of retries."""

from __future__ import annotations

import random
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from gpu_clients.batches.retry import (
    CAP_S,
    OVERLOAD_CAP_S,
    OVERLOAD_FLOOR_S,
    RETRY_AFTER_CAP_S,
    RetryBudget,
    backoff_s,
    overload_pause_s,
    parse_retry_after,
)


def test_pauses_after_errors_have_full_jitter_and_a_cap() -> None:
    rng = random.Random(1)
    for attempt in range(1, 40):
        pauses = [backoff_s(attempt, rng) for _ in range(200)]
        assert 0 <= min(pauses) <= max(pauses) <= min(CAP_S, 0.05 * 2.0**attempt)
        assert len(set(pauses)) > 100


def test_pauses_after_overload_have_a_floor() -> None:
    rng = random.Random(1)
    for in_a_row in range(1, 30):
        for _ in range(100):
            assert OVERLOAD_FLOOR_S <= overload_pause_s(in_a_row, None, rng) <= OVERLOAD_CAP_S


@pytest.mark.parametrize(
    ("value", "low_s", "high_s"),
    [
        ("1", 1.0, 2.0),
        ("0", 0.0, OVERLOAD_CAP_S),
        ("21600", RETRY_AFTER_CAP_S, RETRY_AFTER_CAP_S + OVERLOAD_CAP_S),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0, OVERLOAD_CAP_S),
        ("soon", 0.0, OVERLOAD_CAP_S),
        ("-5", 0.0, OVERLOAD_CAP_S),
    ],
)
def test_retry_after_is_honoured_within_reason(value: str, low_s: float, high_s: float) -> None:
    assert low_s <= overload_pause_s(1, value, random.Random(1)) <= high_s


def test_a_date_in_the_future_is_that_many_seconds_away() -> None:
    at = datetime(2026, 1, 1, tzinfo=timezone.utc)
    value = format_datetime(at + timedelta(seconds=30), usegmt=True)

    assert parse_retry_after(value, at.timestamp()) == pytest.approx(30)


def test_retries_are_a_share_of_what_went_well() -> None:
    budget = RetryBudget(0.1, reserve=5.0, flow_per_s=0.0)
    now_s = time.monotonic()
    assert sum(budget.spend(now_s) for _ in range(100)) == 5
    for _ in range(50):
        budget.earn()
    assert sum(budget.spend(now_s) for _ in range(100)) in (4, 5), "50 x 0.1, as far as floats go"


def test_a_budget_that_is_used_up_trickles_back() -> None:
    budget = RetryBudget(0.0, reserve=5.0, flow_per_s=1.0)
    now_s = time.monotonic()
    while budget.spend(now_s):
        pass
    assert not budget.spend(now_s + 0.5)
    assert budget.spend(now_s + 1.6)
