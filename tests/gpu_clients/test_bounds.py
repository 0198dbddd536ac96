"""The bound of docs/servers.md against real clients and servers: every status, and every way of not answering."""

from __future__ import annotations

import dataclasses

import pytest

from bench.standin import StandinConfig, StandinFleet
from tests.gpu_clients.harness import Harness

SIM = StandinConfig(backend="sim", ports=(0, 0))
MODEL = "google/embeddinggemma-300m"
ROWS = 8
MOST_REQUESTS_A_BATCH = 4 * (2 * ROWS - 1) + 20
"""A batch that is halved down to single texts, each piece asked for twice beside a canary each, and its first tries."""


@pytest.mark.seconds
@pytest.mark.parametrize(
    "first",
    [300, 350, 400, 450, *(pytest.param(first, marks=pytest.mark.slow) for first in (500, 550))],
)
def test_a_text_that_any_status_is_answered_to_goes_into_quarantine_and_nothing_else_does(first: int) -> None:
    """Fifty texts, a status each, the same on both servers."""
    statuses = range(first, first + 50)
    guilty = {1 + 2 * ROWS * number: status for number, status in enumerate(statuses)}
    texts = [
        f"text {number} gets {guilty[number]}." if number in guilty else f"text {number}"
        for number in range(2 * ROWS * len(statuses))
    ]
    faults = [f"status:code={status},contains=gets {status}.,body=html" for status in statuses]
    with StandinFleet(SIM) as fleet:
        harness = Harness(fleet.urls, texts, batch_rows=ROWS)
        for port in fleet.ports:
            fleet.control(port, faults=faults, reset_counters=True)
        outcome = harness.run()
        n_requests = sum(report["embed_requests"] for report in fleet.reports())
    outcome.check_exact(MODEL)
    assert set(outcome.quarantined) == set(guilty)
    for number, status in guilty.items():
        assert f"HTTP {status}" in outcome.quarantined[number]["detail"]
    assert n_requests <= len(guilty) * MOST_REQUESTS_A_BATCH + len(texts)


WAYS = {
    "a reset": "reset:at=request",
    "half an answer": "reset:at=body",
    "a page for people": "html200",
    "half of the JSON": "truncated_json",
    "too few vectors": "count:delta=-1",
    "another dimension": "dim:to=767",
    "no number": "value:value=nan",
    "a huge body": "huge_body:bytes=200000000",
    "a redirect": "redirect",
    "not found": "status:code=404",
    "forbidden": "status:code=403,body=html",
    "a dead GPU": "status:code=500",
    "a gateway": "status:code=502,body=html",
    "a strange status": "status:code=599,body=empty",
}


@pytest.mark.seconds
@pytest.mark.parametrize("way", list(WAYS))
def test_whatever_one_server_of_four_answers_to_everything_the_others_do_the_work(way: str) -> None:
    texts = [f"text {number}" for number in range(1_500)]
    with StandinFleet(dataclasses.replace(SIM, ports=(0,) * 4)) as fleet:
        harness = Harness(fleet.urls, texts, batch_rows=ROWS)
        fleet.control(fleet.ports[0], faults=[WAYS[way]])
        outcome = harness.run(0, met=lambda: bool(outcome_told(harness)))
    outcome.check_exact(MODEL)
    assert not outcome.quarantined
    assert outcome.figures("client-0")["rows"] == 0


@pytest.mark.parametrize("way", list(WAYS))
def test_whatever_all_servers_answer_to_everything_they_are_out_and_no_text_is_blamed(way: str) -> None:
    """What ends the run then is --max-outage."""
    with StandinFleet(SIM) as fleet:
        harness = Harness(fleet.urls, [f"text {number}" for number in range(200)], batch_rows=ROWS)
        for port in fleet.ports:
            fleet.control(port, faults=[WAYS[way]])
        harness.start()
        try:
            harness.work(lambda: all(harness.outcome.told("server_out", role) for role in harness.outcome.events))
        finally:
            harness.finish()
    assert all(harness.outcome.told("server_out", role) for role in harness.outcome.events)
    assert not harness.outcome.quarantined
    assert not harness.outcome.deliveries


def outcome_told(harness: Harness) -> list[object]:
    """When the first server went out."""
    return list(harness.outcome.told("server_out", "client-0"))
