"""Rounds of random kills over a Ray cluster of this machine, judged by the oracle of the crash tests.

    python -m tests.cluster --rounds 100 --seed 7

Shards go to a shared folder or to a store, documents come from MongoDB, with and without marks, or from files. Victims
are drawn over all roles: the driver, its bridge, an actor, a node process, a reader, client or writer, a whole
node that stands still beyond its lease and goes on, and the raylet of a node that comes and goes.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from pathlib import Path
from typing import Any, TypeAlias

import psutil
from pymongo.database import Database

from bench.parts.s3_server import S3Server
from bench.standin import StandinFleet
from tests.cluster.job import CLUSTER_S, ClusterJob, ColdClusterJob, FilesOnNodes, tree
from tests.cluster.ray_host import RayHost
from tests.crash.job import finish, full_speed, slow_down, tweets, wait_until

AnyJob: TypeAlias = ClusterJob | FilesOnNodes

ROLES = ("driver", "bridge", "actor", "node process", "reader", "client", "writer", "stop", "raylet")
OPTIONS = ("--shard-bytes", "64KiB", "--shard-seconds", "0.5", "--batch-size", "8", "--concurrency", "2")
KINDS = ("folder", "store", "files", "no marks")
_MOST_KILLS = 4
_STILL_S = 30.0


def play(
    folder: Path,
    uri: str,
    database: Database[dict[str, Any]],
    fleet: StandinFleet,
    host: RayHost,
    s3: S3Server,
    seed: int,
) -> list[str]:
    """One round to its end; of what kind it was, and what was done to whom.

    Raises:
        AssertionError: a document was lost, doubled or is wrong.
    """
    choose = random.Random(seed)
    kind, n_documents = choose.choice(KINDS), choose.randrange(800, 3000)
    job: AnyJob
    if kind == "files":
        job = FilesOnNodes(folder=folder, urls=fleet.urls[:2], host=host, options=OPTIONS)
        job.add_jsonl("a.jsonl", range(n_documents // 3))
        job.add_parquet("b.parquet", range(n_documents // 3, n_documents))
    else:
        job = _over_mongodb(kind, s3, folder=folder, uri=uri, database=database, urls=fleet.urls[:2], host=host)
        job.insert(tweets(n_documents))
    kills = [choose.choice(ROLES) for _ in range(choose.randint(1, _MOST_KILLS))]
    extra = host.add_node() if "raylet" in kills else None
    slow_down(fleet, choose.choice([0.05, 0.15, 0.3]))
    process = job.start_run()
    try:
        for role in kills:
            time.sleep(choose.uniform(0.0, 6.0))
            if process.poll() is not None:
                process = job.start_run()
            if role != "driver":
                _wait_for_nodes(job, process)
            _hurt(choose, role, job, process, extra)
        full_speed(fleet)
        for _ in range(3):
            ended = finish(process, CLUSTER_S)
            if ended.code == 0:
                break
            process = job.start_run()
        else:
            raise AssertionError(f"the job does not come to its end: {ended.code} {ended.err[-3000:]}")
    finally:
        full_speed(fleet)
        if process.poll() is None:
            process.kill()
            process.communicate()
        if extra is not None:
            host.remove_node(extra)
    wait_until(lambda: not host.agents(), CLUSTER_S, "the end of the node processes")
    if kind == "store":  # what a lost node was still uploading when the run ended is removed by the next start
        assert job.run().code == 0
    if kind == "no marks" and isinstance(job, ClusterJob):
        job.assert_exact(marked=False)
    else:
        job.assert_exact()
    return [kind, *kills]


def _over_mongodb(kind: str, s3: S3Server, **facts: Any) -> ClusterJob:
    if kind == "store":
        bucket = f"bucket-{facts['database'].name.replace('_', '-')}"
        s3.make_bucket(bucket)
        return ColdClusterJob(server=s3, bucket=bucket, endpoint=s3.endpoint, options=OPTIONS, **facts)
    return ClusterJob(options=(*OPTIONS, "--no-mark") if kind == "no marks" else OPTIONS, **facts)


def _wait_for_nodes(job: AnyJob, process: subprocess.Popen[str]) -> None:
    wait_until(lambda: process.poll() is not None or bool(job.host.agents()), CLUSTER_S, "a node process")


def _hurt(choose: random.Random, role: str, job: AnyJob, process: subprocess.Popen[str], extra: str | None) -> None:
    """Kill one, or let one node stand still; whoever is gone already is left in peace."""
    with contextlib.suppress(psutil.Error):
        if role == "driver":
            process.kill()
            process.wait()
            return
        if role == "bridge":
            _named(psutil.Process(process.pid).children(), "commands.cluster.bridge")[0].kill()
            return
        if role == "raylet" and extra is not None:
            psutil.Process(job.host.raylets[extra]).kill()
            return
        agents = list(job.host.agents().values())
        if not agents:
            return
        agent = choose.choice(agents)
        actor = agent.parent()
        if role == "node process":
            agent.kill()
        elif role == "actor" and actor is not None:
            actor.kill()
        elif role == "stop" and actor is not None:
            _let_stand_still([*tree(agent), actor])
        else:
            victims = [child for child in tree(agent)[1:] if any(role in word for word in child.cmdline()[3:4])]
            if victims:
                choose.choice(victims).kill()


def _let_stand_still(members: list[psutil.Process]) -> None:
    for member in members:
        with contextlib.suppress(psutil.Error):
            member.suspend()
    time.sleep(_STILL_S)
    for member in reversed(members):
        with contextlib.suppress(psutil.Error):
            member.resume()


def _named(processes: list[psutil.Process], name: str) -> list[psutil.Process]:
    return [process for process in processes if name in " ".join(process.cmdline())]
