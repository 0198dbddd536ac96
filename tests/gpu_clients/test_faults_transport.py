"""Servers that refuse, hang, drip, flap, overload, redirect or close at the wrong moment: nothing is lost, nothing
is blamed on a document, the other servers go on."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from bench.standin import StandinConfig, StandinFleet
from gpu_clients.batches.breaker import FIRST_PAUSE_S
from gpu_clients.settings import ClientSettings
from tests.gpu_clients.harness import Harness
from tests.gpu_clients.outcome import Outcome

MODEL = "google/embeddinggemma-300m"
PAST = "Wed, 21 Oct 2015 07:28:00 GMT"


def texts(n: int) -> list[str]:
    """Distinct texts."""
    return [f"document {number} says {number * 7919 % 1000}" for number in range(n)]


def run_with_fault(*faults: str, n: int = 1500, ports: int = 3, hangs: bool = False, **options: object) -> Outcome:
    """A run over `ports` servers, the first of which has `faults` from after the doctor on, and meets them.

    Args:
        hangs: Whether the first server will not answer in time; its client then does not wait for long.
    """
    with StandinFleet(StandinConfig(backend="sim", ports=(0,) * ports)) as fleet:
        settings = ClientSettings(urls=fleet.urls, **options)  # type: ignore[arg-type]
        harness = Harness(fleet.urls, texts(n), settings=settings, timeouts_s={0: 1.0} if hangs else None)
        fleet.control(fleet.ports[0], faults=list(faults))

        def met() -> bool:
            """A fault that acts at once counts no requests."""
            return bool(
                sum(fleet.control(fleet.ports[0])["faults_fired"].values())
                or harness.outcome.told("server_out", "client-0")
            )

        outcome = harness.run(0, met=met if faults else lambda: True)
    outcome.check_exact(MODEL)
    assert not outcome.quarantined
    return outcome


# row 45


@pytest.mark.seconds
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
    outcome = run_with_fault(fault, hangs=fault.startswith("black_hole"))

    assert outcome.told("server_out", "client-0")
    assert outcome.figures("client-0")["rows"] == 0
    assert not outcome.told("server_out", "client-1") + outcome.told("server_out", "client-2")


@pytest.mark.seconds
def test_a_server_that_does_not_answer_at_start_joins_when_it_comes() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        fleet.control(fleet.ports[0], faults=["refuse:down_s=600"])
        harness = Harness(fleet.urls, texts(1000), clients=(0,))  # nobody else takes the work from it
        assert harness.fleet.servers[0].trouble is not None
        harness.start()
        try:
            harness.work(lambda: harness.outcome.states() <= {"out", "probing"})
            fleet.control(fleet.ports[0], clear_faults=True)
            harness.outcome.finished = harness.work(lambda: harness.accounted >= 1000)
        finally:
            harness.finish()
    harness.outcome.check_exact(MODEL)
    assert len(harness.outcome.told("server_back", "client-0")) == 1


@pytest.mark.seconds
@pytest.mark.parametrize("change", [{"max_client_batch_size": 16}, {"model_id": "other"}])
def test_a_server_that_comes_late_and_does_not_fit_stays_out_and_it_is_said_why(change: dict[str, Any]) -> None:
    config = StandinConfig(backend="sim")
    with StandinFleet(config) as fleet, StandinFleet(dataclasses.replace(config, **change)) as other:
        other.control(other.ports[0], faults=["refuse:down_s=600"])
        harness = Harness((*fleet.urls, *other.urls), texts(2000))
        other.control(other.ports[0], clear_faults=True)
        harness.start()
        try:
            wanted = f"does not fit this run: {next(iter(change))}"
            harness.work(lambda: wanted in repr(harness.outcome.told("log", "client-1")))
        finally:
            harness.finish()
    assert not harness.outcome.told("server_back")


# row 46


@pytest.mark.seconds
def test_all_servers_down_for_a_while_pauses_the_work_and_then_continues() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        harness = Harness(fleet.urls, texts(6000))
        harness.start()
        try:
            harness.work(lambda: harness.accounted >= 500)  # most of the others are not in the ring yet
            for port in fleet.ports:
                fleet.control(port, faults=["refuse:down_s=600"])
            harness.work(lambda: harness.outcome.states() <= {"out", "probing"})
            for port in fleet.ports:
                fleet.control(port, clear_faults=True)
            harness.outcome.finished = harness.work(lambda: harness.accounted >= 6000)
        finally:
            harness.finish()
    harness.outcome.check_exact(MODEL)
    assert not harness.outcome.quarantined


# row 47


@pytest.mark.seconds
@pytest.mark.parametrize("retry_after", [None, "1", "21600", PAST.replace(",", "%2C").replace(":", "%3A")])
def test_overload_is_waited_out_whatever_retry_after_says(
    retry_after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_clients.batches.retry.RETRY_AFTER_CAP_S", 1.5)
    asked = f",retry_after={retry_after}" if retry_after else ""
    outcome = run_with_fault(f"status:code=429,first=2{asked}", n=900, ports=1)  # six hours would not end in time

    assert outcome.total("rejected_429") == 2
    assert not outcome.told("server_out")


@pytest.mark.seconds
def test_a_server_that_answers_nothing_but_429_leaves_its_work_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_clients.batches.failure_policy.SWAMPED_S", 0.5)
    outcome = run_with_fault("status:code=429", ports=2)

    assert outcome.told("server_out", "client-0")
    assert outcome.figures("client-0")["rows"] == 0


@pytest.mark.seconds
def test_at_the_end_of_a_run_nobody_waits_for_a_server_that_answers_429(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_clients.batches.failure_policy.SWAMPED_S", 600.0)  # it is not given up
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        harness = Harness(fleet.urls, texts(900))
        fleet.control(fleet.ports[0], faults=["status:code=429"])
        harness.start(0)
        try:
            harness.work(lambda: bool(harness.outcome.figures("client-0").get("rejected_429")))
            harness.start_others()
            harness.command(do="tail")
            harness.outcome.finished = harness.work(lambda: harness.accounted >= 900)
        finally:
            harness.finish()
    harness.outcome.check_exact(MODEL)
    assert not harness.outcome.told("server_out")


# row 48


@pytest.mark.seconds
def test_a_storm_of_503_takes_a_server_out_and_retries_stay_within_their_budget() -> None:
    outcome = run_with_fault("status:code=503")

    figures = outcome.figures("client-0")
    assert outcome.told("server_out", "client-0")
    assert figures["retries"] <= 10 + 0.1 * figures["requests"] + 0.01 * 1000 * outcome.seconds


@pytest.mark.seconds
def test_a_flapping_server_does_not_make_the_breaker_thrash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_clients.batches.breaker.GOOD_SERVICE_S", 600.0)
    n_flaps = 4
    with StandinFleet(StandinConfig(backend="sim")) as fleet:
        harness = Harness(fleet.urls, texts(100_000))
        outcome = harness.outcome
        began_s = time.monotonic()
        harness.start()
        try:
            for flap in range(1, n_flaps + 1):
                fleet.control(fleet.ports[0], faults=["status:code=503"])
                harness.work(lambda flap=flap: len(outcome.told("server_out")) == flap)  # type: ignore[misc]
                fleet.control(fleet.ports[0], clear_faults=True)
                harness.work(lambda flap=flap: len(outcome.told("server_back")) == flap)  # type: ignore[misc]
        finally:
            harness.finish()
    took_s = time.monotonic() - began_s
    # the pause doubles each time, so a server that comes back at once has to wait; a slow machine only takes longer
    assert took_s >= 0.75 * FIRST_PAUSE_S * (2**n_flaps - 1)
    assert not outcome.quarantined


# row 49


@pytest.mark.seconds
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
    outcome = run_with_fault(fault, hangs=True)

    assert outcome.told("server_out", "client-0")
    assert outcome.figures("client-0")["rows"] == 0
    assert outcome.figures("client-0")["bytes_in"] < 50_000_000


# row 57


@pytest.mark.seconds
def test_one_slow_server_does_not_hold_up_the_others() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0, 0))) as fleet:
        harness = Harness(fleet.urls, texts(6000))
        fleet.control(fleet.ports[0], faults=["slow:factor=1000000"])  # this test does not see its answers
        harness.start(0)
        try:
            harness.work(lambda: bool(harness.outcome.figures("client-0").get("taken_rows")))
            harness.start_others()
            harness.work_beside("client-0")
        finally:
            harness.finish()
    assert harness.outcome.figures("client-0")["taken_rows"] < 600
    assert not harness.outcome.told("server_out")


# row 58


@pytest.mark.seconds
def test_a_kept_alive_connection_that_was_closed_is_replaced_at_once_and_not_counted() -> None:
    outcome = run_with_fault("close:every=10", n=4000, ports=1)

    assert not outcome.told("server_out")
    assert outcome.total("retries") == 0
    assert not any(outcome.figures("client-0")["errors"].values())


# row 59


@pytest.mark.seconds
def test_proxies_and_netrc_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login marker password marker\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/")
    run_with_fault(n=300, ports=1)
