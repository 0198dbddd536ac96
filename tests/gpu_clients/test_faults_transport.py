"""Servers that refuse, hang, drip, flap, overload, redirect or close at the wrong moment: nothing is lost, nothing
is blamed on a document, the other servers go on."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from bench.standin import StandinConfig, StandinFleet
from gpu_clients.settings import ClientSettings
from tests.gpu_clients.harness import Harness, Outcome

MODEL = "google/embeddinggemma-300m"
PAST = "Wed, 21 Oct 2015 07:28:00 GMT"


def texts(n: int) -> list[str]:
    """Distinct texts."""
    return [f"document {number} says {number * 7919 % 1000}" for number in range(n)]


def run_with_fault(*faults: str, n: int = 1500, ports: int = 3, **options: object) -> Outcome:
    """A run over `ports` servers, the first of which has `faults` from after the doctor on."""
    with StandinFleet(StandinConfig(backend="sim", ports=(0,) * ports)) as fleet:
        settings = ClientSettings(urls=fleet.urls, **{"request_timeout_s": 1.0, **options})  # type: ignore[arg-type]
        harness = Harness(fleet.urls, texts(n), settings=settings)
        fleet.control(fleet.ports[0], faults=list(faults))
        outcome = harness.run()
    outcome.check_exact(MODEL)
    assert not outcome.quarantined
    return outcome


# row 45


@pytest.mark.parametrize(
    "fault",
    [
        "refuse:down_s=60",
        "black_hole:at=accept",
        "black_hole:at=request",
        "reset:at=body",
        "reset:at=headers",
        "reset:at=request",
        "reset:at=accept",
    ],
)
def test_the_other_servers_take_over_from_one_that_cannot_be_reached(fault: str) -> None:
    outcome = run_with_fault(fault)

    assert outcome.told("server_out", "client-0")
    assert outcome.figures("client-0")["rows"] == 0
    assert not outcome.told("server_out", "client-1") + outcome.told("server_out", "client-2")


def test_a_server_that_does_not_answer_at_start_joins_when_it_comes(tmp_path: Path) -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        fleet.control(fleet.ports[0], faults=["refuse:down_s=1"])
        harness = Harness(fleet.urls, texts(30_000))
        assert harness.fleet.servers[0].trouble is not None
        harness.start()
        try:
            back = harness.work(lambda: bool(harness.outcome.told("server_back", "client-0")), 20.0)
            assert back
            rows_s = time.monotonic() + 20.0
            worked = harness.work(
                lambda: (
                    any(e.get("rows") for e in harness.outcome.told("client", "client-0")) or time.monotonic() > rows_s
                ),
                30.0,
            )
            assert worked and harness.outcome.figures("client-0")["rows"] > 0
        finally:
            harness.finish()


@pytest.mark.parametrize("change", [{"max_client_batch_size": 16}, {"model_id": "other"}])
def test_a_server_that_comes_late_and_does_not_fit_stays_out_and_it_is_said_why(change: dict[str, Any]) -> None:
    config = StandinConfig(backend="sim")
    with StandinFleet(config) as fleet, StandinFleet(dataclasses.replace(config, **change)) as other:
        other.control(other.ports[0], faults=["refuse:down_s=0.7"])
        harness = Harness((*fleet.urls, *other.urls), texts(50_000))
        harness.start()
        try:
            wanted = f"does not fit this run: {next(iter(change))}"
            assert harness.work(lambda: wanted in repr(harness.outcome.told("log", "client-1")), 30.0)
        finally:
            harness.finish()
    assert not harness.outcome.told("server_back")


# row 46


def test_all_servers_down_for_a_while_pauses_the_work_and_then_continues() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        harness = Harness(fleet.urls, texts(6000))
        harness.start()
        try:
            harness.work(lambda: harness.accounted >= 500, 20.0)
            for port in fleet.ports:
                fleet.control(port, faults=["refuse:down_s=1.5"])
            assert harness.work(lambda: harness.outcome.states() <= {"out", "probing"}, 20.0)
            harness.outcome.finished = harness.work(lambda: harness.accounted >= 6000, 40.0)
        finally:
            harness.finish()
    harness.outcome.check_exact(MODEL)
    assert not harness.outcome.quarantined


# row 47


@pytest.mark.parametrize("retry_after", [None, "1", "21600", PAST.replace(",", "%2C").replace(":", "%3A")])
def test_overload_is_waited_out_whatever_retry_after_says(
    retry_after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_clients.retry.RETRY_AFTER_CAP_S", 1.5)
    asked = f",retry_after={retry_after}" if retry_after else ""
    outcome = run_with_fault(f"status:code=429,first=2{asked}", n=900, ports=1)  # six hours would not end in time

    assert outcome.total("rejected_429") == 2
    assert not outcome.told("server_out")


def test_a_server_that_answers_nothing_but_429_leaves_its_work_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_clients.stage.SWAMPED_S", 0.5)
    outcome = run_with_fault("status:code=429", ports=2)

    assert outcome.told("server_out", "client-0")
    assert outcome.figures("client-0")["rows"] == 0


def test_at_the_end_of_a_run_nobody_waits_for_a_server_that_answers_429() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        harness = Harness(fleet.urls, texts(900))
        fleet.control(fleet.ports[0], faults=["status:code=429"])
        harness.start()
        try:
            harness.work(lambda: bool(harness.outcome.figures("client-0").get("rejected_429")), 20.0)
            harness.command(do="tail")
            harness.outcome.finished = harness.work(lambda: harness.accounted >= 900, 15.0)
        finally:
            harness.finish()
    harness.outcome.check_exact(MODEL)
    assert not harness.outcome.told("server_out"), "it was not yet given up"


# row 48


def test_a_storm_of_503_takes_a_server_out_and_retries_stay_within_their_budget() -> None:
    outcome = run_with_fault("status:code=503")

    figures = outcome.figures("client-0")
    assert outcome.told("server_out", "client-0")
    assert figures["retries"] <= 10 + 0.1 * figures["requests"] + 0.01 * 1000 * outcome.seconds


def test_a_flapping_server_does_not_make_the_breaker_thrash() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        harness = Harness(fleet.urls, texts(100_000), settings=ClientSettings(urls=fleet.urls))
        fleet.control(fleet.ports[0], faults=["status:code=503,period_s=1,duty=0.5"])
        harness.start()
        try:
            began_s = time.monotonic()
            harness.work(lambda: time.monotonic() - began_s > 4.5, 10.0)
        finally:
            harness.finish()
    outs = harness.outcome.told("server_out", "client-0")
    assert 1 <= len(outs) <= 4, "the pause doubles, so not every flap is an out"
    assert not harness.outcome.quarantined


# row 49


@pytest.mark.parametrize(
    "fault",
    [
        "drip:bytes_per_s=1",
        "endless_headers:interval_s=0.005",
        "huge_body:bytes=2000000000",
        "huge_body:bytes=2000000000,chunked=true",
        "gzip_bomb:bytes=100000000",
    ],
)
def test_an_answer_that_never_ends_costs_a_bounded_time_and_memory(fault: str) -> None:
    outcome = run_with_fault(fault)

    assert outcome.told("server_out", "client-0")
    assert outcome.figures("client-0")["rows"] == 0
    assert outcome.figures("client-0")["bytes_in"] < 50_000_000


# row 57


def test_one_slow_server_does_not_hold_up_the_others() -> None:
    outcome = run_with_fault("slow:factor=50", n=6000, request_timeout_s=60.0)

    fast = [outcome.figures(f"client-{index}")["rows"] for index in (1, 2)]
    assert outcome.figures("client-0")["rows"] < min(fast) / 3
    assert not outcome.told("server_out")


# row 58


def test_a_kept_alive_connection_that_was_closed_is_replaced_at_once_and_not_counted() -> None:
    outcome = run_with_fault("close:every=10", n=4000, ports=1)

    assert not outcome.told("server_out")
    assert outcome.total("retries") == 0
    assert not any(outcome.figures("client-0")["errors"].values())


# row 59


def test_proxies_and_netrc_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login marker password marker\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/")
    run_with_fault(n=300, ports=1)
