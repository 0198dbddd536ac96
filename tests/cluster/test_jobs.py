"""The driver as a job that is submitted to a Ray cluster, as KubeRay does it: its code, its log, its stop."""

from __future__ import annotations

import importlib.util
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from pymongo.database import Database

from bench.parts.local_mongod import LocalMongod
from bench.standin import StandinFleet
from commands.cluster.local_ray import RESOURCE
from tests.cluster.job import CLUSTER_S, ClusterJob
from tests.cluster.ray_host import RayHost
from tests.crash.job import DONE, SLOW, full_speed, slow_down, tweets, wait_until

pytestmark = [
    pytest.mark.crash,
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.skipif(
        importlib.util.find_spec("aiohttp_cors") is None, reason="jobs need a dashboard: pip install 'ray[default]'"
    ),
]
N = 1200
_ANSWER_S = 60.0
_LOOK_EVERY_S = 0.3
"""Each look costs Ray's dashboard some milliseconds."""


@pytest.fixture
def host(ray_host: RayHost) -> Iterator[RayHost]:  # `ray_host` for its skips: it knows whether Ray starts here
    """A cluster of one node that takes jobs."""
    with RayHost(1, takes_jobs=True) as host:
        yield host


class Submitted:
    """A job of the cluster, by its HTTP interface, which `ray job` and KubeRay's operator use."""

    def __init__(self, host: RayHost, name: str, entrypoint: str, env: dict[str, str]) -> None:
        self._url = f"{host.jobs}/api/jobs/{name}"
        asked = {"entrypoint": entrypoint, "submission_id": name, "runtime_env": {"env_vars": env}}

        def is_taken() -> bool:
            time.sleep(_LOOK_EVERY_S)
            answer = requests.post(f"{host.jobs}/api/jobs/", json=asked, timeout=_ANSWER_S)
            assert answer.ok or "No available agent" in answer.text, answer.text  # the cluster is just coming up
            return answer.ok

        wait_until(is_taken, 60.0, "an agent that takes jobs")

    def _get(self, what: str = "") -> dict[str, Any]:
        answer = requests.get(self._url + what, timeout=_ANSWER_S)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def stop(self) -> None:
        """Ask for its end."""
        requests.post(f"{self._url}/stop", timeout=_ANSWER_S).raise_for_status()

    def ended(self) -> tuple[str, int | None]:
        """Wait for its end: its status, and the exit code of its command."""
        found: dict[str, Any] = {}

        def has_ended() -> bool:
            time.sleep(_LOOK_EVERY_S)
            found.update(self._get())
            return found["status"] not in ("PENDING", "RUNNING")

        wait_until(has_ended, CLUSTER_S, f"the end of the job ({self._url})")
        return found["status"], found["driver_exit_code"]

    def log(self) -> str:
        """What its command has written."""
        return str(self._get("/logs")["logs"])


def test_a_job_that_is_stopped_drains_and_the_same_job_again_does_the_rest(
    tmp_path: Path, mongod: LocalMongod, mongo_db: Database[dict[str, Any]], fleet: StandinFleet, host: RayHost
) -> None:
    job = ClusterJob(folder=tmp_path, uri=mongod.uri, database=mongo_db, urls=fleet.urls[:2], host=host)
    documents = tweets(N)
    documents[3]["text"] = ""
    job.insert(documents)
    command = shlex.join(
        [
            # by its address: there is another cluster on this machine, and `auto` may mean that one
            *(sys.executable, "-m", "cli", "run", "--ray", host.address, "--ray-resource", RESOURCE),
            *("--database", mongo_db.name, "--collection", job.collection, "--done-field", DONE),
            *(
                "--tei-urls",
                ",".join(job.urls),
                "--hot-dir",
                str(tmp_path / "hot"),
                "--cold-dir",
                str(tmp_path / "cold"),
            ),
            *SLOW,
        ]
    )
    env = {"ENGINE_MONGO_URI": job.uri, "RAY_JOB_STOP_WAIT_TIME_S": str(round(CLUSTER_S))}
    slow_down(fleet)

    first = Submitted(host, "first", command, env)
    wait_until(lambda: bool(job.state().commits), CLUSTER_S, "a commit")
    first.stop()
    stopped, _ = first.ended()
    full_speed(fleet)
    second = Submitted(host, "second", command, env)
    rest = second.ended()

    assert stopped == "STOPPED"
    assert "stopped by SIGTERM after a clean stop" in first.log(), first.log()[-3000:]
    assert not job.records("REVOKED")
    assert rest == ("FAILED", 3), second.log()[-3000:]
    assert "INFO shard_committed" in second.log() and "documents embedded in" in second.log()
    job.assert_exact(quarantined={3: "empty"})
