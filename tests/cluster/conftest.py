"""Fixtures of the tests with Ray: one cluster of two nodes for all, and the jobs of the crash tests on it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from bench.parts.local_mongod import LocalMongod
from bench.parts.s3_server import S3Server
from bench.standin import StandinFleet
from tests.cluster.job import ClusterJob, ColdClusterJob
from tests.cluster.ray_host import NoClusterError, RayHost
from tests.crash.cold_job import bucket_of
from tests.crash.conftest import fleet, proxy, shared_fleet  # noqa: F401 - fixtures
from tests.parts.fault_proxy import FaultProxy

OPTIONAL = "TEST_RAY_OPTIONAL"
"""Set where machines are so busy at times that Ray's own processes give up: no cluster is no failure then."""


@pytest.fixture(scope="session")
def ray_host() -> Iterator[RayHost]:
    """Two nodes on this machine."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'embedding-engine[ray]'")
    try:
        host = RayHost(2)
    except NoClusterError as none:
        if OPTIONAL not in os.environ:
            raise
        pytest.skip(f"{none}, and {OPTIONAL} is set")
    with host:
        yield host


@pytest.fixture
def job(
    tmp_path: Path,
    mongod: LocalMongod,
    mongo_db: Database[dict[str, Any]],
    fleet: StandinFleet,  # noqa: F811
    ray_host: RayHost,
) -> ClusterJob:
    """A job without documents on both nodes, which ask the same two servers."""
    return ClusterJob(folder=tmp_path, uri=mongod.uri, database=mongo_db, urls=fleet.urls[:2], host=ray_host)


@pytest.fixture
def cold_job(job: ClusterJob, s3: S3Server, proxy: FaultProxy) -> ColdClusterJob:  # noqa: F811
    """The same job with a bucket of its own behind the proxy in place of a shared folder."""
    return ColdClusterJob(
        folder=job.folder,
        uri=job.uri,
        database=job.database,
        urls=job.urls,
        host=job.host,
        server=s3,
        bucket=bucket_of(job, s3),
        endpoint=proxy.endpoint,
    )
