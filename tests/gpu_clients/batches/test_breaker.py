"""When a server is taken out of use, and when it is examined again."""

from __future__ import annotations

import random

import pytest

from engine.errors import ProtocolError
from gpu_clients.batches import breaker as breaker_module
from gpu_clients.batches.breaker import MOVES, Breaker, BreakerState


def test_a_few_failures_in_a_row_are_enough_and_a_success_between_them_is_not() -> None:
    breaker = Breaker(random.Random(1))
    assert [breaker.failed() for _ in range(4)] == [False, False, False, True]

    breaker = Breaker(random.Random(1))
    for _ in range(3):
        assert not breaker.failed()
        breaker.succeeded()


def test_after_a_right_canary_failures_are_counted_anew() -> None:
    breaker = Breaker(random.Random(1))
    assert [breaker.failed() for _ in range(4)] == [False, False, False, True]
    breaker.cleared()
    assert [breaker.failed() for _ in range(4)] == [False, False, False, True]


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
