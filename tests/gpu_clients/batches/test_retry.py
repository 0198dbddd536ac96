"""Pauses, budgets, the breaker and its probes."""

from __future__ import annotations

import random
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from engine.errors import ProtocolError
from gpu_clients.batches import breaker as breaker_module
from gpu_clients.batches.breaker import MOVES, Breaker, BreakerState
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


def test_a_few_failures_in_a_row_are_enough_and_a_success_between_them_is_not() -> None:
    breaker = Breaker(random.Random(1))
    assert [breaker.failed() for _ in range(4)] == [False, False, False, True]

    breaker = Breaker(random.Random(1))
    for _ in range(3):
        assert not breaker.failed()
        breaker.succeeded()


def test_a_bad_share_of_the_last_requests_is_enough() -> None:
    breaker = Breaker(random.Random(1))
    verdicts = []
    for _ in range(12):
        breaker.succeeded()
        verdicts.append(breaker.failed())
    assert verdicts.index(True) == 9


def test_the_breaker_moves_only_as_its_table_says() -> None:
    for state, allowed in MOVES.items():
        for wanted in BreakerState:
            breaker = Breaker(random.Random(1))
            breaker.state = state
            if wanted in allowed:
                breaker._move(wanted)
                assert breaker.state is wanted
            else:
                with pytest.raises(ProtocolError):
                    breaker._move(wanted)


def test_pauses_between_probes_double_and_are_forgotten_after_good_service(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("gpu_clients.batches.breaker.time.monotonic", lambda: clock[0])
    breaker = Breaker(random.Random(1))

    def pause_s() -> float:
        began_s = clock[0]
        while not breaker.probe_due(clock[0]):
            clock[0] += 0.01
        return clock[0] - began_s

    breaker.trip("x")
    pauses = []
    for _ in range(10):
        pauses.append(pause_s())
        breaker.probe_begins()
        breaker.probe_failed("x")
    assert pauses[3] > 4 * pauses[0]
    assert max(pauses) <= 1.3 * breaker_module.LONGEST_PAUSE_S

    pause_s()
    breaker.probe_begins()
    breaker.probe_passed()
    breaker.succeeded()
    breaker.trip("again at once")
    assert pause_s() > 5, "flapping is not rewarded"
    breaker.probe_begins()
    breaker.probe_passed()
    clock[0] += breaker_module.GOOD_SERVICE_S + 1
    breaker.succeeded()
    breaker.trip("after a while")
    assert pause_s() < 0.5
