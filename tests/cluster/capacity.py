"""What nodes bring: of what their servers can, when one of them is lost, and when servers answer at once.

    python -m tests.cluster.capacity --documents 12000 --rate 200
    python -m tests.cluster.capacity lose --documents 20000 --rate 200
    python -m tests.cluster.capacity canned --documents 300000 --times 3

The first prints the pace of a run on one machine with one modelled server of known pace, of one node, and of two nodes
with a server each. The second kills the raylet of one of two nodes midway, and prints the other's pace before and
after. The third alternates runs on one machine and on one node over servers that answer at once: pace and CPU.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pymongo

from bench.parts.local_mongod import LocalMongod
from bench.standin import GpuConfig, StandinConfig, StandinFleet
from engine.telemetry.status import read_status
from tests.cluster.job import ClusterJob
from tests.cluster.ray_host import RayHost
from tests.crash.job import DIM, MODEL, Ended, Job, finish, tweets

_TOKENS = 24.5  # of a text of `tweets`, padded in batches of like length, about
_LOOK_EVERY_S = 0.2
Seen = list[tuple[float, int]]
"""Times, in seconds, and the documents that were embedded by then."""


class _Place:
    """Where runs are measured: a mongod, servers, a Ray cluster, and a fresh collection for each run."""

    def __init__(self, mongod: LocalMongod, fleet: StandinFleet, host: RayHost) -> None:
        self.fleet = fleet
        self.host = host
        self._uri = mongod.uri
        self._client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(mongod.uri)
        self._n_runs = 0

    @contextmanager
    def job(
        self, n_documents: int, *, on_nodes: bool, urls: tuple[str, ...], options: tuple[str, ...]
    ) -> Iterator[Job]:
        """A job whose queue holds so many documents."""
        self._n_runs += 1
        with tempfile.TemporaryDirectory() as folder:
            common: dict[str, Any] = {
                "folder": Path(folder),
                "uri": self._uri,
                "database": self._client[f"run_{self._n_runs}"],
                "urls": urls,
                "options": options,
            }
            job = ClusterJob(**common, host=self.host) if on_nodes else Job(**common)
            job.insert(tweets(n_documents))
            yield job
            self._client.drop_database(job.database)


def of_the_servers(place: _Place, asked: argparse.Namespace) -> None:
    """Print the pace of a run on one machine, on one node, and on two."""
    alone = 0.0
    for n_nodes in (0, 1, 2):
        if n_nodes == 2:
            place.host.add_node(ENGINE_NODE_TEI_URLS=place.fleet.urls[1])
        n_documents = asked.documents * max(1, n_nodes)
        options = ("--shard-seconds", "20")
        with place.job(n_documents, on_nodes=n_nodes > 0, urls=place.fleet.urls[:1], options=options) as job:
            rate = _steady_rate(_watched(job)[1], job.n_queue)
            job.assert_exact()
        alone = alone or rate
        whose = f"{n_nodes} nodes" if n_nodes else "one machine"
        print(f"{whose}: {rate:.1f}/s, {rate / alone / max(1, n_nodes):.1%} of the servers' pace", flush=True)


def with_one_lost(place: _Place, asked: argparse.Namespace) -> None:
    """Print the pace of the node that stays, before the other's raylet is killed and after it."""
    lost = place.host.add_node(ENGINE_NODE_TEI_URLS=place.fleet.urls[1])
    n_documents = 2 * asked.documents
    killed_at = 0.0
    stayed: Seen = []

    def look(status: dict[str, Any]) -> None:
        nonlocal killed_at
        rows = {node["node"]: int(node["documents"]) for node in status.get("nodes", [])}
        if not killed_at and sum(rows.values()) > n_documents / 2 and rows.get(lost):
            psutil.Process(place.host.raylets[lost]).kill()
            killed_at = status["at"]
        stayed.extend((status["at"], count) for node, count in rows.items() if node != lost)

    options = ("--shard-bytes", "64KiB", "--shard-seconds", "2")
    with place.job(n_documents, on_nodes=True, urls=place.fleet.urls[:1], options=options) as job:
        ended, _ = _watched(job, look)
        job.assert_exact()
    began, end = stayed[0][0], stayed[-1][0]
    before = _rate([one for one in stayed if began + (killed_at - began) / 3 < one[0] < killed_at])
    after = _rate([one for one in stayed if killed_at < one[0] < end - (end - killed_at) / 10])
    nodes = {node["node"]: node["documents"] for node in ended.summary["nodes"]}
    print(
        f"committed by the node that stays: {before:.1f}/s before, {after:.1f}/s after, {after / before:.1%}; {nodes}"
    )


