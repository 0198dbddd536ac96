"""What the driver does about what a node's pipeline tells."""

from __future__ import annotations

from typing import Any, Protocol

from engine.cluster.node import Node
from engine.ledger.commits import Ranges
from engine.memory.channels import Message
from engine.records import ShardFacts
from engine.supervision.lifecycle import Stop


class Driver(Protocol):
    """The supervisor of all nodes (`engine.cluster.supervisor`)."""

    def part_read(self, node: Node, message: Message) -> None:
        """A part is read to its end."""

    def commit_shard(self, node: Node, facts: ShardFacts, ranges: Ranges) -> None:
        """A shard is durable."""

    def note_quarantined(self, node: Node, entries: list[dict[str, Any]]) -> None:
        """Documents could not be embedded."""

    def stop(self, stop: Stop) -> None:
        """The whole run has to stop."""

    def told(self, event: str, message: Message) -> None:
        """Something else was told."""


class NodeEvents:
    """`engine.supervision.pipeline.Events` of one node."""

    def __init__(self, driver: Driver, node: Node) -> None:
        self._driver = driver
        self._node = node

    def quarantined(self, message: Message) -> None:
        """See the protocol."""
        self._driver.note_quarantined(self._node, message["entries"])

    def settled(self, ranges: Ranges) -> None:
        """See the protocol."""
        if self._node.settling is not None:
            self._node.settling.settle(ranges)

    def sealed(self, facts: ShardFacts, ranges: Ranges) -> None:
        """See the protocol."""
        self._driver.commit_shard(self._node, facts, ranges)

    def stop(self, stop: Stop) -> None:
        """See the protocol."""
        self._driver.stop(stop)

    def told(self, event: str, message: Message) -> None:
        """See the protocol."""
        if event == "part_done":
            self._driver.part_read(self._node, message)
        else:
            self._driver.told(event, message)
