"""No vector of a server that has begun to lie is ever committed (docs/adr/0011): real runs, servers and kills."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
from typing import Any

import numpy as np
import psutil
import pytest

from bench.standin import StandinFleet
from bench.standin.backends.vectors import text_rows
from engine.telemetry.status import read_status
from tests.conftest import outlives_tests
from tests.crash.conftest import SERVERS
from tests.crash.job import (
    DIM,
    MODEL,
    Job,
    finish,
    full_speed,
    roles,
    slow_down,
    wait_for_commit,
    wait_for_phase,
    wait_until,
)

pytestmark = pytest.mark.crash

N = 240
CUE = "the cue to lie"
LIES = f"switch_model:model_id=other/model,contains={CUE}"
"""From the request with that text on, every vector is another model's; the server says nothing of it."""
LATE_CANARY = "delay:s=1,contains=The harbour lay quiet"
"""The canary that a proof asks for is answered later than a file is written: who does not wait for it has named it."""
FEW_ROWS = ("--shard-bytes", "64KiB", "--bucketing", "off", "--batch-size", "8", "--concurrency")
SHARDS = (*FEW_ROWS, "1", "--shard-seconds", "0.2")
"""Documents in order, a shard every 0.2 s or so."""


def documents(cues: range = range(0), n: int = N) -> list[dict[str, Any]]:
    """A queue with the cue in some of its texts."""
    return [{"_id": number, "text": f"{CUE if number in cues else 'tweet'} {number}"} for number in range(n)]


def assert_right(job: Job) -> int:
    """Whatever is committed has its own text's vector of the right model; returns how many rows that is."""
    rows = job.rows()
    texts = {document["_id"]: document["text"] for document in job.database[job.collection].find()}
    if rows:
        expected = text_rows(MODEL, [texts[key] for key in rows], DIM).astype(np.float32)
        np.testing.assert_allclose(np.stack(list(rows.values())), expected, atol=1e-6)
    return len(rows)


def favour(fleet: StandinFleet) -> None:
    """The first server lies on cue and is much faster than the second, so that it is the one to get it."""
    fleet.control(fleet.ports[0], faults=[LIES, LATE_CANARY])
    fleet.control(fleet.ports[1], faults=["delay:s=0.03"])


