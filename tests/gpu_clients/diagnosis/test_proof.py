"""The proof before a shard is named, from the client's side: what a right canary confirms, and what nothing does."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from bench.standin import StandinConfig, StandinFleet
from gpu_clients.diagnosis.proof import UnprovenRows
from gpu_clients.settings import ClientSettings
from tests.gpu_clients.harness import Harness
from tests.gpu_clients.test_faults_transport import texts

CANARY = "The harbour lay quiet"
NEVER_S = 600.0
"""Between two canaries that nobody asks for; the three at the start come all the same."""


def quiet_harness(fleet: StandinFleet, n: int, **options: int) -> Harness:
    """One client of the first server."""
    settings = ClientSettings(urls=fleet.urls, canary_every_s=NEVER_S)
    return Harness(fleet.urls, texts(n), settings=settings, clients=(0,), **options)  # type: ignore[arg-type]


@pytest.mark.seconds
def test_a_proof_is_given_while_answers_wait_for_the_writer() -> None:
    """The writer that awaits it takes nothing, so the client must not wait for the writer first."""
    with StandinFleet(StandinConfig(backend="sim", ports=(0,))) as fleet:
        harness = quiet_harness(fleet, 50_000, n_vectors=2)
        harness.hold_vectors = True
        harness.start()
        try:
            harness.work(lambda: harness.outcome.figures("client-0").get("rows", 0) >= 64)
            harness.command(do="prove", number=7)
            harness.work(lambda: bool(harness.outcome.told("proof")))
            harness.hold_vectors = False
            harness.work(lambda: harness.accounted > 64)
        finally:
            harness.finish()
    assert [proof["number"] for proof in harness.outcome.told("proof")] == [7]
    assert harness.outcome.figures("client-0")["doubtful_rows"] == 0


@pytest.mark.seconds
def test_a_server_that_cannot_be_asked_gets_its_rows_counted_as_doubtful_and_holds_nothing() -> None:
    """Once; another proof finds nothing open."""
    with StandinFleet(StandinConfig(backend="sim", ports=(0,))) as fleet:
        harness = quiet_harness(fleet, 960)
        fleet.control(fleet.ports[0], faults=[f"delay:s=60,contains={CANARY}"])
        harness.start()
        try:
            harness.work(lambda: harness.accounted >= 960)
            fleet.control(fleet.ports[0], faults=["refuse:down_s=600"], reset_connections=True)
            harness.command(do="prove", number=1)
            harness.work(lambda: len(harness.outcome.told("proof")) == 1)
            harness.command(do="prove", number=2)
            harness.work(lambda: len(harness.outcome.told("proof")) == 2)
        finally:
            harness.finish()
    assert harness.outcome.figures("client-0")["doubtful_rows"] == 960
    assert not harness.outcome.told("drift")


def test_the_vectors_of_a_hedge_are_proved_at_the_server_that_gave_them() -> None:
    """Our own server is right and slow; the one that helped out turns into another model before the proof."""
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        settings = ClientSettings(urls=fleet.urls, canary_every_s=NEVER_S, hedge_share=1.0)
        harness = Harness(fleet.urls, texts(64), settings=settings, clients=(0,))
        fleet.control(fleet.ports[0], faults=["delay:s=3600"])
        harness.start()
        try:
            harness.command(do="tail")
            harness.work(lambda: harness.accounted > 0)
            fleet.control(fleet.ports[1], faults=["other_model"])
            harness.command(do="prove", number=1)
            harness.work(lambda: bool(harness.outcome.told("drift")))
        finally:
            harness.finish()
    drift = harness.outcome.told("drift")[0]
    assert (drift["server"], drift["url"]) == (1, fleet.urls[1])
    assert drift["rows"] >= 32


@pytest.mark.parametrize("liar", [0, 1], ids=["our own", "the one that helped out"])
def test_every_server_with_open_rows_is_asked(liar: int) -> None:
    """One batch is our own server's, one a neighbour's; whichever turns into another model then, it is found."""
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        settings = ClientSettings(urls=fleet.urls, canary_every_s=NEVER_S, hedge_share=1.0)
        queue = texts(64)
        harness = Harness(fleet.urls, queue, settings=settings, clients=(0,))
        # our server keeps the second batch, and the canaries of the start, which would confirm for the first one
        hung = [f"delay:s=3600,contains={text}" for text in (quote(queue[-1], safe=""), CANARY)]
        fleet.control(fleet.ports[0], faults=hung)
        harness.start()
        try:
            harness.work(lambda: harness.accounted >= 32)
            harness.command(do="tail")
            harness.work(lambda: harness.accounted >= 64)
            harness.work(lambda: fleet.reports()[0]["faults_fired"]["delay"] >= 2)
            fleet.control(fleet.ports[liar], faults=["other_model"])
            harness.command(do="prove", number=1)
            harness.work(lambda: bool(harness.outcome.told("drift")))
        finally:
            harness.finish()
    drift = harness.outcome.told("drift")[0]
    assert (drift["server"], drift["url"], drift["rows"]) == (liar, fleet.urls[liar], 32)


@pytest.mark.seconds
def test_a_server_under_suspicion_works_only_after_a_right_canary() -> None:
    """As after an outage, and only after one; a server that has drifted too often does not come back at all."""
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        settings = ClientSettings(urls=fleet.urls, canary_every_s=NEVER_S)
        harness = Harness(fleet.urls, texts(3000), settings=settings)
        outcome = harness.outcome
        harness.start()
        fleet.control(fleet.ports[0], faults=["refuse:down_s=600"], reset_connections=True)
        harness.command("client-0", do="suspect", for_good=False)
        harness.command("client-1", do="suspect", for_good=True)
        try:
            harness.work(lambda: any("cannot connect" in str(line) for line in outcome.told("log", "client-0")))
            fleet.control(fleet.ports[0], clear_faults=True)
            harness.work(lambda: harness.accounted >= 3000)
        finally:
            harness.finish()
    assert outcome.told("server_back", "client-0")
    assert not outcome.told("server_back", "client-1")
    assert outcome.figures("client-1")["state"] == "out"


def test_rows_are_open_until_a_canary_that_was_begun_after_them() -> None:
    """Counted by server, never twice."""
    unproven = UnprovenRows()
    unproven.rows_of.update({0: 10, 3: 4})
    begun = unproven.rows(0)
    unproven.rows_of[0] += 5

    assert unproven.servers() == [0, 3]
    assert unproven.confirm(0, begun) == 10
    assert unproven.confirm(0, begun) == 0
    assert (unproven.unproven_rows(0, unproven.rows(0)), unproven.unproven_rows(0, begun)) == (5, 0)
    assert unproven.confirm(0, unproven.rows(0)) == 5
    assert unproven.servers() == [3]
