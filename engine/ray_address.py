"""The cluster of `--ray`: which one, and which of its nodes work."""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.errors import ConfigError

MOST_LOCAL_NODES = 64
LOCAL = "local:"
_HOST_PORT = re.compile(r"[^\s/:@]+:[0-9]{1,5}|\[[0-9A-Fa-f:]+\]:[0-9]{1,5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RayAddress:
    """A Ray cluster.

    Attributes:
        address: `auto` (the cluster that this machine belongs to), `HOST:PORT` of its head, or `local:N`: N nodes on
            this machine, started and ended with the run.
        resource: Every node that offers this resource works.
    """

    address: str
    resource: str = "GPU"

    def __post_init__(self) -> None:
        if not self.resource.strip():
            raise ConfigError("--ray-resource is empty; expected the name of a resource that the nodes offer")
        if self.address.startswith(LOCAL):
            count = self.address.removeprefix(LOCAL)
            if not count.isdecimal() or not 1 <= int(count) <= MOST_LOCAL_NODES:
                raise ConfigError(f"--ray is {self.address}; expected local:N with N from 1 to {MOST_LOCAL_NODES}")
        elif self.address != "auto" and not _HOST_PORT.fullmatch(self.address):
            raise ConfigError(f"--ray is {self.address!r}; expected auto, HOST:PORT of a Ray head, or local:N")
