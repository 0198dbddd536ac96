"""What the driver of a cluster needs of whatever places its nodes (Ray, or anything else), and of what they work on.

A *session* is one node process from its start to its end. A message of a session either arrives, once and in order, or
the session is lost; a session that is lost never comes back, a node may get another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from engine.leases.book import Lease, LeaseBook
from engine.memory.channels import Message

Cut: TypeAlias = tuple[list[Any], list[int]]
"""Boundaries of pieces of the queue in its order, and about how many documents lie between them."""


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


class SharedQueue(Protocol):
    """What the nodes work on together.

    Messages of it go to node processes, each a few kilobytes: `append`, with the lines that a `file` of the node's
    folder gets at its end.
    """

    @property
    def job(self) -> Message | None:
        """What a node's reader and writer are told of it besides the run's configuration."""

    @property
    def witness(self) -> Message | None:
        """What a node recognises it by, before it begins."""

    def cut(self, n_nodes: int) -> Cut:
        """Cut it into pieces, for so many nodes.

        Raises:
            EngineError: it cannot be read.
        """

    def before_all(self) -> Iterable[Message]:
        """What a node is told before it begins."""

    def before_part(self, lease: Lease, book: LeaseBook, *, is_begun: bool) -> Iterable[Message]:
        """What a node is told before its reader is given a part.

        Args:
            book: What the ledger says of leases.
            is_begun: Whether it has read, and has had committed, some of the part already.
        """
