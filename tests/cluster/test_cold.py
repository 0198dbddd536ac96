"""Runs over nodes whose shards go to an object store: a real S3 server, one oracle, killed at what cold adds."""

from __future__ import annotations

import dataclasses
import signal

import pytest

from engine.leases.records import Token
from tests.cluster.job import ColdClusterJob
from tests.crash.job import tweets
from tests.parts.fault_proxy import Fault, FaultProxy

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.ray]

N = 1600


def test_g1_g7_nodes_send_their_shards_to_a_store_and_leave_nothing_on_their_disks(cold_job: ColdClusterJob) -> None:
    cold_job.insert(tweets(N))

    first = cold_job.run()
    again = cold_job.run()

    assert first.code == 0, first.err
    assert first.summary["read"] == first.summary["embedded"] == cold_job.n_queue
    assert {Token.of_shard(name) for name in cold_job.state().commits} >= {Token(1, 1), Token(1, 2)}
    assert (again.code, again.summary["read"], again.summary["resumed"]) == (0, 0, cold_job.n_queue)
    cold_job.assert_exact()


@pytest.mark.parametrize("step", ["cold.after_put", "cold.after_check", "cold.before_release"])
def test_g2_a_nodes_writer_killed_at_each_step_of_an_upload_costs_its_open_shard(
    cold_job: ColdClusterJob, step: str
) -> None:
    """What it has uploaded and not proposed is in no ledger: others embed its documents, and the object goes."""
    cold_job.insert(tweets(N))
    witness = cold_job.folder / "killed"

    ended = cold_job.run(ENGINE_FAILPOINTS=f"writer/{step}=kill_once:{witness}")

    assert ended.code == 0, ended.err
    assert witness.exists(), f"{step} was never reached"
    assert len(cold_job.records("REVOKED")) == 1
    assert ended.summary["restarts"] == 1
    cold_job.assert_exact()


@pytest.mark.parametrize("point", ["commit.before#2", "mark.mid#2"])
def test_g6_the_driver_killed_behind_an_upload_is_continued_from_the_store(
    cold_job: ColdClusterJob, point: str
) -> None:
    """Uploaded and not committed: adopted, since its token was current to the end; committed: marked from the store."""
    cold_job.insert(tweets(N))

    cold_job.assert_the_driver_may_be_killed(point)


def test_g2_an_object_of_a_token_that_has_ended_is_removed_by_the_next_start_and_never_adopted(
    cold_job: ColdClusterJob,
) -> None:
    """A writer is killed behind an upload, the driver before it removes the object, and its recovery likewise."""
    cold_job.insert(tweets(N))
    witness, removing = cold_job.folder / "killed", "supervisor/shard.before_remove=kill"

    killed = cold_job.run(ENGINE_FAILPOINTS=f"writer/cold.after_check=kill_once:{witness};{removing}")
    names = {name.rpartition("/")[2] for name in cold_job.server.names(cold_job.bucket) if name.endswith(".parquet")}
    orphans = names - {commit["file"] for commit in cold_job.state().commits.values()}
    killed_again = cold_job.run(ENGINE_FAILPOINTS=removing)
    again = cold_job.run()

    assert killed.code == killed_again.code == -signal.SIGKILL, killed.err + killed_again.err
    assert {str(Token.of_shard(name)) for name in orphans} == {cold_job.records("REVOKED")[0]["token"]}
    assert again.code == 0, again.err
    assert orphans.isdisjoint(cold_job.shard_names())
    cold_job.assert_exact()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(kind="error", path=r"nodes-[0-9a-f]{8}\.[0-9a-f]", status=403, times=1 << 30), "create an object"),
        (Fault(kind="hidden", method="GET", path=r"nodes-[0-9a-f]{8}$", times=1 << 30), "not the driver's store"),
    ],
    ids=["no rights", "another store"],
)
def test_a_store_that_nodes_cannot_use_is_one_sentence_before_anything_is_embedded(
    cold_job: ColdClusterJob, proxy: FaultProxy, fault: Fault, said: str
) -> None:
    cold_job.insert(tweets(60))
    proxy.faults.append(dataclasses.replace(fault))

    refused = cold_job.run()
    proxy.faults.clear()
    ended = cold_job.run()

    assert refused.code == 2, refused.err
    assert "no node can take part" in refused.err and said in refused.err
    assert refused.summary["read"] == 0
    assert ended.code == 0, ended.err
    cold_job.assert_exact()


def test_an_upload_whose_answer_is_lost_is_looked_for_and_counts_once(
    cold_job: ColdClusterJob, proxy: FaultProxy
) -> None:
    proxy.faults.extend([Fault(kind="drop_after"), Fault(kind="error", method="HEAD", status=503, times=2)])
    cold_job.insert(tweets(N))

    ended = cold_job.run()

    assert ended.code == 0, ended.err
    assert not cold_job.records("REVOKED")
    cold_job.assert_exact()
