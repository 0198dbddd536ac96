"""Where a generation stands, which moves are allowed, and why a run ends early (docs/protocols/shutdown.md)."""

from __future__ import annotations

import enum
import signal
import time
from dataclasses import dataclass, field

from engine.errors import Exit, ProtocolError


class Phase(enum.Enum):
    """Where a generation stands."""

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
