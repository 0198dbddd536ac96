"""What is done with a data set on an object store after its run: verify, status, plan."""

from __future__ import annotations

import io
import json
import signal

import pyarrow.parquet as pq
import pytest

from tests.crash.cold_job import ColdJob
from tests.crash.job import tweets
from tests.parts.fault_proxy import Fault, FaultProxy

pytestmark = pytest.mark.crash

N = 1800


@pytest.fixture
def data_set(cold_job: ColdJob) -> ColdJob:
    """A finished run on a store."""
    cold_job.insert(tweets(N))
    ended = cold_job.run()
    assert ended.code == 0, ended.err
    return cold_job


def test_verify_proves_a_data_set_on_a_store_at_every_level(data_set: ColdJob, proxy: FaultProxy) -> None:
    """Level 5 holds all others; read by ranges, with errors of the store on the way."""
    proxy.faults.extend(
        [
            Fault(kind="error", method="GET", status=503),
            Fault(kind="cut", method="GET"),
            Fault(kind="drop", method="HEAD"),
        ]
    )

    ended = data_set.call("verify", "--level", "5", "--json", "--jobs", "2")

    assert ended.code == 0, ended.err + ended.out
    assert ended.summary["rows"] == len(data_set.rows())
    assert ended.summary["bytes"] == sum(commit["bytes"] for commit in data_set.state().commits.values())
    assert all(fault.hits == 1 for fault in proxy.faults)


@pytest.mark.parametrize("level", ["0", "3"])
def test_verify_finds_what_is_damaged_missing_and_extra_on_a_store(data_set: ColdJob, level: str) -> None:
    """Exit 4, each by its URL."""
    first, second, *_ = [data_set.key(commit["file"]) for commit in data_set.state().commits.values()]
    whole = data_set.server.get(data_set.bucket, first)
    middle = len(whole) // 2
    data_set.server.put(data_set.bucket, first, whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    data_set.server.delete(data_set.bucket, second)
    data_set.server.put(data_set.bucket, data_set.key("stray.parquet"), whole)

    ended = data_set.call("verify", "--level", level, "--json", "--jobs", "1")

    assert ended.code == 4, ended.err + ended.out
    findings = ended.summary["findings"]
    assert set(findings) == {"damaged", "missing", "extra"}
    assert first in findings["damaged"]["examples"][0]
    assert second in findings["missing"]["examples"][0]
    assert "stray.parquet" in findings["extra"]["examples"][0]


def test_verify_of_a_store_that_is_away_is_one_sentence(data_set: ColdJob) -> None:
    """Exit 5 for rights that are gone; nothing is called damaged that could not be read."""
    ended = data_set.call("verify", "--level", "2", "--cold-dir", "s3://no-such-bucket/some/where")

    assert ended.code == 5, ended.err + ended.out
    assert "no-such-bucket" in ended.err


def test_status_search_and_plan_take_a_url_as_cold(data_set: ColdJob) -> None:
    """Rows are found in objects; status and plan ask nothing of the store."""
    data_set.database[data_set.collection].insert_many([{"_id": N + n, "text": f"late {n}"} for n in range(50)])

    status = data_set.call("status", "--json")
    search = data_set.call("search", "--id", "7", "--k", "3", "--json")
    plan = data_set.call("plan", "--json", "--max-seconds", "1")

    assert status.code == 0, status.err
    assert status.summary["documents"]["committed"] == len(data_set.rows())
    assert search.code == 0, search.err
    assert len(json.loads(search.out)) == 3
    assert plan.code == 0, plan.err
    assert json.loads(plan.out)["free"]["cold"] is None


def merged_rows(job: ColdJob) -> int:
    """Rows of all consolidated objects; an id that is there twice fails here."""
    keys = [key for key in job.server.names(job.bucket) if key.startswith(f"{job.base}consolidated/")]
    tables = [pq.read_table(io.BytesIO(job.server.get(job.bucket, key))) for key in keys]
    ids = [value for table in tables for value in table.column("_id").to_pylist()]
    assert len(ids) == len(set(ids))
    return len(ids)


@pytest.mark.parametrize("sort", ["none", "_id"])
def test_merge_reads_from_a_store_and_writes_to_it_and_removes_sources_behind_the_record(
    data_set: ColdJob, proxy: FaultProxy, sort: str
) -> None:
    """Through hot, proved, uploaded; `verify` finds shards and outputs equal; then the shards go, nothing else."""
    n_rows = len(data_set.rows())
    proxy.faults.extend([Fault(kind="drop_after", path="consolidated"), Fault(kind="error", method="GET", status=503)])

    merged = data_set.call("merge", "--sort", sort, "--json", "--jobs", "2")
    verified = data_set.call("verify", "--level", "4", "--json", "--jobs", "2")
    removed = data_set.call("merge", "--sort", sort, "--delete-sources", "--json", "--jobs", "2")
    again = data_set.call("verify", "--level", "5", "--json", "--jobs", "2")

    assert merged.code == 0, merged.err
    assert merged.summary["rows"] == n_rows
    assert merged.summary["target"].startswith(data_set.url)
    assert verified.code == 0, verified.err + verified.out
    assert removed.code == 0, removed.err
    assert removed.summary["sources_removed"] == len(data_set.state().commits)
    assert again.code == 0, again.err + again.out
    assert again.summary["removed_shards"] == len(data_set.state().commits)
    assert merged_rows(data_set) == n_rows
    assert not [key for key in data_set.server.names(data_set.bucket) if "/consolidated/part-" not in key]
    assert not list(data_set.folders.cold.rglob("*.parquet*"))


@pytest.mark.parametrize(
    "point",
    [
        "merge.after_link",
        "cold.before_put",
        "cold.after_put",
        "cold.after_check",
        "merge.after_merged",
        "merge.after_removal",
    ],
)
def test_a_merge_to_a_store_that_is_killed_at_each_step_is_completed_by_the_same_command(
    data_set: ColdJob, point: str
) -> None:
    """What is on the store without a record is written again; every row once; no copy stays on hot."""
    n_rows = len(data_set.rows())
    command = ("merge", "--delete-sources", "--json", "--jobs", "1")

    killed = data_set.call(*command, ENGINE_FAILPOINTS=f"merge/{point}=kill")
    again = data_set.call(*command)
    verified = data_set.call("verify", "--level", "4", "--json", "--jobs", "1")

    assert killed.code == -signal.SIGKILL, killed.err
    assert again.code == 0, again.err
    assert verified.code == 0, verified.err + verified.out
    assert merged_rows(data_set) == n_rows
    assert not list(data_set.folders.cold.rglob("*.parquet*"))


def test_a_merge_never_replaces_an_object_of_another_program(data_set: ColdJob) -> None:
    """A taken name is exit 4, named and untouched; no source is removed."""
    key = f"{data_set.base}consolidated/part-0001-000000.parquet"
    data_set.server.put(data_set.bucket, key, b"somebody else's")

    refused = data_set.call("merge", "--delete-sources", "--jobs", "1")

    assert refused.code == 4, refused.err
    assert key in refused.err
    assert data_set.server.get(data_set.bucket, key) == b"somebody else's"
    data_set.server.delete(data_set.bucket, key)
    assert len(data_set.shard_names()) == len(data_set.state().commits)
    assert data_set.call("merge", "--jobs", "1").code == 0
