"""The watchdog: notices a child that hangs, a generation that stands still, a fleet without a healthy server."""

from __future__ import annotations

import logging
import time

from engine.supervision.generation import Stages, StageT

_log = logging.getLogger("engine.watchdog")

SILENCE_WARN_S = 30.0
SILENCE_KILL_S = 180.0
STANDSTILL_S = 300.0
"""Far beyond any pause between two tries: so long nothing is in flight, nothing waits, and still rows are missing."""
_WITHOUT_SERVER = frozenset({"out", "probing"})
_IDLE = "idle"


class Watchdog:
    """Looks at a generation, a few times a second, for troubles that do not announce themselves."""

    def __init__(self) -> None:
        self._outage_since_s: float | None = None
        self._settled_at_outage = 0
        self._is_outage = False
        self._still_since_s = 0.0
        self._last_counts: tuple[int, ...] = ()

    def standstill(self, generation: Stages[StageT], *, is_awaited: bool) -> str | None:
        """Why the generation has to end: nothing moves, nothing is left to move, and still rows are missing.

        Only a bug can lose a batch between two processes. The rings are disposable, so recovery is the remedy.

        Args:
            is_awaited: Whether all that was read is awaited now; at other times there is nothing to judge.
        """
        if not is_awaited:
            self._last_counts = ()
            return None
        clients = [child.facts.get("client", {}) for child in generation.clients()]
        writer = generation.role("writer").facts.get("writer", {})
        counts = (
            *(client.get("rows", 0) + client.get("quarantined", 0) for client in clients),
            writer.get("rows", 0),
            writer.get("committed_rows", 0),
        )
        is_busy = (
            generation.has_full_slots()
            or any(client.get("in_flight", 0) for client in clients)
            or writer.get("state") == "sealing"
            or self._is_outage
        )
        now = time.monotonic()
        if is_busy or counts != self._last_counts:
            self._last_counts, self._still_since_s = counts, now
        if now - self._still_since_s <= STANDSTILL_S:
            return None
        return f"nothing has moved for {STANDSTILL_S:.0f} s although rows are missing: a batch was lost"

    def outage_s(self, generation: Stages[StageT]) -> float:
        """For how long no server has been healthy, 0.0 while one is or may be.

        Servers that come back and go out again before a document was settled, or before there was nothing to do, have
        not been healthy meanwhile: the outage then has lasted since it began first.
        """
        clients = [child.facts["client"] for child in generation.clients() if "client" in child.facts]
        settled = sum(client.get("rows", 0) + client.get("quarantined", 0) for client in clients)
        states = {client["state"] for client in clients}
        if settled != self._settled_at_outage or _IDLE in states:
            self._outage_since_s = None
        self._is_outage = bool(states) and states <= _WITHOUT_SERVER
        if not self._is_outage:
            return 0.0
        now = time.monotonic()
        if self._outage_since_s is None:
            self._outage_since_s, self._settled_at_outage = now, settled
        return now - self._outage_since_s

    def hung_child(self, generation: Stages[StageT]) -> str | None:
        """Why the generation has to end: a child has said nothing for too long. Warns long before."""
        now = time.monotonic()
        for child in generation.children.values():
            silence_s = now - child.heard_at_s
            if child.ended is not None or silence_s <= SILENCE_WARN_S:
                child.is_silent = False
                continue
            if silence_s > SILENCE_KILL_S:
                return f"{child.name} said nothing for {silence_s:.0f} s"
            if not child.is_silent:
                child.is_silent = True
                _log.warning("child_silent child=%r seconds=%.0f", child.name, silence_s)
        return None
