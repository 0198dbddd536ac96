"""The processes of a node as the driver knows them: from what the node process tells of them, about twice a second.

A node process relays what its children tell: events at once, their regular reports as the last one of each kind. In
front of an event of a child go the reports that it had made before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from engine.memory.channels import Message
from engine.supervision.generation import Stage, Stages
from engine.supervision.lifecycle import Lifecycle, Phase, Stop


@dataclass(slots=True, kw_only=True)
class RemoteStage(Stage):
    """One process on a node.

    Attributes:
        node: Name of the node.
    """

    node: str

    @property
    def name(self) -> str:
        """Which process it is, for logs and errors."""
        return f"{self.role} on {self.node}"


class RemoteGeneration(Stages[RemoteStage]):
    """The processes of one generation on a node."""

    def __init__(self, number: int, node: str, n_clients: int, send: Callable[[Message], None]) -> None:
        """
        Args:
            send: Sends a message to the node process.
        """
        self.number = number
        self._send = send
        roles = ["reader", *(f"client-{index}" for index in range(n_clients)), "writer"]
        self.children = {role: RemoteStage(role=role, node=node) for role in roles}
        self._rings: dict[str, float] = {}
        self._has_full_slots = False

    def command(self, role: str, **command: object) -> None:
        """Send a command."""
        self._send({"do": "command", "role": role, "command": command})

    def has_full_slots(self) -> bool:
        """Whether a slot of either ring waited to be taken, when the node told last."""
        return self._has_full_slots

    def ring_shares(self) -> dict[str, float]:
        """How full the rings were, when the node told last."""
        return self._rings

    def take_figures(self, message: Message) -> None:
        """Take in how the rings and the processes are."""
        self._rings = message["rings"]
        self._has_full_slots = message["full"]
        now = time.monotonic()
        for role, silent_s in message["silent_s"].items():
            self.children[role].heard_at_s = now - silent_s

    def take_cpu(self, message: Message) -> None:
        """Take in the processor time of processes that have ended."""
        for role, cpu_s in message["cpu_s"].items():
            self.children[role].cpu_s = cpu_s


class NodeLifecycle(Lifecycle):
    """The lifecycle of a node's generation: it reads parts for as long as there are any, then drains and waits.

    A node that has nothing to read has all that it had in committed shards: it stays in SETTLING until there is more,
    or until the run is over.
    """

    def __init__(self, *, is_marking: bool, has_more: Callable[[], bool]) -> None:
        """
        Args:
            has_more: Whether the reader has been given parts that it has not said to have read.
        """
        self._has_more = has_more
        super().__init__(is_marking=is_marking)

    @property
    def may_read(self) -> bool:
        """Whether a part can be given to the reader now; while the rest of the parts before is drained it cannot."""
        return self.phase in (Phase.RUNNING, Phase.SETTLING)

    def part_read(self, generation: RemoteGeneration) -> None:
        """The reader has read a part: the end that it told of before was that of the parts before.

        It may have crossed the part on the way, and says how many documents are to be awaited.
        """
        generation.role("reader").facts.pop("pass_done", None)

    def resume(self) -> None:
        """A part is about to be given to the reader."""
        if self.phase is Phase.SETTLING:
            self._move(Phase.RUNNING)

    def finish(self) -> None:
        """The run is over for a node that has nothing left."""
        self._move(Phase.FINISHED)

    def _pass_is_read(self, reader: dict[str, Message]) -> bool:
        return "pass_done" in reader and not self._has_more()

    def _after_pass(self, generation: Stages[RemoteStage], stop: Stop | None) -> None:  # type: ignore[override]
        if stop is not None:
            self._move(Phase.FINISHED)
