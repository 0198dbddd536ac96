"""Notices what does not announce itself: a child that hangs, a fleet of which no server is healthy."""

from __future__ import annotations

import logging
import time

from engine.generation import Generation

_log = logging.getLogger("engine.watchdog")

SILENCE_WARN_S = 30.0
SILENCE_KILL_S = 180.0
_WITHOUT_SERVER = ("out", "probing")


class Watchdog:
    """Looks at the children of a generation, a few times a second."""

    def __init__(self) -> None:
        self._outage_since_s: float | None = None

    def outage_s(self, generation: Generation) -> float:
        """For how long no server has been healthy, 0.0 while one is or may be."""
        states = [child.facts["client"]["state"] for child in generation.clients() if "client" in child.facts]
        if not states or any(state not in _WITHOUT_SERVER for state in states):
            self._outage_since_s = None
            return 0.0
        now = time.monotonic()
        self._outage_since_s = self._outage_since_s or now
        return now - self._outage_since_s

    def hung_child(self, generation: Generation) -> str | None:
        """Why the generation has to end: a child has said nothing for too long. Warns long before."""
        now = time.monotonic()
        for child in generation.children.values():
            silence_s = now - child.heard_s
            if child.ended is not None or silence_s <= SILENCE_WARN_S:
                child.is_silent = False
                continue
            if silence_s > SILENCE_KILL_S:
                return f"{child.role} (process {child.process.pid}) said nothing for {silence_s:.0f} s"
            if not child.is_silent:
                child.is_silent = True
                _log.warning("child_silent role=%s pid=%d seconds=%.0f", child.role, child.process.pid, silence_s)
        return None
