"""What the driver of a cluster needs of whatever places its nodes (Ray, or anything else): one small protocol.

A *session* is one node process from its start to its end. A message of a session either arrives, once and in order, or
the session is lost; a session that is lost never comes back, a node may get another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from engine.memory.channels import Message


@dataclass(frozen=True, slots=True)
class NodesSeen:
    """The nodes that are there now: their names by their ids."""

    names: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Heard:
    """Messages of a session, in their order."""

    session: int
    messages: list[Message] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SessionLost:
    """A session is over."""

    session: int
    why: str


News: TypeAlias = NodesSeen | Heard | SessionLost


class Nodes(Protocol):
    """Whatever places node processes on machines, and carries messages to them and back."""

    @property
    def wake_fd(self) -> int:
        """Readable when there are news."""

    def collect(self) -> list[News]:
        """The news since the last call.

        Raises:
            EngineError: there is no way to the nodes any more.
        """

    def begin(self, session: int, node: str, job: Message) -> None:
        """Start a node process on a node; `job` is its first message."""

    def send(self, session: int, message: Message) -> None:
        """Send a message; one to a session that is lost is dropped."""

    def end(self, session: int) -> None:
        """End a node process now, if it is still there; nothing more is heard of its session."""
