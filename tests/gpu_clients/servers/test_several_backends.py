"""One URL, several backends: unlike answers are found out, and the URL is refused by name."""

from __future__ import annotations

import dataclasses
import re

import pytest

from bench.standin import StandinConfig, StandinFleet
from engine.errors import Exit, ServersUnavailable, SeveralBackends
from gpu_clients.servers.doctor import examine
from gpu_clients.servers.repeated_looks import FORGOTTEN_AFTER_S, UNLIKE_TURNS, UnlikeTurns
from gpu_clients.settings import ClientSettings
from tests.gpu_clients.harness import Harness
from tests.gpu_clients.servers.balancer import balancer
from tests.gpu_clients.test_faults_transport import texts

SIM = StandinConfig(backend="sim")


@pytest.mark.parametrize("n_good", [1, 2, 4])
def test_a_balancer_before_unlike_replicas_is_refused_by_name(n_good: int) -> None:
    """They say the same of themselves; only their vectors differ."""
    config = dataclasses.replace(SIM, ports=(0,) * (n_good + 1), faults=("other_model:on=0",))
    refused = pytest.raises(SeveralBackends, match="unlike backends")
    with StandinFleet(config) as fleet, balancer(*fleet.ports) as url, refused as caught:
        examine(ClientSettings(urls=(url,)))
    assert url in str(caught.value)
    assert caught.value.exit_code == Exit.SERVERS
    assert isinstance(caught.value, ServersUnavailable)


@pytest.mark.parametrize("change", [{"model_id": "other/model"}, {"dtype": "float16"}, {"max_input_length": 512}])
def test_a_balancer_before_replicas_that_say_unlike_things_is_refused_by_what_they_say(
    change: dict[str, object],
) -> None:
    other = dataclasses.replace(SIM, **change)  # type: ignore[arg-type]
    refused = pytest.raises(SeveralBackends, match=f"unlike backends.*{next(iter(change))}")
    with StandinFleet(SIM) as one, StandinFleet(other) as two, balancer(*one.ports, *two.ports) as url, refused:
        examine(ClientSettings(urls=(url,)))


def test_a_balancer_before_replicas_of_unlike_dimension_is_refused_by_name() -> None:
    """They say nothing of their dimension; the vectors do."""
    other = dataclasses.replace(SIM, dim=256)
    refused = pytest.raises(SeveralBackends, match=r"unlike backends.*numbers")
    with (
        StandinFleet(SIM) as one,
        StandinFleet(other) as two,
        balancer(*one.ports, *two.ports) as url,
        refused as caught,
    ):
        examine(ClientSettings(urls=(url,)))
    assert url in str(caught.value)


def test_a_balancer_before_like_replicas_is_let_in_without_a_word() -> None:
    with StandinFleet(dataclasses.replace(SIM, ports=(0, 0, 0))) as fleet, balancer(*fleet.ports) as url:
        found = examine(ClientSettings(urls=(url,)))
    assert not [warning for warning in found.warnings if "neighbours" in warning or "peers" in warning]


@pytest.mark.seconds
def test_of_ten_replicas_a_bad_one_is_found_in_nineteen_of_twenty_starts() -> None:
    """Each request goes to a replica by chance; the odds are 0.9 ** 34 to miss it, seeds are fixed."""
    found = 0
    with StandinFleet(SIM) as fleet:
        for seed in range(20):
            fleet.control(fleet.ports[0], faults=[f"other_model:probability=0.1,seed={seed}"])
            try:
                examine(ClientSettings(urls=fleet.urls))
            except SeveralBackends:
                found += 1
    assert found >= 19


def test_that_a_vector_changes_with_its_neighbours_is_not_believed_of_two_replicas() -> None:
    """The mixed arrangement from one replica, the equal one from the other: as if neighbours mattered."""
    with StandinFleet(dataclasses.replace(SIM, ports=(0, 0), faults=("other_model:on=1",))) as fleet:
        for order in (fleet.ports, fleet.ports[::-1]):
            with balancer(*order) as url, pytest.raises(SeveralBackends):
                examine(ClientSettings(urls=(url,)))


