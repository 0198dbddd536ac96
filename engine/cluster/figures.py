"""The figures of all nodes as those of one generation, for whoever shows or records a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engine.cluster.node import Node
from engine.cluster.remote import RemoteStage
from engine.memory.channels import Message
from engine.supervision.generation import Stages
from engine.telemetry.reporting import StageFigures


class AllNodes(Stages[RemoteStage]):
    """The generations of all nodes, seen as one: counts are sums, rings are means."""

    def __init__(self, nodes: Iterable[Node], *, estimate: int) -> None:
        """
        Args:
            estimate: About how many documents of the pass are left.
        """
        self._nodes = [node for node in nodes if node.generation is not None]
        self._estimate = estimate
        self.children = {}

    def figures(self) -> StageFigures:
        """See `Stages`; the clients' roles and their servers' URLs begin with their node's name."""
        stages = [(node, node.generation.figures()) for node in self._nodes if node.generation is not None]
        clients: dict[str, Message] = {}
        for node, found in stages:
            for role, facts in found.clients.items():
                named = {"url": f"{node.name} {facts['url']}"} if "url" in facts else {}
                clients[f"{node.name}/{role}"] = {**facts, **named}
        embedded = sum(facts.get("rows", 0) for facts in clients.values())
        reader = _added(found.reader for _, found in stages)
        return StageFigures(
            reader={**reader, "estimate": self._estimate + embedded} if reader else {},
            clients=clients,
            writer=_added(found.writer for _, found in stages),
            rings=_mean(found.rings for _, found in stages),
        )


def _added(reports: Iterable[Message]) -> Message:
    """Sums of the numbers that several reports have under one name; of anything else the last one."""
    total: dict[str, Any] = {}
    for report in reports:
        for name, value in report.items():
            is_count = isinstance(value, int | float) and not isinstance(value, bool)
            total[name] = total.get(name, 0) + value if is_count else value
    return total


def _mean(shares: Iterable[dict[str, float]]) -> dict[str, float]:
    found = [share for share in shares if share]
    return {name: sum(share[name] for share in found) / len(found) for name in found[0]} if found else {}
