"""Shares of one queue on several machines: real runs side by side over one mongod, judged by one oracle over all."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench.standin import StandinFleet
from bench.standin.backends.vectors import text_rows
from tests.crash.files_job import FilesJob
from tests.crash.job import DIM, DONE, MODEL, SLOW, Job, finish, full_speed, slow_down, tweets, wait_for_commit

pytestmark = pytest.mark.crash

N = 900
USAGE = 2


def machines(job: Job, count: int, *, shared_cold: bool) -> list[Job]:
    """The same job on several machines: a hot folder each, one cold folder or one each."""
    cold = [job.folder / ("cold" if shared_cold else f"cold-{number}") for number in range(count)]
    return [dataclasses.replace(job, hot=job.folder / f"hot-{at}", cold=cold[at]) for at in range(count)]


def assert_exact_together(jobs: list[Job]) -> None:
    """The oracle over all: every document of the queue is in one row of one machine, with its vector, and marked."""
    queue = list(jobs[0].database[jobs[0].collection].find({"retweeted": None}))
    rows: dict[Any, Any] = {}
    for job in jobs:
        found = job.rows()
        assert rows.keys().isdisjoint(found), "a document is in the shards of two machines"
        rows.update(found)
    assert rows.keys() == {document["_id"] for document in queue}
    assert all(document.get(DONE) is True for document in queue)
    texts = {document["_id"]: document["text"] for document in queue}
    expected = text_rows(MODEL, [texts[key] for key in rows], DIM).astype(np.float32)
    np.testing.assert_allclose(np.stack(list(rows.values())), expected, atol=1e-6)
    there = {name for job in jobs for name in job.shard_names()}
    assert there == {commit["file"] for job in jobs for commit in job.state().commits.values()}


@pytest.mark.parametrize("shared_cold", [True, False], ids=["shared cold", "cold each"])
def test_g1_g2_two_machines_side_by_side_of_which_one_is_killed_embed_every_document_once(
    job: Job, fleet: StandinFleet, shared_cold: bool
) -> None:
    job.insert(tweets(N))
    job.options = SLOW
    first, second = machines(job, 2, shared_cold=shared_cold)
    slow_down(fleet)
    one, two = first.start_run("--part", "1/2"), second.start_run("--part", "2/2")
    wait_for_commit(first, one)
    wait_for_commit(second, two)
    one.kill()
    finish(one)
    full_speed(fleet)

    ended = finish(two)
    again = first.run("--part", "1/2")

    assert one.returncode == -signal.SIGKILL
    assert ended.code == 0, ended.err
    assert again.code == 0, again.err
    assert_exact_together([first, second])
    for part, machine in (("1/2", first), ("2/2", second)):
        assert machine.state().run is not None and machine.state().run["part"] == part  # type: ignore[index]
        verified = machine.call("verify", "--level", "4", "--json")
        assert verified.code == 0, verified.out
        assert any(f"--part {part}" in said for said in verified.summary["not_checked"])
        assert machine.call("status", "--json").summary["part"] == part
        assert f"share       {part} of the queue" in machine.call("status").out


@pytest.mark.parametrize(
    "point", ["recovery.after_epoch", "commit.before", "commit.after", "mark.mid", "marked.before"]
)
def test_g2_g6_a_machine_killed_at_each_step_beside_finished_shares_goes_on_with_its_own(job: Job, point: str) -> None:
    job.insert(tweets(300))
    first, second = machines(job, 2, shared_cold=True)
    assert first.run("--part", "1/2").code == 0

    killed = second.run("--part", "2/2", ENGINE_FAILPOINTS=f"supervisor/{point}=kill")
    again = second.run("--part", "2/2")

    assert killed.code == -signal.SIGKILL
    assert again.code == 0, again.err
    assert_exact_together([first, second])


def test_a_mark_that_a_share_did_not_set_is_found_by_the_verification_of_its_share_alone(job: Job) -> None:
    job.insert(tweets(200))
    first, second = machines(job, 2, shared_cold=True)
    assert first.run("--part", "1/2").code == 0
    left = [document["_id"] for document in job.database[job.collection].find({"retweeted": None, DONE: None})]
    job.database[job.collection].update_one({"_id": left[0]}, {"$set": {DONE: True}})

    assert second.run("--part", "2/2").code == 0

    assert first.call("verify", "--level", "4", "--json").code == 0
    found = second.call("verify", "--level", "4", "--json")
    assert found.code == 4
    assert found.summary["findings"]["marked_without_row"]["count"] == 1


def test_another_share_than_the_ledger_has_is_refused_and_so_is_none(job: Job) -> None:
    job.insert(tweets(60))
    assert job.run("--part", "1/2").code == 0
    before = job.folders.ledger.read_bytes()

    for arguments, asked in ((("--part", "2/2"), "--part 2/2"), (("--part", "1/3"), "--part 1/3"), ((), "whole queue")):
        refused = job.run(*arguments)
        assert refused.code == USAGE
        assert asked in refused.err and "begun with --part 1/2" in refused.err
    assert job.folders.ledger.read_bytes() == before


def test_a_share_of_a_queue_that_was_begun_as_a_whole_is_refused(job: Job) -> None:
    job.insert(tweets(60))
    assert job.run("--limit", "10").code == 8

    refused = job.run("--part", "1/2")

    assert refused.code == USAGE
    assert "begun with the whole queue (without --part)" in refused.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--part", "1/2"), "--part 1/2 overlaps"),
        (("--part", "2/3"), "--part 2/3 overlaps"),
        ((), "is new"),
    ],
    ids=["the same share", "a share of another n", "the whole queue"],
)
def test_a_new_ledger_whose_share_overlaps_shards_in_the_cold_folder_is_refused(
    job: Job, arguments: tuple[str, ...], said: str
) -> None:
    job.insert(tweets(60))
    first, other = machines(job, 2, shared_cold=True)
    assert first.run("--part", "1/2").code == 0

    refused = other.run(*arguments)

    assert refused.code == USAGE
    assert said in refused.err and "p1of2" in refused.err
    assert not other.state().commits


def test_a_share_that_another_ledger_began_meanwhile_is_refused_at_the_next_start(job: Job) -> None:
    job.insert(tweets(90))
    first, other = machines(job, 2, shared_cold=False)
    assert first.run("--part", "1/2", "--limit", "10").code == 8
    assert other.run("--part", "1/2", "--limit", "10").code == 8
    for name in other.shard_names():
        shutil.copy(other.shard(name), first.folders.shards / name)

    refused = first.run("--part", "1/2")

    assert refused.code == USAGE
    assert "overlaps" in refused.err


def test_plan_forecasts_the_share(job: Job) -> None:
    job.insert(tweets(300))
    shares = [job.call("plan", "--part", f"{number}/2", "--max-seconds", "2", "--json").summary for number in (1, 2)]
    assert [share["part"] for share in shares] == ["1/2", "2/2"]
    assert sum(share["documents"] for share in shares) == job.n_queue


def test_g1_g2_two_machines_embed_every_row_of_files_once_and_one_is_killed(
    tmp_path: Path, fleet: StandinFleet
) -> None:
    whole = FilesJob(folder=tmp_path / "whole", urls=fleet.urls[:2])
    (tmp_path / "whole").mkdir()
    for number in range(8):
        whole.add_jsonl(f"day-{number}.jsonl", range(number * 40, number * 40 + 40))
    jobs = []
    for part in ("1/2", "2/2"):
        folder = tmp_path / part.replace("/", "of")
        shutil.copytree(whole.folder, folder)
        jobs.append(FilesJob(folder=folder, urls=whole.urls))

    killed = jobs[0].run("--part", "1/2", ENGINE_FAILPOINTS="supervisor/commit.after=kill")
    results = [job.run("--part", part) for job, part in zip(jobs, ("1/2", "2/2"), strict=True)]

    assert killed.code == -signal.SIGKILL
    assert [result.code for result in results] == [0, 0], [result.err for result in results]
    rows = [job.rows() for job in jobs]
    assert rows[0] and rows[1] and rows[0].keys().isdisjoint(rows[1])
    assert rows[0].keys() | rows[1].keys() == whole.texts.keys()
    refused = jobs[0].run("--part", "2/2")
    assert refused.code == USAGE and "begun with --part 1/2" in refused.err
    assert json.loads(jobs[0].call("verify", "--source", str(jobs[0].source), "--level", "4", "--json").out)["ok"]


def test_shards_of_all_shares_are_merged_as_one_and_each_share_alone(job: Job) -> None:
    job.insert(tweets(300))
    jobs = machines(job, 2, shared_cold=True)
    for number, machine in enumerate(jobs, 1):
        assert machine.run("--part", f"{number}/2").code == 0
    n_rows = [machine.state().rows for machine in jobs]

    alone = jobs[0].call("merge", "--target", str(job.folder / "merged-1"), "--json")
    whole = jobs[0].call(
        "merge", "--source", str(jobs[0].folders.shards), "--target", str(job.folder / "merged"), "--json"
    )

    assert (alone.code, whole.code) == (0, 0), alone.err + whole.err
    assert pq.read_table(job.folder / "merged-1").num_rows == n_rows[0]
    ids = pq.read_table(job.folder / "merged", columns=["_id"]).column(0).to_pylist()
    assert len(ids) == len(set(ids)) == sum(n_rows) == job.n_queue
