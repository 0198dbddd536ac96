"""A Ray cluster on this machine alone, of nodes that are processes: for `--ray local:N` and for tests.

It is as small as Ray lets it be (no dashboard, 75 MiB of object store a node, which nothing is put into), listens on
127.0.0.1 only, and is gone with the process that started it, whatever ends that.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

RESOURCE = "engine_node"
"""What each node offers once."""
_OBJECT_STORE_BYTES = 75 << 20
_TRIES = 4


class LocalRay:
    """A cluster of nodes on this machine.

    Attributes:
        address: For `ray.init` and for further nodes.
    """

    def __init__(self, n_nodes: int) -> None:
        """Start it; the first node is its head, too."""
        from ray.cluster_utils import Cluster  # noqa: PLC0415 - only who asks for Ray pays for it

        self._folder = tempfile.mkdtemp(prefix="engine-ray-", dir="/tmp")
        self._n_nodes = 1
        self._cluster = Cluster()
        self._retried(lambda: self._cluster.add_node(temp_dir=self._folder, **self._arguments()))
        self.address = str(self._cluster.address)
        for _ in range(n_nodes - 1):
            self.add_node(wait=False)
        self._cluster.wait_for_nodes(timeout=120)

    def add_node(self, *, wait: bool = True, env: dict[str, str] | None = None) -> None:
        """One more node, with further variables in its environment."""
        self._n_nodes += 1
        self._retried(lambda: self._cluster.add_node(wait=wait, env_vars=env, **self._arguments()))

    def remove_node(self, name: str) -> None:
        """End a node that is not the head; one that was killed is forgotten."""
        for node in list(self._cluster.worker_nodes):
            if node._ray_params.node_name == name:
                self._cluster.remove_node(node, allow_graceful=False)

    def _retried(self, start: Callable[[], Any]) -> Any:
        """Start a node; on a machine that is very busy Ray's own patience (30 s) may not be enough."""
        for _ in range(_TRIES - 1):
            with contextlib.suppress(Exception):
                return start()
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
