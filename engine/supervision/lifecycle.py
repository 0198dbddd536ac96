"""The lifecycle of a generation: its phases, the moves between them, and what makes it move on.

    RUNNING -> DELIVERING -> SEALING -> SETTLING -> RUNNING (another pass) | FINISHED
    RUNNING, DELIVERING -> STOPPING -> SEALING           a limit, a signal or an outage says stop

`Lifecycle` only looks at what the children told, and commands them. When a run stops, and what becomes of a generation
that dies, is decided elsewhere (`engine.supervision.supervisor`); the whole protocol is in docs/protocols/shutdown.md.
"""

from __future__ import annotations

import enum
import signal
import time
from dataclasses import dataclass, field

from engine.errors import Exit, ProtocolError
from engine.memory.channels import Message
from engine.supervision.generation import Stages, StageT

MAX_PASSES = 3
"""Passes over the work queue in one run. The first reads the queue, the second proves it empty; a third picks up
what moved in between. A collection that grows all the time would never end otherwise."""


class Phase(enum.Enum):
    """A phase of a generation's lifecycle."""

    RUNNING = "running"
    DELIVERING = "delivering"
    STOPPING = "stopping"
    SEALING = "sealing"
    SETTLING = "settling"
    FINISHED = "finished"


MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.RUNNING: frozenset({Phase.DELIVERING, Phase.STOPPING}),
    Phase.DELIVERING: frozenset({Phase.SEALING, Phase.STOPPING}),
    Phase.STOPPING: frozenset({Phase.SEALING}),
    Phase.SEALING: frozenset({Phase.SETTLING}),
    Phase.SETTLING: frozenset({Phase.RUNNING, Phase.FINISHED}),
    Phase.FINISHED: frozenset(),
}