@pytest.mark.parametrize(
    "cues",
    [range(8, 40), range(N // 2, N // 2 + 40), range(N - 40, N)],
    ids=["before the first shard", "midway", "just before the end"],
)
def test_g8_nothing_of_a_server_that_begins_to_lie_is_committed(job: Job, fleet: StandinFleet, cues: range) -> None:
    """One of two servers turns into another model: its rows are refused, read again, and embedded by the other one."""
    job.options = SHARDS
    job.insert(documents(cues))
    favour(fleet)

    ended = job.run()

    job.assert_exact()
    assert ended.code == 0, ended.err
    summary = ended.summary
    liar, other = summary["servers"]
    has_lied = fleet.reports()[0]["faults_fired"]["switch_model"] > 0
    assert liar["url"] == job.urls[0]
    assert (liar["state"] != "ok") == has_lied
    assert (liar["doubtful"], other["doubtful"], other["state"]) == (0, 0, "ok")
    assert (summary["read"], summary["embedded"], summary["restarts"]) == (N, N, 0)
    # none when a canary came back wrong before anything else of the liar did
    assert summary["refusals"] <= has_lied
    assert ("rows_refused" in ended.err) == (summary["refusals"] > 0)


HELD_S = 1.0
"""Four servers at that pace need most of a minute for the cues below, of which a test waits for seconds: a server that
is to lie gets some of them for certain, also on a machine that stands still for a while."""


@pytest.mark.parametrize(
    "groups", [[(0,)], [(0,), (2,)], [(1, 3)]], ids=["one", "two, one after the other", "two at once"]
)
def test_g8_of_four_servers_some_begin_to_lie_midway(
    job: Job, fleet: StandinFleet, groups: list[tuple[int, ...]]
) -> None:
    """What was committed before stays; a liar's rows are refused, read again, and embedded by those that are right."""
    job.urls = fleet.urls
    job.options = SHARDS
    n = 1600
    job.insert(documents(range(80, n), n))
    for port in fleet.ports:
        fleet.control(port, faults=[f"delay:s={HELD_S},contains={CUE}"])
    process = job.start_run()
    wait_for_commit(job, process)
    committed = job.rows()
    for number, group in enumerate(groups, start=1):
        begin_to_lie(fleet, group, process)
        wait_until_found_out(job, group, number, process)
    liars = [liar for group in groups for liar in group]
    for right in set(range(len(fleet.ports))) - set(liars):
        fleet.control(fleet.ports[right], clear_faults=True)
    ended = finish(process)

    job.assert_exact()
    assert ended.code == 0, ended.err
    assert committed.keys() <= job.rows().keys()
    summary = ended.summary
    servers = summary["servers"]
    assert [server["url"] for server in servers] == list(job.urls)
    assert [number for number, server in enumerate(servers) if server["state"] != "ok"] == liars
    assert [server["doubtful"] for server in servers] == [0] * len(servers)
    assert (summary["read"], summary["embedded"], summary["restarts"]) == (n, n, 0)
    # when two lie in one generation, the first to be found out ends it, and the other is found out in the next
    assert len(groups) <= summary["refusals"] == ended.err.count("rows_refused")


def begin_to_lie(fleet: StandinFleet, liars: tuple[int, ...], process: subprocess.Popen[str]) -> None:
    """Have servers lie from their next cue on, and be slow to be found out; wait until they do."""
    for liar in liars:
        fleet.control(fleet.ports[liar], faults=[LIES, LATE_CANARY])

    def lie() -> bool:
        reports = fleet.reports()
        return all(reports[liar]["faults_fired"].get("switch_model") for liar in liars)

    wait_until(lie, what="the lies", process=process)


def wait_until_found_out(job: Job, liars: tuple[int, ...], n_refusals: int, process: subprocess.Popen[str]) -> None:
    """Wait until the run says that it has refused so many times and uses none of the liars."""

    def found_out() -> bool:
        status = read_status(job.folders.status) or {}
        breakers = [status.get("clients", {}).get(f"client-{liar}", {}).get("breaker", "ok") for liar in liars]
        return status.get("refusals", 0) >= n_refusals and "ok" not in breakers

    wait_until(found_out, what="the refusal", process=process)


@pytest.mark.parametrize("n_servers", [1, 2])
def test_g8_when_every_server_lies_the_run_ends_with_exit_7_and_nothing_wrong_is_committed(
    job: Job, fleet: StandinFleet, n_servers: int
) -> None:
    """What was right before stays; once the servers are right again the same command goes on."""
    job.urls = job.urls[:n_servers]
    job.options = SHARDS
    job.insert(documents(range(N // 2, N)))
    for port in fleet.ports[:n_servers]:
        fleet.control(port, faults=[LIES, "delay:s=0.02"])

    ended = job.run("--max-outage", "3")

    assert ended.code == 7, ended.err
    assert assert_right(job) == ended.summary["embedded"] < N
    assert ended.summary["refusals"] <= n_servers
    assert ended.err.count("the canary's vectors have drifted") >= n_servers
    for port in fleet.ports[:n_servers]:
        fleet.control(port, clear_faults=True)
    assert job.run().code == 0
    job.assert_exact()


@pytest.mark.parametrize("options", [("--no-mark", "--dedup"), ("--limit", "200")], ids=["no-mark, dedup", "limit"])
def test_g8_a_lie_is_refused_whatever_else_the_run_does(
    job: Job, fleet: StandinFleet, options: tuple[str, ...]
) -> None:
    """Without marks, with equal texts sent once, with a limit whose documents are read twice."""
    job.options = SHARDS
    job.insert(documents())
    tweets = job.database[job.collection]
    tweets.update_many({"_id": {"$mod": [2, 0]}}, {"$set": {"text": "the same for many"}})
    tweets.update_many({"_id": {"$gte": 100, "$lt": 140}}, {"$set": {"text": CUE}})
    favour(fleet)

    ended = job.run(*options)

    assert ended.code == (8 if "--limit" in options else 0), ended.err
    assert ended.summary["refusals"] <= 1
    if "--limit" in options:
        assert assert_right(job) == ended.summary["read"] == 200
    else:
        job.assert_exact(marked=False)


def test_g6_g8_a_run_killed_after_a_refusal_is_continued_exactly(job: Job, fleet: StandinFleet) -> None:
    """The refusal's own recovery is cut off; the next start finds what is missing."""
    job.options = SHARDS
    job.insert(documents(range(60, 100)))
    favour(fleet)

    killed = job.run(ENGINE_FAILPOINTS="supervisor/recovery.after_epoch#2=kill")
    assert_right(job)
    fleet.control(fleet.ports[0], clear_faults=True)
    again = job.run()

    assert killed.code in (-signal.SIGKILL, 0), killed.err
    assert again.code == 0, again.err
    job.assert_exact()


def test_g8_a_server_that_dies_while_a_proof_is_awaited_holds_nothing(job: Job) -> None:
    """The supervisor is stopped before it asks, one server killed: the shard is committed, the run goes on."""
    config = dataclasses.replace(SERVERS, ports=(0, 0))
    with StandinFleet(config, processes=2) as fleet, outlives_tests(*fleet.pids):
        job.urls = fleet.urls
        job.options = (*FEW_ROWS, "1", "--shard-seconds", "0.5")
        for port in fleet.ports:
            fleet.control(port, faults=["delay:s=0.02"])
        job.insert(documents())
        process = job.start_run(ENGINE_FAILPOINTS="supervisor/proof.before_asked=stop")
        wait_until(lambda: is_stopped(process.pid), what="the first question for a proof")
        fleet.kill(fleet.ports[1])
        os.kill(process.pid, signal.SIGCONT)
        ended = finish(process)

    assert ended.code == 0, ended.err
    assert (ended.summary["restarts"], ended.summary["refusals"]) == (0, 0)
    job.assert_exact()


def wait_until_awaited(process: subprocess.Popen[str]) -> int:
    """Wait until a client, stopped at the fail point, is all that keeps a shard from being proved."""
    wait_until(lambda: "client-0" in roles(process), what="the client")
    client = roles(process)["client-0"]
    wait_until(lambda: is_stopped(client), what="the client's answer to the question for a proof")
    return client


def is_stopped(pid: int) -> bool:
    """Whether a process has been stopped by a signal."""
    return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)


@pytest.mark.parametrize("n_signals", [1, 2])
def test_g8_ctrl_c_while_a_proof_is_awaited(job: Job, fleet: StandinFleet, n_signals: int) -> None:
    """Once: the shard is committed when it is proved. Twice: it is given up. Both: exact after the next run."""
    job.options = SHARDS
    slow_down(fleet, 0.2)
    job.insert(documents(n=2000))  # more than anybody embeds until both signals have come
    process = job.start_run(ENGINE_FAILPOINTS="client-0/client.before_proof=stop")
    client = wait_until_awaited(process)
    committed = job.state().rows

    os.kill(process.pid, signal.SIGINT)
    if n_signals == 1:
        os.kill(client, signal.SIGCONT)
    else:
        wait_for_phase(job, process, "stopping")
        os.kill(process.pid, signal.SIGINT)
    ended = finish(process)

    assert ended.code == 130, ended.err
    assert committed == 0
    assert assert_right(job) == ended.summary["embedded"]
    assert (ended.summary["embedded"] > 0) == (n_signals == 1)
    full_speed(fleet)
    assert job.run().code == 0
    job.assert_exact()
