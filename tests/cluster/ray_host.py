"""A Ray cluster of nodes on this machine that lives as long as somebody holds its standard input.

    python -m tests.cluster.ray_host 2      # prints {"address": ..., "jobs": "", "nodes": {name: pid of its raylet}}
    python -m tests.cluster.ray_host 1 jobs # with a dashboard, which takes jobs

A line `{"add": {variable: value}}` or `{"remove": name}` on the standard input adds or removes a node and prints the
same again. The host stands beside the tests, not below
them: Ray starts processes when it likes, and the leak check of a test would take them for its own.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from types import TracebackType
from typing import Any

import psutil

from bench.parts.s3_server import CREDENTIALS
from commands.cluster.local_ray import LocalRay
from tests.parts.listening_program import free_port

START_S = 300.0


class NoClusterError(Exception):
    """Ray does not start here, or not in time."""


class RayHost:
    """The cluster, as tests use it.

    Raises:
        NoClusterError: it does not start.
    """

    def __init__(self, n_nodes: int, *, takes_jobs: bool = False) -> None:
        launch = (
            "import subprocess, sys; subprocess.Popen([sys.executable, '-m', 'tests.cluster.ray_host', *sys.argv[1:]])"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", launch, str(n_nodes), *(["jobs"] if takes_jobs else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env={**os.environ, **CREDENTIALS},
        )
        self._process.wait()  # the launcher; the host has its pipes, and no parent here
        self._told = self._read()

    @property
    def address(self) -> str:
        """For `--ray`."""
        return str(self._told["address"])

    @property
    def jobs(self) -> str:
        """Where jobs are submitted, a URL."""
        return f"http://{self._told['jobs']}"

    @property
    def raylets(self) -> dict[str, int]:
        """Process ids of the nodes' raylets, by node."""
        return {name: int(pid) for name, pid in self._told["nodes"].items()}

    def add_node(self, **env: str) -> str:
        """Add a node with such variables in its environment; returns its name."""
        before = set(self.raylets)
        self._ask({"add": env})
        return (set(self.raylets) - before).pop()

    def remove_node(self, name: str) -> None:
        """Remove a node, also one that was killed."""
        self._ask({"remove": name})

    def _ask(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None  # a pipe
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        self._told = self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # a pipe
        answers, _, _ = select.select([self._process.stdout], [], [], START_S)
        line = self._process.stdout.readline() if answers else ""
        if not line:
            raise NoClusterError(f"Ray did not start a node on this machine within {START_S:.0f} s")
        found: dict[str, Any] = json.loads(line)
        return found

    def agents(self) -> dict[str, psutil.Process]:
        """The node processes that live, by node."""
        found = {}
        for name, pid in self.raylets.items():
            try:
                for process in psutil.Process(pid).children(recursive=True):
                    if "commands.cluster.agent" in " ".join(process.cmdline()):
                        found[name] = process
            except psutil.Error:
                continue
        return found

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None  # pipes
        self._process.stdin.close()
        self._process.stdout.read()  # until it has ended
        self._process.stdout.close()

    def __enter__(self) -> RayHost:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def main() -> None:
    """Host a cluster until the standard input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray writes there, too
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

    dashboard: dict[str, Any] = {}
    if "jobs" in sys.argv[2:]:  # its agent does not look for another port when its usual one is taken
        dashboard = {
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "dashboard_agent_listen_port": free_port(),
        }
    ray = LocalRay(int(sys.argv[1]), **dashboard)

    def tell() -> None:
        print(json.dumps({"address": ray.address, "jobs": ray.jobs, "nodes": ray.raylets()}), file=out, flush=True)

    tell()
    for line in sys.stdin:
        request = json.loads(line)
        if "add" in request:
            ray.add_node(env=request["add"])
        else:
            ray.remove_node(request["remove"])
        tell()
    ray.close()


if __name__ == "__main__":
    main()
