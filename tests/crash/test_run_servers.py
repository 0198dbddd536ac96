"""`engine run` on servers that are dead, die, misbehave or are others than before."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bench.parts.local_mongod import LocalMongod
from bench.standin import Dialect, StandinFleet
from bench.standin.backends.vectors import text_rows
from tests.conftest import outlives_tests
from tests.crash.conftest import SERVERS
from tests.crash.job import (
    DIM,
    MODEL,
    SLOW,
    Job,
    finish,
    full_speed,
    slow_down,
    tweets,
    wait_for_commit,
)


def test_g9_another_model_is_refused_and_the_fields_are_named(job: Job, fleet: StandinFleet) -> None:
    """Exit 2; nothing is read, written or marked."""
    job.insert(tweets(200))
    assert job.run("--limit", "50").code == 8
    before = job.state().rows

    for port in fleet.ports:
        fleet.control(port, model_id="another-model")
    refused = job.run()
    prompt = job.run("--prompt", "title: none | text: ")

    assert refused.code == 2
    assert "model_id" in refused.err
    assert "another-model" in refused.err
    assert job.state().rows == before
    assert prompt.code == 2
    for port in fleet.ports:
        fleet.control(port, model_id="sim-model")
    assert "prompt" in job.run("--prompt", "x").err
    assert job.run().code == 0
    job.assert_exact()


def test_a_run_against_vllm_stores_the_bytes_that_it_sends(job: Job) -> None:
    """Numbers of 16 bits all the way, exact to the last one; verified, and continued by the same command."""
    job.insert(tweets(200))
    with StandinFleet(dataclasses.replace(SERVERS, ports=(0, 0), dialect=Dialect.VLLM)) as vllms:
        job.urls = vllms.urls
        first = job.run("--vector-type", "float16", "--limit", "60")
        second = job.run("--vector-type", "float16")
        proved = job.call("verify", "--level", "5", "--json")

    n = sum("retweeted" not in document for document in tweets(200))
    assert (first.code, second.code, proved.code) == (8, 0, 0), first.err + second.err + proved.err
    assert (first.summary["embedded"], second.summary["embedded"]) == (60, n - 60)
    expected = text_rows(MODEL, [tweets(200)[key]["text"] for key in job.rows()], DIM).astype(np.float16)
    np.testing.assert_array_equal(np.stack(list(job.rows().values())).astype(np.float16), expected)


def test_g8_servers_of_two_models_are_refused_at_the_start(job: Job, fleet: StandinFleet) -> None:
    """The canary and /info say so."""
    job.insert(tweets(20))
    fleet.control(fleet.ports[1], model_id="another-model")

    ended = job.run()

    assert ended.code == 2
    assert str(fleet.ports[1]) in ended.err
    assert not job.rows()


@contextlib.contextmanager
def own_fleet(**changes: Any) -> Iterator[StandinFleet]:
    """Four servers in four processes, for a test that hurts them."""
    with (
        StandinFleet(dataclasses.replace(SERVERS, **changes), processes=4) as fleet,
        outlives_tests(*fleet.pids),
    ):
        yield fleet


@pytest.mark.crash
def test_one_of_four_servers_dead_from_the_start(job: Job) -> None:
    """The others do its work."""
    job.insert(tweets(400))
    with own_fleet() as own:
        job.urls = own.urls
        own.kill(own.ports[1])
        ended = job.run()

    assert ended.code == 0, ended.err
    job.assert_exact()


@pytest.mark.crash
def test_one_of_four_servers_dying_midway(job: Job, fleet: StandinFleet) -> None:
    """Its batches are handed to the others."""
    job.options = SLOW
    job.insert(tweets(1500))
    with own_fleet() as own:
        job.urls = own.urls
        slow_down(own)
        process = job.start_run()
        wait_for_commit(job, process)
        own.kill(own.ports[0])
        full_speed(own)
        ended = finish(process)

    assert ended.code == 0, ended.err
    job.assert_exact()


@pytest.mark.crash
def test_all_servers_dead_is_exit_7_and_nothing_is_lost(job: Job, fleet: StandinFleet) -> None:
    """At the start, and midway: what was embedded is committed."""
    job.options = SLOW
    job.insert(tweets(1500))
    urls = job.urls
    with own_fleet() as own:
        job.urls = own.urls
        slow_down(own)
        process = job.start_run("--max-outage", "3")  # long enough for a MongoDB that stands still for a moment
        wait_for_commit(job, process)
        for port in own.ports:
            own.kill(port)
        midway = finish(process)
        at_start = job.run("--max-outage", "3")

    assert midway.code == 7, midway.err
    assert midway.summary["embedded"] == job.state().rows
    assert at_start.code == 7, at_start.err
    job.urls = urls
    full_speed(fleet)
    assert job.run().code == 0
    job.assert_exact()


@pytest.mark.parametrize(
    "fault",
    [
        "status:code=503,every=5",
        "status:code=429,every=3",
        "value:value=nan,every=4",
        "count:delta=-1,every=5",
        "dim:to=0,every=5",  # of another dimension it would be two backends
        "zero:every=6",
        "reset:every=7",
        "truncated_json:every=5",
    ],
)
def test_g8_servers_that_misbehave_now_and_then_cost_time_but_no_document(
    job: Job, fleet: StandinFleet, fault: str
) -> None:
    """Unsound answers never reach a shard, and no document is blamed for them."""
    job.insert(tweets(300))
    fleet.control(fleet.ports[1], faults=[fault])

    ended = job.run()

    assert ended.code == 0, ended.err
    job.assert_exact()


@pytest.mark.parametrize("code", [424, 403])
def test_a_text_that_no_server_takes_is_quarantined_alone(job: Job, fleet: StandinFleet, code: int) -> None:
    """Bisected: its neighbours are embedded; exit 3; it can be tried again."""
    job.insert(tweets(300))
    job.database["tweets"].update_one({"_id": 33}, {"$set": {"text": "this one is POISON for all"}})
    for port in fleet.ports:
        fleet.control(port, faults=[f"poison:contains=POISON,code={code}"])

    ended = job.run()

    assert ended.code == 3, ended.err
    job.assert_exact(quarantined={33: job.quarantined()[33]})
    listed = job.call("quarantine", "list", "--json")
    assert [entry["_id"] for entry in json.loads(listed.out)] == [33]
    for port in fleet.ports:
        fleet.control(port, clear_faults=True)
    assert json.loads(job.call("quarantine", "retry", "--json").out) == {"released": 1}
    assert job.run().code == 0
    job.assert_exact()


def test_something_else_behind_a_url_is_exit_2(job: Job, mongod: LocalMongod) -> None:
    """mongod answers HTTP with a sentence of its own; it is no embedding server."""
    job.insert(tweets(5))
    job.urls = (f"http://127.0.0.1:{mongod.port}",)

    ended = job.run("--max-outage", "5")

    assert ended.code in (2, 7), ended.err
    assert str(mongod.port) in ended.err


@pytest.mark.crash
def test_servers_that_come_and_go_without_a_batch_settled_are_an_outage(job: Job) -> None:
    """They answer the examination and die of the first batch, again and again: exit 7, nothing in quarantine."""
    job.insert(tweets(500))
    with own_fleet(faults=("refuse:down_s=0.3,contains=tweet number",)) as own:
        job.urls = own.urls[:1]
        ended = job.run("--max-outage", "20", "--batch-size", "32")  # longer than any single absence
    assert ended.code == 7, ended.err
    assert "server_back" in ended.err
    assert not job.rows()
    assert not job.quarantined()
