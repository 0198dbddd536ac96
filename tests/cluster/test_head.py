"""The head of a Ray cluster is lost, and with it all of the cluster, while the driver lives; or it never answers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pymongo.database import Database

from bench.parts.local_mongod import LocalMongod
from bench.standin import StandinFleet
from engine.errors import Exit
from tests.cluster.job import CLUSTER_S, ClusterJob, are_gone, tree
from tests.cluster.ray_host import RayHost
from tests.crash.job import SLOW, finish, full_speed, slow_down, tweets, wait_until

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.ray]


@pytest.fixture
def lonely_host(ray_host: RayHost) -> Iterator[RayHost]:  # `ray_host` for its skips: it knows whether Ray is there
    """A cluster of one node that a test may ruin."""
    with RayHost(1) as host:
        yield host


def test_g6_the_head_killed_ends_the_run_with_a_sentence_and_another_cluster_continues_it(
    job: ClusterJob,
    fleet: StandinFleet,
    lonely_host: RayHost,
    tmp_path: Path,
    mongod: LocalMongod,
    mongo_db: Database[dict[str, Any]],
) -> None:
    ruined = ClusterJob(
        folder=tmp_path, uri=mongod.uri, database=mongo_db, urls=fleet.urls[:2], host=lonely_host, options=SLOW
    )
    ruined.insert(tweets(900))
    slow_down(fleet)
    process = ruined.start_run()
    ruined.wait_for_commits_of_all(process, 1)
    members = tree(ruined.agent("local-1"))
    raylet = psutil.Process(lonely_host.raylets["local-1"])
    heads = [one for one in tree(raylet.parent()) if one.name() == "gcs_server"]
    assert heads

    for one in [*heads, raylet]:
        one.kill()
    ended = finish(process, CLUSTER_S)
    wait_until(lambda: are_gone(members), CLUSTER_S, "the end of the node's processes")
    full_speed(fleet)
    again = job.run()

    assert ended.code == Exit.UNEXPECTED
    assert "the connection to Ray has ended" in ended.err.splitlines()[-1], ended.err
    assert 0 < ended.summary["embedded"] < job.n_queue
    assert again.code == 0, again.err
    job.assert_exact()


def test_a_head_that_does_not_answer_is_told_of_with_rays_own_words_and_may_be_stopped(job: ClusterJob) -> None:
    """Ray itself tries for minutes and says nothing but to its log."""
    job.insert(tweets(60))
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        process = job.start("run", "--json", "--ray", f"127.0.0.1:{nobody.getsockname()[1]}", *job.options)
        assert process.stderr is not None  # a pipe
        heard = []
        while not heard or (heard[-1] and "waiting_for_ray" not in heard[-1]):
            heard.append(process.stderr.readline())
        below = tree(psutil.Process(process.pid))[1:]
        process.terminate()
        ended = finish(process, CLUSTER_S)

    assert "address=127.0.0.1:" in heard[-1] and "last_words=" in heard[-1], heard
    assert below and are_gone(below)
    assert ended.code == Exit.SIGTERM, ended.err
