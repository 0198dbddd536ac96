"""Files in ranges of rows over the nodes of a real Ray cluster: every format, one oracle, killed midway."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.parts.s3_server import S3Server
from bench.standin import StandinFleet
from engine.leases.records import Token
from engine.ledger.log import read_records
from tests.cluster.job import CLUSTER_S, FilesOnNodes
from tests.cluster.ray_host import RayHost
from tests.crash.files_job import QUARANTINED
from tests.crash.job import SLOW, finish, full_speed, slow_down, wait_until
from tests.crash.objects_job import ObjectsJob
from tests.parts.fault_proxy import FaultProxy

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.ray]

N = 3000


@dataclass(kw_only=True)
class ObjectsOnNodes(FilesOnNodes, ObjectsJob):
    """The same, of files that are objects."""


@pytest.fixture
def job(tmp_path: Path, fleet: StandinFleet, ray_host: RayHost) -> FilesOnNodes:
    """A job over files of every format, with both nodes asking the same two servers."""
    found = FilesOnNodes(folder=tmp_path, urls=fleet.urls[:2], host=ray_host)
    found.fill(N)
    return found


@pytest.fixture
def objects_job(
    tmp_path: Path, fleet: StandinFleet, ray_host: RayHost, s3: S3Server, proxy: FaultProxy
) -> ObjectsOnNodes:
    """A job over the same files as objects of a bucket."""
    bucket = "source-on-nodes"
    s3.make_bucket(bucket)
    found = ObjectsOnNodes(
        folder=tmp_path, urls=fleet.urls[:2], host=ray_host, server=s3, bucket=bucket, endpoint=proxy.endpoint
    )
    found.fill(N)
    return found


def test_g1_g2_files_of_every_format_are_read_by_all_nodes_and_new_ones_by_the_next_run(job: FilesOnNodes) -> None:
    first = job.run()
    job.add_jsonl("later.jsonl", range(N, N + 200))
    second = job.run()

    assert first.code == second.code == QUARANTINED, first.err + second.err
    assert first.summary["read"] == first.summary["embedded"] + len(job.broken) == N
    assert all(node["documents"] > 0 for node in first.summary["nodes"])
    assert (second.summary["embedded"], second.summary["resumed"]) == (200, N - len(job.broken))
    job.assert_exact()


def test_g2_a_lost_nodes_rows_are_read_by_another_one_but_for_those_it_had_committed(
    job: FilesOnNodes, fleet: StandinFleet
) -> None:
    job.options = SLOW
    slow_down(fleet)
    process = job.start_run()

    def committed() -> set[Token | None]:
        assert process.poll() is None, finish(process).err[-3000:]
        return {Token.of_shard(name) for name in job.state().commits}

    wait_until(lambda: len(committed()) >= 2, CLUSTER_S, "commits of both nodes", process)
    job.host.agents()["local-2"].kill()

    def revoked() -> int:
        return sum(record["type"] == "REVOKED" for record in read_records(job.folders.ledger)[0])

    wait_until(lambda: revoked() > 0, CLUSTER_S, "the end of its token", process)
    full_speed(fleet)
    ended = finish(process, CLUSTER_S)

    assert ended.code == QUARANTINED, ended.err
    assert (revoked(), ended.summary["restarts"]) == (1, 1)
    job.assert_exact()


@pytest.mark.parametrize("point", ["files.after", "commit.before", "commit.after"])
def test_g6_the_driver_killed_at_a_step_over_files_is_continued(job: FilesOnNodes, point: str) -> None:
    job.assert_the_supervisor_may_be_killed(point)


def test_nodes_without_the_drivers_files_are_one_sentence_before_anything_is_embedded(job: FilesOnNodes) -> None:
    """The first file is replaced between the driver's look and that of the nodes, which wait for the test."""
    gate, first = job.folder / "gate", min(path for path in job.source.rglob("*") if path.is_file())
    content = first.read_bytes()
    gate.touch()
    process = job.start_run(ENGINE_FAILPOINTS=f"agent/agent.before_files=hold:{gate}")

    wait_until(lambda: bool(job.host.agents()), CLUSTER_S, "a node process", process)
    first.write_bytes(content[:-10])
    gate.unlink()
    refused = finish(process, CLUSTER_S)

    assert refused.code == 2, refused.err
    assert "no node can take part" in refused.err and "is another one than the driver has" in refused.err
    assert refused.summary["read"] == 0


def test_objects_of_every_format_are_read_by_nodes_and_a_killed_reader_costs_its_open_shard(
    objects_job: ObjectsOnNodes,
) -> None:
    objects_job.assert_a_child_may_be_killed("reader/reader.slot_ready#5")


def test_a_limit_over_files_is_kept_and_the_next_run_reads_the_rest(job: FilesOnNodes) -> None:
    limited = job.run("--limit", "1000")
    rest = job.run()

    assert limited.code == 8, limited.err
    assert limited.summary["read"] == limited.summary["embedded"] + limited.summary["quarantined"] == 1000
    assert rest.code == QUARANTINED, rest.err
    assert rest.summary["resumed"] + rest.summary["embedded"] == len(job.texts)
    job.assert_exact()
