"""The job of the crash tests on the nodes of a Ray cluster, and who may be killed there."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from dataclasses import dataclass
from typing import Any

import psutil

from bench.standin import StandinFleet
from commands.cluster.local_ray import RESOURCE
from engine.leases.records import Token
from engine.ledger.log import Record, read_records
from engine.telemetry.status import read_status
from tests.cluster.ray_host import RayHost
from tests.crash.cold_job import ColdJob
from tests.crash.files_job import FilesJob
from tests.crash.job import SLOW, Ended, Job, finish, slow_down, wait_until

CLUSTER_S = 280.0


@dataclass(kw_only=True)
class ClusterJob(Job):
    """A job on nodes."""

    host: RayHost

    def run(self, *arguments: str, **environment: str) -> Ended:
        """`engine run --ray ADDRESS --json` to its end."""
        return finish(self.start_run(*arguments, **environment), CLUSTER_S)

    def start_run(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """The same, started."""
        ray = ("--ray", self.host.address, "--ray-resource", RESOURCE)
        return self.start("run", "--json", *ray, *self.options, *arguments, **environment)

    def begin_slowly(self, fleet: StandinFleet, documents: list[dict[str, Any]]) -> subprocess.Popen[str]:
        """A run over some documents that stays midway until `full_speed`; both nodes have committed something."""
        self.insert(documents)
        self.options = SLOW
        slow_down(fleet)
        process = self.start_run()
        self.wait_for_commits_of_all(process)
        return process

    def nodes(self) -> dict[str, dict[str, object]]:
        """What the run says of its nodes while it goes on."""
        status = read_status(self.folders.status) or {}
        return {node["node"]: node for node in status.get("nodes", [])}

    def phase(self) -> str:
        """Where the run says that it is."""
        return str((read_status(self.folders.status) or {}).get("phase"))

    def n_refusals(self) -> int:
        """How often rows of a server that has drifted were refused, as the run says while it goes on."""
        return int((read_status(self.folders.status) or {}).get("refusals", 0))

    def records(self, kind: str) -> list[Record]:
        """The ledger's records of a type."""
        if not self.folders.ledger.exists():
            return []
        return [record for record in read_records(self.folders.ledger)[0] if record["type"] == kind]

    def token_of(self, node: str) -> Token:
        """The first token of a node; which node gets which is Ray's order."""
        return Token.parse(next(record["token"] for record in self.records("TOKEN") if record["node"] == node))

    def wait_for_commits_of_all(self, process: subprocess.Popen[str], n_nodes: int = 2) -> None:
        """Wait until a shard of each of so many tokens is committed."""

        def committed() -> bool:
            assert process.poll() is None, f"the run ended early: {finish(process).err[-3000:]}"
            tokens = {Token.of_shard(commit["shard"]) for commit in self.state().commits.values()}
            return len(tokens) >= n_nodes

        wait_until(committed, CLUSTER_S, f"commits of {n_nodes} nodes", process)

    def agent(self, node: str) -> psutil.Process:
        """The node process of a node; waits for it."""
        found: dict[str, psutil.Process] = {}

        def there() -> bool:
            found.update(self.host.agents())
            return node in found

        wait_until(there, CLUSTER_S, f"a node process on {node}")
        return found[node]

    def assert_the_driver_may_be_killed(self, point: str) -> None:
        """Kill the driver at a step: no node process outlives it, and the next run does the rest."""
        killed = self.run(ENGINE_FAILPOINTS=f"supervisor/{point}=kill")
        wait_until(lambda: not self.host.agents(), CLUSTER_S, "the end of the node processes")
        again = self.run()

        assert killed.code == -signal.SIGKILL
        assert again.code == 0, again.err
        self.assert_exact()


@dataclass(kw_only=True)
class ColdClusterJob(ClusterJob, ColdJob):
    """A job on nodes whose cold is a bucket."""


@dataclass(kw_only=True)
class FilesOnNodes(FilesJob):
    """A job over files on nodes."""

    host: RayHost

    def start_run(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """`engine run --ray ADDRESS --json`, started."""
        return super().start_run("--ray", self.host.address, "--ray-resource", RESOURCE, *arguments, **environment)

    def run(self, *arguments: str, **environment: str) -> Ended:
        """The same to its end."""
        return finish(self.start_run(*arguments, **environment), CLUSTER_S)


def tree(process: psutil.Process) -> list[psutil.Process]:
    """A process and all below it."""
    with contextlib.suppress(psutil.Error):
        return [process, *process.children(recursive=True)]
    return [process]


def are_gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them lives any more."""
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)
