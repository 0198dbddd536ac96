"""`engine merge` and `engine verify` as a user calls them, on what a real run made: MongoDB, servers, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from bench.parts.local_mongod import LocalMongod
from bench.standin import StandinConfig, StandinFleet
from engine.errors import Exit
from tests.conftest import outlives_tests
from tests.crash.job import DIM, DONE, MODEL, Job
from tests.parts import prewarmed
from tests.writers.dataset import COLLECTION, DATABASE, DONE_FIELD, DataSet


@pytest.fixture(scope="module")
def fleet() -> Iterator[StandinFleet]:
    servers = StandinConfig(backend="sim", ports=(0,), model_id=MODEL, dim=DIM)
    with StandinFleet(servers) as made, outlives_tests(made.pid):
        yield made


@pytest.fixture
def job(tmp_path: Path, mongod: LocalMongod, mongo_db: Database[dict[str, Any]], fleet: StandinFleet) -> Job:
    return Job(folder=tmp_path, uri=mongod.uri, database=mongo_db, urls=fleet.urls)


def documents(numbers: range) -> list[dict[str, Any]]:
    common = {"lang": "en", "classified": True, "retweeted": None}
    return [{"_id": number, "text": f"text of document {number}", **common} for number in numbers]


def counts(report: dict[str, Any]) -> dict[str, int]:
    return {kind: found["count"] for kind, found in report["findings"].items()}


def test_from_the_run_to_the_proof_against_mongodb_and_the_servers(job: Job, fleet: StandinFleet) -> None:
    """One story, because every command takes a second to start."""
    tweets = job.database[job.collection]
    job.insert(documents(range(400)))
    assert job.run().code == Exit.DONE

    fresh = job.call("verify", "--level", "5", "--json")
    assert (fresh.code, fresh.summary["rows"]) == (Exit.DONE, 400), fresh
    assert fresh.summary["not_checked"] == [] and fresh.summary["cosine"]["lowest"] > 0.9999

    tweets.insert_many(documents(range(400, 1000)))
    running = job.start_run()
    meanwhile = job.call("merge", "--json")
    assert running.wait(150) == Exit.DONE, running.communicate()
    running.communicate()
    after = job.call("merge", "--json", "--delete-sources", "--sort", "_id")
    assert (meanwhile.code, after.code) == (Exit.DONE, Exit.DONE), (meanwhile, after)
    assert meanwhile.summary["rows"] + after.summary["rows"] == 1000
    assert list(job.folders.shards.iterdir()) == []
    merged = job.call("verify", "--level", "5", "--json", "--sample-rows", "1000")
    assert (merged.code, merged.summary["rows"], counts(merged.summary)) == (Exit.DONE, 1000, {}), merged

    tweets.update_many({"_id": {"$in": [7, 8, 9]}}, {"$unset": {DONE: ""}})
    tweets.insert_many([{**document, DONE: True} for document in documents(range(2000, 2002))])
    tweets.delete_one({"_id": 500})
    tweets.update_one({"_id": 600}, {"$set": {"text": "something else altogether"}})
    changed = job.call("verify", "--level", "5", "--json", "--sample-rows", "1000")
    assert changed.code == Exit.VERIFICATION, changed
    assert counts(changed.summary) == {"unmarked": 3, "marked_without_row": 2, "drifted": 1}
    assert changed.summary["gone"] == 1
    examples = changed.summary["findings"]
    (unmarked,) = examples["unmarked"]["examples"]
    assert sorted(unmarked.removeprefix("ids ").split(", ")) == ["7", "8", "9"]  # in the order of rows, which may vary
    assert examples["marked_without_row"]["examples"] == ["ids 2000, 2001"]

    for port in fleet.ports:
        fleet.control(port, faults=["other_model"])
    other_weights = job.call("verify", "--level", "5", "--json")
    for port in fleet.ports:
        fleet.control(port, clear_faults=True)
    assert other_weights.code == Exit.USAGE, other_weights
    assert "those of the canary texts are others (cosine" in other_weights.err
    assert examples["drifted"]["examples"][0].startswith("id 600: cosine ")
    told = job.call("verify", "--level", "4")
    assert told.code == Exit.VERIFICATION and "DIFFERENCES" in told.out and "not checked: level 5" in told.out


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataSet]:
    made = DataSet(tmp_path)
    made.add_shard(range(0, 1500))
    yield made
    made.close()


def start(
    data: DataSet, *arguments: str, failpoints: str = "", popen: type[subprocess.Popen[str]] = prewarmed.Popen
) -> subprocess.Popen[str]:
    """A command in a process group of its own, as a shell starts it."""
    environment = {
        **os.environ,
        "ENGINE_DATABASE": DATABASE,
        "ENGINE_COLLECTION": COLLECTION,
        "ENGINE_DONE_FIELD": DONE_FIELD,
        "ENGINE_HOT_DIR": str(data.root / "hot"),
        "ENGINE_COLD_DIR": str(data.root / "cold"),
        "ENGINE_FAILPOINTS": failpoints,
    }
    command = [sys.executable, "-m", "cli", *arguments]
    pipe = subprocess.PIPE
    return popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


@pytest.mark.seconds
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, Exit.SIGINT), (signal.SIGTERM, Exit.SIGTERM)])
def test_a_merge_that_is_interrupted_says_so_in_one_line_and_leaves_nothing_half_done(
    data: DataSet, number: signal.Signals, code: Exit
) -> None:
    merging = start(data, "merge", "--sort", "_id", failpoints="merge-worker/merge.before_close=sleep:60")
    deadline = time.monotonic() + 60
    while not list(data.folders.consolidated.glob("*.inprogress")):
        assert time.monotonic() < deadline and merging.poll() is None, merging.communicate()
        time.sleep(0.02)
    os.killpg(merging.pid, number)  # as a terminal does: the workers get it too
    out, err = merging.communicate(timeout=150)
    assert (merging.returncode, out) == (code, "")
    assert err.splitlines()[-1] == f"engine: stopped by {number.name}" and "Traceback" not in err
    assert not list(data.folders.consolidated.glob("*.inprogress"))
    again = start(data, "merge", "--sort", "_id", "--json")
    out, err = again.communicate(timeout=150)
    assert again.returncode == Exit.DONE and json.loads(out)["rows"] == 1500, err
    assert sorted(path.name for path in data.folders.hot.iterdir()) == ["ledger"]


@pytest.mark.seconds
def test_a_verification_that_is_interrupted_while_it_starts_stays_quiet(data: DataSet) -> None:
    """Workers that have not yet come to ignore Ctrl-C must not fill the terminal with tracebacks."""
    (shard,) = data.folders.shards.iterdir()
    shard.unlink()
    os.mkfifo(shard)  # whoever opens it waits
    verifying = start(data, "verify", popen=subprocess.Popen)
    deadline = time.monotonic() + 60
    while not list(data.folders.hot.glob("engine-verify-*/lock")):
        assert time.monotonic() < deadline and verifying.poll() is None, verifying.communicate()
        time.sleep(0.005)
    os.killpg(verifying.pid, signal.SIGINT)
    out, err = verifying.communicate(timeout=150)
    assert (verifying.returncode, out) == (Exit.SIGINT, "")
    assert err.splitlines() == ["engine: stopped by SIGINT"]
    assert not list(data.folders.hot.glob("engine-verify-*"))
