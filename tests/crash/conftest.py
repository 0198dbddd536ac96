"""Fixtures of the crash tests: four stand-in servers for all, a job for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from bench.parts.local_mongod import LocalMongod
from bench.parts.s3_server import S3Server
from bench.standin import GpuConfig, StandinConfig, StandinFleet
from tests.conftest import outlives_tests
from tests.crash.cold_job import ColdJob, bucket_of
from tests.crash.job import DIM, MODEL, Job
from tests.parts.fault_proxy import FaultProxy

SERVERS = StandinConfig(
    backend="sim",
    ports=(0, 0, 0, 0),
    model_id=MODEL,
    dim=DIM,
    gpu=GpuConfig(tokens_per_s=10_000_000.0, fixed_overhead_s=0.0002),
)


IN_QUICK = {
    "test_g1_g7_a_run_embeds_the_queue_and_the_next_picks_up_what_is_new",
    "test_odd_texts_are_embedded_or_quarantined_each_with_its_reason",
    "test_an_empty_collection_is_exit_0_and_says_so",
    "test_one_signal_drains_commits_and_marks[2-130]",
    "test_g9_another_model_is_refused_and_the_fields_are_named",
}
"""Whole runs that `make quick` makes: one of each kind. Every other takes seconds and is `slow`."""


@pytest.hookimpl(tryfirst=True)  # before -m chooses by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark whole runs as slow but for a few."""
    for item in items:
        is_whole_run = item.path.parent == Path(__file__).parent and "job" in getattr(item, "fixturenames", ())
        if is_whole_run and item.name not in IN_QUICK:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def shared_fleet() -> Iterator[StandinFleet]:
    """Four servers in one process, for every test that does not hurt them."""
    with StandinFleet(SERVERS) as fleet, outlives_tests(fleet.pid):
        yield fleet


@pytest.fixture
def fleet(shared_fleet: StandinFleet) -> Iterator[StandinFleet]:
    """The shared servers, without faults before and after."""
    yield shared_fleet
    for port in shared_fleet.ports:
        shared_fleet.control(port, clear_faults=True, slow_factor=1.0, model_id=MODEL)


@pytest.fixture
def job(tmp_path: Path, mongod: LocalMongod, mongo_db: Database[dict[str, Any]], fleet: StandinFleet) -> Job:
    """A job without documents, on two of the servers: each costs a process, and most tests need no more."""
    return Job(folder=tmp_path, uri=mongod.uri, database=mongo_db, urls=fleet.urls[:2])


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    """A proxy before the S3 server."""
    with FaultProxy(s3.port) as between:
        yield between


@pytest.fixture
def cold_job(job: Job, s3: S3Server, proxy: FaultProxy) -> ColdJob:
    """A job whose cold is a bucket of its own behind the proxy."""
    return ColdJob(
        folder=job.folder,
        uri=job.uri,
        database=job.database,
        urls=job.urls,
        server=s3,
        bucket=bucket_of(job, s3),
        endpoint=proxy.endpoint,
    )