def check_move(old: Phase, new: Phase) -> None:
    """Refuse a move that is not in the table.

    Raises:
        ProtocolError: it is not.
    """
    if new not in MOVES[old]:
        raise ProtocolError(f"supervisor: {old.value} -> {new.value} is not a move")


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a run ends before its work is done.

    Attributes:
        code: The exit code.
        sentence: The reason, for the person who started it.
        since_s: When that was decided (monotonic).
    """

    code: Exit
    sentence: str
    since_s: float = field(default_factory=time.monotonic)

    @property
    def is_by_signal(self) -> bool:
        """Whether a person or an init system asked for it."""
        return self.code in (Exit.SIGINT, Exit.SIGTERM)


def stop_by_signal(number: signal.Signals) -> Stop:
    """What SIGINT, SIGTERM or SIGHUP asks for."""
    code = Exit.SIGINT if number is signal.SIGINT else Exit.SIGTERM
    return Stop(code, f"stopped by {number.name} after a clean stop; run the same command again to continue")


class Lifecycle:
    """Moves a generation from phase to phase.

    Attributes:
        phase: Where it stands.
        pass_number: Which pass over the work queue it makes, from 1.
        work_left: Whether its reader came to a limit, or was stopped, before the end of the queue.
    """

    def __init__(self, *, is_marking: bool) -> None:
        """
        Args:
            is_marking: Whether documents are marked; else another pass would read them all again.
        """
        self._is_marking = is_marking
        self.begin(limit=None)

    def begin(self, *, limit: int | None) -> None:
        """Begin a generation: its reader makes a first pass without being told.

        Args:
            limit: Documents that it reads at most.
        """
        self._limit = limit
        self.phase = Phase.RUNNING
        self.pass_number = 1
        self.work_left = False
        self._is_expected_told = False

    @property
    def has_rows_to_come(self) -> bool:
        """Whether documents are still read or awaited from the clients, and nobody has said stop."""
        return self.phase in (Phase.RUNNING, Phase.DELIVERING)

    @property
    def is_all_awaited(self) -> bool:
        """Whether all that was read is awaited now, as rows or in a shard."""
        return self.phase in (Phase.DELIVERING, Phase.SEALING)

    @property
    def what_is_left(self) -> str:
        """What a run leaves undone that stops now, for the person who started it."""
        if self.pass_number == 1:
            return "work is left"
        return "the queue was read to its end, but no second look has found it empty: new documents may have come"

    def stop(self, generation: Stages[StageT]) -> None:
        """Have reading end and what is in flight finished; beyond that there is nothing to stop."""
        if self.has_rows_to_come:
            generation.command("reader", do="stop")
            generation.command_clients(do="stop")
            generation.command("writer", do="stop")
            self._move(Phase.STOPPING)

    def advance(self, generation: Stages[StageT], stop: Stop | None, *, marks_are_over: bool) -> None:
        """Make whatever moves the facts allow now.

        Args:
            stop: Why the run is being stopped, if it is.
            marks_are_over: Whether every committed shard is marked, or never will be by this run.
        """
        if self.phase is Phase.RUNNING:
            self._advance_running(generation)
        if self.phase is Phase.DELIVERING and _is_delivered(generation):
            self._seal(generation)
        if self.phase is Phase.STOPPING and _has_stopped(generation):
            self._seal(generation)
        if self.phase is Phase.SEALING and "drained" in generation.role("writer").facts:
            del generation.role("writer").facts["drained"]
            self._move(Phase.SETTLING)
        if self.phase is Phase.SETTLING:
            is_without_mongodb = stop is not None and stop.code is Exit.MONGODB  # marks would wait for it once more
            if marks_are_over or is_without_mongodb:
                self._after_pass(generation, stop)

    def _move(self, phase: Phase) -> None:
        check_move(self.phase, phase)
        self.phase = phase

    def _advance_running(self, generation: Stages[StageT]) -> None:
        reader = generation.role("reader").facts
        self._announce_expected(generation, reader.get("reader", {}))
        if self._pass_is_read(reader) or "stopped" in reader:
            self.work_left = bool(reader.get("stopped", {}).get("work_left", False))
            generation.command_clients(do="tail")
            self._move(Phase.DELIVERING)

    def _pass_is_read(self, reader: dict[str, Message]) -> bool:
        """Whether the reader has come to the end of what it is to read, for now."""
        return "pass_done" in reader

    def _announce_expected(self, generation: Stages[StageT], reader: Message) -> None:
        """Tell the writer once how many rows are to come, so that the last shards get smaller (docs/adr/0007)."""
        estimate = reader.get("estimate")
        if estimate is None or self._is_expected_told or not self._is_marking:
            return
        rows = estimate if self._limit is None else min(estimate, self._limit)
        generation.command("writer", do="expect", rows=rows)
        self._is_expected_told = True

    def _seal(self, generation: Stages[StageT]) -> None:
        generation.command("writer", do="drain", rows=_sum_of_clients(generation, "rows"))
        self._move(Phase.SEALING)

    def _after_pass(self, generation: Stages[StageT], stop: Stop | None) -> None:
        """The queue has been read once and all of it is marked: look again, or finish."""
        reader = generation.role("reader").facts
        done = reader.get("pass_done")
        look_again = (
            stop is None
            and self._is_marking
            and done is not None
            and done["found"] > 0
            and self.pass_number < MAX_PASSES
        )
        if not look_again:
            self._move(Phase.FINISHED)
            return
        self.pass_number += 1
        del reader["pass_done"]
        generation.command("reader", do="rescan")
        self._move(Phase.RUNNING)


def _sum_of_clients(generation: Stages[StageT], name: str) -> int:
    return sum(client.facts.get("client", {}).get(name, 0) for client in generation.clients())


def _is_delivered(generation: Stages[StageT]) -> bool:
    """Whether every published document has reached the vector ring or the quarantine."""
    reader = generation.role("reader").facts
    published = (reader.get("pass_done") or reader["stopped"])["documents"]
    settled = _sum_of_clients(generation, "rows") + _sum_of_clients(generation, "quarantined")
    return bool(settled == published)


def _has_stopped(generation: Stages[StageT]) -> bool:
    """Whether nobody reads, or begins a request, any more."""
    reader = generation.role("reader")
    return (reader.ended is not None or "stopped" in reader.facts) and all(
        "stopped" in client.facts for client in generation.clients()
    )