@pytest.mark.seconds
def test_wrong_vectors_and_then_right_ones_are_no_recovery() -> None:
    """The server was there all the time: it is not let in again, and the run is told."""
    with StandinFleet(dataclasses.replace(SIM, ports=(0, 0))) as fleet:
        settings = ClientSettings(urls=fleet.urls, canary_every_s=0.1)
        harness = Harness(fleet.urls, texts(100_000), settings=settings)
        outcome = harness.outcome
        harness.start()
        try:
            harness.work(lambda: bool(outcome.figures("client-0").get("rows")))
            fleet.control(fleet.ports[0], faults=["other_model"])
            harness.work(lambda: bool(outcome.told("server_out", "client-0")))
            fleet.control(fleet.ports[0], clear_faults=True)
            harness.work(lambda: bool(outcome.told("several_backends", "client-0")))
        finally:
            harness.finish()
    told = outcome.told("several_backends")[0]
    assert told["url"] == fleet.urls[0]
    assert "unlike backends" in told["reason"]
    assert not outcome.told("server_back", "client-0")


@pytest.mark.seconds
def test_a_server_that_was_away_after_wrong_vectors_is_let_in_when_they_are_right() -> None:
    """It was started again with the right model."""
    with StandinFleet(dataclasses.replace(SIM, ports=(0, 0))) as fleet:
        settings = ClientSettings(urls=fleet.urls, canary_every_s=0.1)
        harness = Harness(fleet.urls, texts(100_000), settings=settings)
        outcome = harness.outcome
        harness.start()
        try:
            harness.work(lambda: bool(outcome.figures("client-0").get("rows")))
            fleet.control(fleet.ports[0], faults=["other_model"])
            harness.work(lambda: bool(outcome.told("server_out", "client-0")))
            fleet.control(fleet.ports[0], faults=["refuse:down_s=600"], reset_connections=True)
            harness.work(lambda: any("cannot connect" in str(line) for line in outcome.told("log", "client-0")))
            fleet.control(fleet.ports[0], clear_faults=True)
            harness.work(lambda: bool(outcome.told("server_back", "client-0") + outcome.told("several_backends")))
        finally:
            harness.finish()
    assert outcome.told("server_back", "client-0")
    assert not outcome.told("several_backends")


@pytest.mark.seconds
def test_a_replica_of_another_dimension_that_joins_while_a_run_goes_on_is_named() -> None:
    """Its vectors are in no row; the servers that are one each do the work."""
    joined: list[int] = []
    other = dataclasses.replace(SIM, ports=(0,), dim=256)
    with (
        StandinFleet(dataclasses.replace(SIM, ports=(0, 0))) as fleet,
        StandinFleet(other) as unlike,
        balancer(fleet.ports[0], joined=joined) as url,
    ):
        urls = (url, fleet.urls[1])
        harness = Harness(urls, texts(100_000), settings=ClientSettings(urls=urls, canary_every_s=0.1))
        outcome = harness.outcome
        harness.start()
        try:
            harness.work(lambda: bool(outcome.figures("client-0").get("rows")))
            joined += unlike.ports
            harness.work(lambda: bool(outcome.told("several_backends", "client-0")))
        finally:
            harness.finish()
    told = outcome.told("several_backends")
    assert [event["url"] for event in told] == [url]
    assert "unlike backends" in told[0]["reason"]
    # a batch or a look at the server finds it, whichever comes first, and each has words of its own
    assert {"256", "768"} <= set(re.findall(r"\d+", told[0]["reason"]))
    assert told[0]["reason"] in {event["reason"] for event in outcome.told("server_out", "client-0")}


@pytest.mark.parametrize("turns", range(UNLIKE_TURNS + 1))
def test_a_few_turns_of_one_other_dimension_between_right_answers_show_several_backends(turns: int) -> None:
    seen = UnlikeTurns()
    for _ in range(turns):
        seen.wrong("vectors of 5 numbers")
        seen.wrong("vectors of 5 numbers")
        seen.right()
    assert (seen.why is not None) == (turns >= UNLIKE_TURNS)


def test_a_server_that_has_become_another_one_is_not_taken_for_several() -> None:
    """Right before, and of another dimension from then on; of ever another one; long ago."""
    seen = UnlikeTurns()
    seen.right()
    for _ in range(100):
        seen.wrong("vectors of 5 numbers")
    for number in range(100):
        seen.right()
        seen.wrong(f"vectors of {number} numbers")
    assert seen.why is None


def test_what_was_unlike_long_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr("gpu_clients.servers.repeated_looks.time.monotonic", lambda: now_s)
    seen = UnlikeTurns()
    for _ in range(10 * UNLIKE_TURNS):
        now_s += FORGOTTEN_AFTER_S + 1
        seen.wrong("vectors of 5 numbers")
        seen.right()
    assert seen.why is None
