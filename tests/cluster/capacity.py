"""Whether nodes bring what their servers can: a modelled server of known pace on each of two local nodes.

    python -m tests.cluster.capacity --documents 12000 --rate 200

Prints the pace of a run on one machine with one of the servers, of one node, and of two nodes with a server each.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pymongo

from bench.parts.local_mongod import LocalMongod
from bench.standin import GpuConfig, StandinConfig, StandinFleet
from engine.telemetry.status import read_status
from tests.cluster.job import ClusterJob
from tests.cluster.ray_host import RayHost
from tests.crash.job import DIM, MODEL, Job, finish, tweets

_TOKENS = 24.5  # of a text of `tweets`, padded in batches of like length, about


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.capacity", description=__doc__)
    parser.add_argument("--documents", type=int, default=12_000, help="for each server")
    parser.add_argument("--rate", type=float, default=200.0, help="about what a server is modelled to embed a second")
    asked = parser.parse_args()
    servers = StandinConfig(
        backend="sim",
        ports=(0, 0),
        model_id=MODEL,
        dim=DIM,
        gpu=GpuConfig(tokens_per_s=asked.rate * _TOKENS, fixed_overhead_s=0.0),
    )
    with LocalMongod() as mongod, StandinFleet(servers) as fleet, RayHost(1) as host:
        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(mongod.uri)
        alone = 0.0
        for n_nodes in (0, 1, 2):
            if n_nodes == 2:
                host.add_node(ENGINE_NODE_TEI_URLS=fleet.urls[1])
            with tempfile.TemporaryDirectory() as folder:
                common: dict[str, Any] = {
                    "folder": Path(folder),
                    "uri": mongod.uri,
                    "database": client[f"nodes_{n_nodes}"],
                    "urls": fleet.urls[:1],
                    "options": ("--shard-seconds", "20"),
                }
                job = ClusterJob(**common, host=host) if n_nodes else Job(**common)
                n_documents = asked.documents * max(1, n_nodes)
                job.insert(tweets(n_documents))
                rate = _steady_rate(job, job.n_queue)
                job.assert_exact()
            alone = alone or rate
            whose = f"{n_nodes} nodes" if n_nodes else "one machine"
            print(f"{whose}: {rate:.1f}/s, {rate / alone / max(1, n_nodes):.1%} of the servers' pace", flush=True)


def _steady_rate(job: Job, n_documents: int) -> float:
    """Documents a second between the first and the last fifth of a run: without its start and its end."""
    process = job.start_run()
    seen: list[tuple[float, int]] = []
    while process.poll() is None:
        status = read_status(job.folders.status) or {}
        if "embedded_now" in status and (not seen or seen[-1][0] != status["at"]):
            seen.append((status["at"], status["embedded_now"]))
        time.sleep(0.2)
    ended = finish(process)
    assert ended.code == 0, ended.err
    steady = [(at, rows) for at, rows in seen if n_documents / 5 < rows < n_documents * 4 / 5]
    return (steady[-1][1] - steady[0][1]) / (steady[-1][0] - steady[0][0])


if __name__ == "__main__":
    sys.exit(main())