def with_canned_servers(place: _Place, asked: argparse.Namespace) -> None:
    """Print pace and CPU of runs on one machine and on one node, alternating."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    cpu: dict[bool, list[float]] = {False: [], True: []}
    for time_ in range(2 * asked.times):
        on_nodes = bool(time_ % 2)
        with place.job(asked.documents, on_nodes=on_nodes, urls=place.fleet.urls, options=()) as job:
            ended, seen = _watched(job)
            n_queue = job.n_queue
        assert ended.summary["embedded"] == n_queue
        rates[on_nodes].append(_steady_rate(seen, n_queue))
        cpu[on_nodes].append(sum(ended.summary["cpu_us_per_document"].values()))
        whose = "one node   " if on_nodes else "one machine"
        roles = ", ".join(f"{role} {spent:.1f}" for role, spent in ended.summary["cpu_us_per_document"].items())
        print(
            f"{whose}: {rates[on_nodes][-1]:,.0f}/s, {cpu[on_nodes][-1]:.2f} us of CPU a document ({roles})", flush=True
        )
    share = statistics.median(rates[True]) / statistics.median(rates[False])
    more = statistics.median(cpu[True]) - statistics.median(cpu[False])
    print(f"medians: a node has {share:.1%} of the pace, and needs {more:+.2f} us a document")


def _watched(job: Job, look: Callable[[dict[str, Any]], None] = lambda status: None) -> tuple[Ended, Seen]:
    """Run to the end, and look at each status on the way."""
    process: subprocess.Popen[str] = job.start_run()
    seen: Seen = []
    while process.poll() is None:
        status = read_status(job.folders.status) or {}
        if "embedded_now" in status and (not seen or seen[-1][0] != status["at"]):
            seen.append((status["at"], status["embedded_now"]))
            look(status)
        time.sleep(_LOOK_EVERY_S)
    ended = finish(process)
    assert ended.code == 0, ended.err
    return ended, seen


def _steady_rate(seen: Seen, n_documents: int) -> float:
    """Documents a second between the first and the last fifth of a run: without its start and its end."""
    return _rate([(at, rows) for at, rows in seen if n_documents / 5 < rows < n_documents * 4 / 5])


def _rate(seen: Seen) -> float:
    assert len(seen) > 1, "too short to be measured: more --documents"
    return (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])


def main() -> None:
    """Measure, and print."""
    measures = {"servers": of_the_servers, "lose": with_one_lost, "canned": with_canned_servers}
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster.capacity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=measures, default="servers", help="what to measure")
    parser.add_argument("--documents", type=int, default=12_000, help="for each server; canned: in all")
    parser.add_argument("--rate", type=float, default=200.0, help="about what a server is modelled to embed a second")
    parser.add_argument("--times", type=int, default=3, help="canned: pairs of runs")
    asked = parser.parse_args()
    common: dict[str, Any] = {"model_id": MODEL, "dim": DIM}
    modelled = GpuConfig(tokens_per_s=asked.rate * _TOKENS, fixed_overhead_s=0.0)
    servers = (
        StandinConfig(backend="canned", ports=(0,) * 4, max_concurrent_requests=512, **common)
        if asked.what == "canned"
        else StandinConfig(backend="sim", ports=(0, 0), gpu=modelled, **common)
    )
    with LocalMongod() as mongod, StandinFleet(servers) as fleet, RayHost(1) as host:
        measures[asked.what](_Place(mongod, fleet, host), asked)


if __name__ == "__main__":
    sys.exit(main())
