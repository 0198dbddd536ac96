"""`engine run` on a URL behind which unlike backends answer: exit 7, its name, and nothing of it committed."""

from __future__ import annotations

import pytest

from bench.standin import StandinConfig, StandinFleet
from tests.crash.job import DIM, MODEL, Job, finish, tweets, wait_for_commit
from tests.crash.test_proof import SHARDS, assert_right, wait_until_found_out
from tests.gpu_clients.servers.balancer import balancer

pytestmark = pytest.mark.crash


def test_g8_several_backends_behind_one_url_are_refused_by_name(job: Job, fleet: StandinFleet) -> None:
    """Before anything is read, and without waiting for --max-outage."""
    job.insert(tweets(50))
    fleet.control(fleet.ports[1], faults=["other_model"])
    with balancer(*fleet.ports[:2]) as url:
        job.urls = (url,)
        ended = job.run()
    assert ended.code == 7, ended.err
    assert url in ended.err
    assert "unlike backends" in ended.err
    assert not job.rows()
    assert not job.database[job.collection].count_documents({"gemma_embedded_768": True})


@pytest.mark.parametrize("n_servers", [1, 2])
def test_g8_wrong_vectors_and_then_right_ones_end_the_run_and_are_not_committed(
    job: Job, fleet: StandinFleet, n_servers: int
) -> None:
    """As when a rolling update begins; the same command goes on once the URL leads to one model."""
    job.urls = fleet.urls[:n_servers]
    job.options = SHARDS
    job.insert(tweets(20_000))
    for port in fleet.ports[:n_servers]:
        fleet.control(port, faults=["delay:s=0.02"])
    process = job.start_run()
    wait_for_commit(job, process)
    fleet.control(fleet.ports[0], add_faults=["other_model"])
    wait_until_found_out(job, (0,), 0, process)
    fleet.control(fleet.ports[0], faults=["delay:s=0.02"])
    ended = finish(process)
    assert ended.code == 7, ended.err
    assert job.urls[0] in ended.err
    assert "unlike backends" in ended.err
    assert 0 < assert_right(job) < 20_000


def test_g8_a_replica_of_another_dimension_that_joins_a_run_ends_it_by_name(job: Job, fleet: StandinFleet) -> None:
    """What right replicas gave is committed; the same command goes on once the URL leads to one model."""
    job.options = SHARDS
    job.insert(tweets(20_000))
    fleet.control(fleet.ports[0], faults=["delay:s=0.02"])
    joined: list[int] = []
    other = StandinConfig(backend="sim", ports=(0,), model_id=MODEL, dim=2 * DIM)
    with StandinFleet(other) as unlike, balancer(fleet.ports[0], joined=joined) as url:
        job.urls = (url,)
        process = job.start_run()
        wait_for_commit(job, process)
        joined += unlike.ports
        ended = finish(process)
    assert ended.code == 7, ended.err
    assert url in ended.err
    assert "unlike backends" in ended.err
    assert f"vectors of {2 * DIM} numbers, expected {DIM}" in ended.err
    assert 0 < assert_right(job) < 20_000
