"""A generation: one set of child processes with their rings and queues, started and ended together."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from engine.memory.channels import Channel, Message
from engine.memory.shared_rings import RingSizes, SharedRings
from engine.supervision.interpreter import python
from engine.supervision.run_plan import StagePlan
from engine.supervision.worker import job_message
from engine.telemetry.reporting import StageFigures

_SIGNALS_OF_DEATH = {
    signal.SIGKILL: "killed, by an operator or for lack of memory",
    signal.SIGBUS: "bus error: shared memory exhausted",
    signal.SIGSEGV: "segmentation fault",
}


@dataclass(slots=True, kw_only=True)
class Stage:
    """One process of a generation, as whoever supervises it knows it; it may run on another machine.

    Attributes:
        role: `reader`, `client-0` ..., `writer`.
        facts: The last message it sent, by event name.
        error: Its error event, if it told one.
        heard_at_s: When its last message came (monotonic).
        is_silent: Whether a warning of its silence was logged already.
        ended: Its exit code once it has ended and was waited for.
        cpu_s: User and system time, known once it has ended.
    """

    role: str
    facts: dict[str, Message] = field(default_factory=dict)
    error: Message | None = None
    heard_at_s: float = field(default_factory=time.monotonic)
    is_silent: bool = False
    ended: int | None = None
    cpu_s: float = 0.0

    @property
    def name(self) -> str:
        """Which process it is, for logs and errors."""
        return self.role

    def how_it_ended(self) -> str:
        """One phrase for logs and errors."""
        if self.error is not None:
            return str(self.error["message"])
        if self.ended is not None and self.ended < 0:
            number = signal.Signals(-self.ended)
            return f"{number.name} ({_SIGNALS_OF_DEATH.get(number, 'a signal')})"
        return f"exit code {self.ended}"


@dataclass(slots=True, kw_only=True)
class Child(Stage):
    """A stage that is a child process of this one.

    Attributes:
        process: The process.
        channel: Our end of its channel.
    """

    process: subprocess.Popen[bytes]
    channel: Channel

    @property
    def name(self) -> str:
        """Which process it is, for logs and errors."""
        return f"{self.role} (process {self.process.pid})"

    def reap(self, *, block: bool) -> bool:
        """Wait for the end and take the CPU time; True once it has ended."""
        if self.ended is not None:
            return True
        pid, status, usage = os.wait4(self.process.pid, 0 if block else os.WNOHANG)
        if pid == 0:
            return False
        self.ended = os.waitstatus_to_exitcode(status)
        self.process.returncode = self.ended
        self.cpu_s = usage.ru_utime + usage.ru_stime
        return True


StageT = TypeVar("StageT", bound=Stage)


class Stages(Generic[StageT]):
    """The processes of one generation as whoever supervises them knows them; they may run on another machine.

    Attributes:
        number: Counts from 1 in a run.
        children: By role.
    """

    number: int
    children: dict[str, StageT]

    def role(self, role: str) -> StageT:
        """A process by its role."""
        return self.children[role]

    def clients(self) -> list[StageT]:
        """The GPU clients."""
        return [child for role, child in self.children.items() if role.startswith("client")]

    def command(self, role: str, **command: object) -> None:
        """Send a command; a process that has ended is noticed elsewhere."""
        raise NotImplementedError

    def command_clients(self, **command: object) -> None:
        """Send a command to every client."""
        for child in self.clients():
            self.command(child.role, **command)

    def has_full_slots(self) -> bool:
        """Whether a slot of either ring waits to be taken."""
        raise NotImplementedError

    def ring_shares(self) -> dict[str, float]:
        """How full the rings are now: shares, 0 to 1, by name."""
        raise NotImplementedError

    def figures(self) -> StageFigures:
        """What the processes told last, and how full the rings are now."""
        return StageFigures(
            reader=self.role("reader").facts.get("reader", {}),
            clients={child.role: child.facts.get("client", {}) for child in self.clients()},
            writer=self.role("writer").facts.get("writer", {}),
            rings=self.ring_shares(),
        )

    def cpu_s(self, group: str) -> float:
        """CPU seconds of the ended processes whose role starts with `group`."""
        return sum(child.cpu_s for role, child in self.children.items() if role.startswith(group))


class Generation(Stages[Child]):
    """The child processes of one generation.

    Attributes:
        rings: Rings and queues, shared with every child.
    """

    def __init__(
        self,
        number: int,
        epoch: int,
        sizes: RingSizes,
        stages: Iterable[StagePlan],
        inherit: list[int],
        commands: Mapping[str, list[Message]] | None = None,
    ) -> None:
        """Reserve the rings and start every child; call from the main thread only (children die with it).

        Args:
            inherit: Further descriptors that children keep open: the run folder's lock.
            commands: First commands by role: children find them before they have done anything.
        """
        self.number = number
        self.rings = SharedRings.create(sizes)
        self.children: dict[str, Child] = {}
        try:
            for plan in stages:
                self.children[plan.role] = self._start(plan, epoch, inherit, (commands or {}).get(plan.role, []))
        except BaseException:
            self.kill()
            raise

    def _start(self, plan: StagePlan, epoch: int, inherit: list[int], commands: list[Message]) -> Child:
        ours, theirs = Channel.pair()
        process = subprocess.Popen(
            python("engine.supervision.worker", plan.role, str(theirs.fd), str(os.getpid())),
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fd, *inherit, *self.rings.fds()],
        )
        theirs.close()
        ours.send(job_message(plan.stage, plan.role, self.number, epoch, plan.settings, self.rings, commands))
        return Child(role=plan.role, process=process, channel=ours)

    def command(self, role: str, **command: object) -> None:
        """Send a command; a child that has ended is noticed elsewhere."""
        self.children[role].channel.try_send(dict(command))

    def has_full_slots(self) -> bool:
        """Whether a slot of either ring waits to be taken."""
        return bool(self.rings.documents_ready.waiting() or self.rings.vectors_ready.waiting())

    def ring_shares(self) -> dict[str, float]:
        """How full the rings are now: shares, 0 to 1, by name."""
        rings = self.rings
        return {
            "documents_ready": rings.documents_ready.waiting() / rings.documents.n_slots,
            "vectors_ready": rings.vectors_ready.waiting() / rings.vectors.n_slots,
            "vectors_busy": 1 - rings.vectors_free.waiting() / rings.vectors.n_slots,
        }

    def kill(self) -> None:
        """End every child now, wait for each, and give the rings back. Nothing durable is lost by it."""
        for child in self.children.values():
            if child.ended is None:
                # not Popen.kill: it polls first, and would reap a child that has just ended before we see its CPU time
                os.kill(child.process.pid, signal.SIGKILL)
        for child in self.children.values():
            child.reap(block=True)
            child.channel.close()
        self.rings.close()

    def finish(self, timeout_s: float) -> None:
        """Ask every child to leave, then end those that do not."""
        for child in self.children.values():
            child.channel.try_send({"do": "exit"})
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if sum(child.reap(block=False) for child in self.children.values()) == len(self.children):
                break
            time.sleep(0.005)
        self.kill()
