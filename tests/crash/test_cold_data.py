"""What is done with a data set on an object store after its run: verify, status, plan."""

from __future__ import annotations

import json

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


def test_status_and_plan_take_a_url_as_cold(data_set: ColdJob) -> None:
    """Nothing is asked of the store; what lies on hot on its way is in the plan."""
    data_set.database[data_set.collection].insert_many([{"_id": N + n, "text": f"late {n}"} for n in range(50)])

    status = data_set.call("status", "--json")
    plan = data_set.call("plan", "--json", "--max-seconds", "1")

    assert status.code == 0, status.err
    assert status.summary["documents"]["committed"] == len(data_set.rows())
    assert plan.code == 0, plan.err
    assert json.loads(plan.out)["free"]["cold"] is None
