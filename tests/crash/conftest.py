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
from tests.crash.cold_job import ColdJob
from tests.crash.job import DIM, MODEL, Job
from tests.parts.fault_proxy import FaultProxy

SERVERS = StandinConfig(
    backend="sim",
    ports=(0, 0, 0, 0),
    model_id=MODEL,
    dim=DIM,
    gpu=GpuConfig(tokens_per_s=10_000_000.0, fixed_overhead_s=0.0002),
)


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


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """One S3 server for the whole session."""
    with S3Server() as server, outlives_tests(server.pid):
        yield server


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    """A proxy before the S3 server."""
    with FaultProxy(s3.port) as between:
        yield between


@pytest.fixture
def cold_job(job: Job, s3: S3Server, proxy: FaultProxy) -> ColdJob:
    """A job whose cold is a bucket of its own behind the proxy."""
    bucket = f"bucket-{job.database.name.replace('_', '-')}"
    s3.make_bucket(bucket)
    return ColdJob(
        folder=job.folder,
        uri=job.uri,
        database=job.database,
        urls=job.urls,
        server=s3,
        bucket=bucket,
        endpoint=proxy.endpoint,
    )
