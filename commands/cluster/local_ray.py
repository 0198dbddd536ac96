"""A Ray cluster on this machine alone, of nodes that are processes: for `--ray local:N` and for tests.

It is as small as Ray lets it be (no dashboard, 75 MiB of object store a node, which nothing is put into), listens on
127.0.0.1 only, and is gone with the process that started it, whatever ends that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESOURCE = "engine_node"
"""What each node offers once."""
_OBJECT_STORE_BYTES = 75 << 20
_TRIES = 2
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # which means: 127.0.0.1 stays that
    # a machine that runs a whole cluster beside all the work is slow to start it, and to answer, when it is busy
    "RAY_gcs_server_port_wait_time_s": "240",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_worker_register_timeout_seconds": "240",
    "RAY_agent_register_timeout_ms": "240000",
}
_START_S = 240.0


class LocalRay:
    """A cluster of nodes on this machine.

    Attributes:
        address: For `ray.init` and for further nodes.
        jobs: Where its dashboard takes jobs, `HOST:PORT`; empty without one.
    """

    def __init__(self, n_nodes: int, **of_the_head: Any) -> None:
        """Start it; the first node is its head, too. Nobody may have imported Ray in this process before.

        Args:
            of_the_head: Parameters of Ray for the head alone, beside those of every node or in their place.
        """
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._folder = tempfile.mkdtemp(prefix="engine-ray-", dir="/tmp")
        # where Ray notes the address of the last cluster: not that which others on this machine find theirs by, and
        # which may not be there
        os.environ["RAY_TMPDIR"] = self._folder
        Path(self._folder, "ray").mkdir()
        from ray._private import services  # noqa: PLC0415 - likewise
        from ray.cluster_utils import Cluster  # noqa: PLC0415 - only who asks for Ray pays for it

        services.get_node = _patiently(services.get_node)
        self._n_nodes = 1
        self._cluster = Cluster()
        head = {**self._arguments(), **of_the_head}
        self._retried(lambda: self._cluster.add_node(temp_dir=self._folder, **head), self._cluster.shutdown)
        self.address = str(self._cluster.address)
        self.jobs = str(self._cluster.head_node.address_info.get("webui_url") or "")
        for _ in range(n_nodes - 1):
            self.add_node(wait=False)
        self._cluster.wait_for_nodes(timeout=120)

    def add_node(self, *, wait: bool = True, env: dict[str, str] | None = None) -> None:
        """One more node, with further variables in its environment."""
        self._n_nodes += 1
        name = f"local-{self._n_nodes}"
        self._retried(
            lambda: self._cluster.add_node(wait=wait, env_vars=env, **self._arguments()),
            lambda: self.remove_node(name),
        )

    def remove_node(self, name: str) -> None:
        """End a node that is not the head; one that was killed is forgotten."""
        for node in list(self._cluster.worker_nodes):
            if node._ray_params.node_name == name:
                self._cluster.remove_node(node, allow_graceful=False)

    def _retried(self, start: Callable[[], Any], undo: Callable[[], Any]) -> Any:
        """Start a node, once more if need be: `undo` ends what a failed start has left, or there would be two of it."""
        for _ in range(_TRIES - 1):
            with contextlib.suppress(Exception):
                return start()
            with contextlib.suppress(Exception):
                undo()
        return start()

    def raylets(self) -> dict[str, int]:
        """Process ids of the raylets by the names of their nodes."""
        nodes = [self._cluster.head_node, *self._cluster.worker_nodes]
        return {node._ray_params.node_name: node.all_processes["raylet"][0].process.pid for node in nodes}

    def _arguments(self) -> dict[str, Any]:
        return {
            "num_cpus": 1,
            "resources": {RESOURCE: 1},
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "node_ip_address": "127.0.0.1",
            "node_name": f"local-{self._n_nodes}",
        }

    def close(self) -> None:
        """End all of it."""
        self._cluster.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)


def _patiently(get_node: Callable[..., Any]) -> Callable[..., Any]:
    """Ray's look whether a node has come up, which it gives 30 s and no option to give more."""

    def look(*arguments: Any) -> Any:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    return look
