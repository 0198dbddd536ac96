"""A worker: a child process that runs one stage. Here are its start, its life-line to the supervisor, and its end.

A child is started by the supervisor's main thread as a fresh interpreter (never a fork of a process that has
threads) and is told by its first message which stage to run. It

1. asks the kernel to be killed with its parent, and leaves at once if the parent has gone already;
2. ignores SIGINT and SIGTERM: a terminal or an init system signals the whole group, but only the supervisor decides;
3. receives its job, opens the rings and queues whose descriptors it inherited, imports the stage's module;
4. runs `stage.run(context)`;
5. reports an error as one message and ends with the error's exit code.

The start uses as few imports as it can: seven processes on a small machine start at the same time.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from engine.errors import EngineError, Exit
from engine.ledger import durable
from engine.memory.channels import Channel, Message
from engine.memory.ring import Ring, SlotQueue
from engine.memory.shared_rings import SharedRings
from engine.memory.slots import VectorLayout
from engine.supervision.interpreter import full_name, tie_to_parent

NICENESS = 5
"""Children give way to MongoDB and to servers on the same machine (docs/adr/0008): on a crowded one the marks would
otherwise starve behind the documents that are still coming. On a machine with idle cores it changes nothing."""
HEARTBEAT_S = 0.5
"""A child says something at least that often; the supervisor takes long silence for a hang."""


class Stage(Protocol):
    """What the module of a stage has to offer: one function."""

    def run(self, context: StageContext) -> None:
        """Work until the supervisor says stop (or the work is over); raise EngineError when it cannot go on."""


@dataclass(slots=True, kw_only=True)
class StageContext:
    """What a stage gets from the engine: its settings, the rings, the channel to the supervisor.

    Attributes:
        role: `reader`, `client-0` ..., or `writer`.
        generation: Number of this set of processes; every slot header carries it.
        epoch: Number of this start of the run, from the ledger.
        settings: The stage's own settings as sent by the composer (may hold secrets: never log it).
        channel: Messages to and from the supervisor.
        documents: Ring of document slots.
        documents_free: Numbers of empty document slots; the reader takes, clients put.
        documents_ready: Numbers of filled document slots; the reader puts, clients take.
        vectors: Ring of vector slots.
        vectors_free: Numbers of empty vector slots; clients take, the writer puts.
        vectors_ready: Numbers of filled vector slots; clients put, the writer takes.
        layout: Where things stand in a vector slot.
        commands: Messages from the supervisor that the stage has not looked at yet.
    """

    role: str
    generation: int
    epoch: int
    settings: dict[str, Any]
    channel: Channel
    documents: Ring
    documents_free: SlotQueue
    documents_ready: SlotQueue
    vectors: Ring
    vectors_free: SlotQueue
    vectors_ready: SlotQueue
    layout: VectorLayout
    commands: list[Message] = field(default_factory=list)

    def tell(self, event: str, **facts: Any) -> None:
        """Send an event to the supervisor; ends this process when the supervisor is gone."""
        try:
            self.channel.send({"event": event, **facts})
        except ConnectionError:
            os._exit(Exit.UNEXPECTED)

    def log(self, level: str, name: str, **facts: Any) -> None:
        """Send a log line (`level`: debug, info, warning, error); only the supervisor writes logs."""
        self.tell("log", level=level, name=name, facts=facts)

    def poll_commands(self) -> list[Message]:
        """Commands that have come meanwhile; ends this process when the supervisor is gone (its life-line)."""
        messages, ended = self.channel.poll()
        if ended:
            os._exit(Exit.UNEXPECTED)
        if self.commands:
            messages = self.commands + messages
            self.commands = []
        return messages

    def wait(self, timeout_s: float, *fds: int) -> None:
        """Sleep until one of `fds` or the supervisor's channel is readable, at most `timeout_s`."""
        select.select([self.channel.fd, *fds], [], [], timeout_s)


def job_message(
    stage: str,
    role: str,
    generation: int,
    epoch: int,
    settings: dict[str, Any],
    rings: SharedRings,
    commands: list[Message],
) -> Message:
    """The first message to a child: its job; `commands` are those that it finds before it has done anything."""
    return {
        "stage": stage,
        "role": role,
        "generation": generation,
        "epoch": epoch,
        "settings": settings,
        "commands": commands,
        "rings": rings.describe(),
    }


def main() -> None:
    """Entry point of a child: `role channel_fd parent_pid`."""
    role, channel_fd, parent_pid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    tie_to_parent(role, parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(NICENESS)
    channel = Channel.from_fd(channel_fd)
    job = channel.receive()
    if job is None:
        os._exit(Exit.UNEXPECTED)
    try:
        durable.arm(role)
        rings = SharedRings.open(job["rings"])
        stage = cast(Stage, importlib.import_module(full_name(job["stage"])))
        context = StageContext(
            role=role,
            generation=job["generation"],
            epoch=job["epoch"],
            settings=job["settings"],
            channel=channel,
            documents=rings.documents,
            documents_free=rings.documents_free,
            documents_ready=rings.documents_ready,
            vectors=rings.vectors,
            vectors_free=rings.vectors_free,
            vectors_ready=rings.vectors_ready,
            layout=rings.layout,
            commands=job["commands"],
        )
        context.tell("started", pid=os.getpid())
        stage.run(context)
    except EngineError as error:
        channel.try_send({"event": "error", "kind": type(error).__name__, "message": str(error)})
        os._exit(error.exit_code)
    except BaseException as error:  # noqa: BLE001 - the last line of a process: whatever it was is reported
        import traceback  # noqa: PLC0415 - only a bug pays for this import

        text = "".join(traceback.format_exception(error))[-30_000:]
        channel.try_send({"event": "error", "kind": "UNEXPECTED", "message": repr(error), "traceback": text})
        os._exit(Exit.UNEXPECTED)
    os._exit(Exit.DONE)  # no interpreter teardown: views into the rings may still exist


class Heartbeat:
    """A timer that says when the next report to the supervisor is due."""

    def __init__(self, every_s: float = HEARTBEAT_S) -> None:
        self._every_s = every_s
        self._due = time.monotonic() + every_s

    def due(self) -> bool:
        """True about every `every_s` seconds."""
        now = time.monotonic()
        if now < self._due:
            return False
        self._due = now + self._every_s
        return True


if __name__ == "__main__":
    main()
