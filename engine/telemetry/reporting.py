"""Live figures of a run: what the status file, the progress and the metrics show, and the bottleneck verdict."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any, Protocol

from engine.ledger.runfolder import write_status
from engine.memory.channels import Message
from engine.supervision.generation import Generation
from engine.telemetry.summary import Occupancy, RunClock

_log = logging.getLogger("engine.reporting")

EVERY_S = 1.0


class Observer(Protocol):
    """Sees the live figures of a run (progress on a terminal, log lines, metrics)."""

    def update(self, figures: dict[str, Any]) -> None:
        """Take the figures of this moment."""


class Reporter:
    """Collects the figures of the children and publishes them about once a second.

    Attributes:
        clock: Times and rates of the run.
        occupancy: How full the rings were.
    """

    def __init__(self, status: Path, observers: list[Observer]) -> None:
        self.clock = RunClock()
        self.occupancy = Occupancy()
        self._status = status
        self._observers = observers
        self._due_s = 0.0
        self._to_embed: int | None = None  # by this run in all, once a reader has estimated it

    def due(self) -> bool:
        """Whether it is time to publish; the next time is a second later."""
        now = time.monotonic()
        if now < self._due_s:
            return False
        self._due_s = now + EVERY_S
        return True

    def publish(self, generation: Generation | None, facts: dict[str, Any], *, committed_before: int) -> None:
        """Publish the figures of this moment.

        Args:
            generation: The children that live, or None.
            facts: What the supervisor knows itself; passed on as it is.
            committed_before: Rows that this run committed in earlier generations.
        """
        figures = {
            "pid": os.getpid(),
            "at": time.time(),
            "seconds": round(self.clock.seconds, 1),
            **facts,
            **self._of_children(generation, is_busy=facts["phase"] in ("running", "delivering")),
        }
        clients = figures["clients"].values()
        rows = committed_before + sum(client.get("rows", 0) for client in clients)
        if (estimate := figures["reader"].get("estimate")) is not None:
            self._to_embed = committed_before + estimate  # a generation's reader finds what the ones before left
        self.clock.rows.update(rows)
        self.clock.rows_of_minutes.update(rows)
        figures |= {
            "embedded_now": rows,
            "rate": round(self.clock.rows.per_second(), 1),
            "rate_of_minutes": round(self.clock.rows_of_minutes.per_second(), 1),
            "left_at_start": self._to_embed,
        }
        try:
            write_status(self._status, figures)
        except OSError as error:
            _log.debug("status_not_written error=%s", error)
        for observer in self._observers:
            observer.update(figures)

    def _of_children(self, generation: Generation | None, *, is_busy: bool) -> dict[str, Any]:
        if generation is None:
            return {"reader": {}, "clients": {}, "writer": {}, "rings": {}}
        clients = {child.role: child.facts.get("client", {}) for child in generation.clients()}
        parts = generation.parts
        rings = {
            "documents_ready": parts.documents_ready.waiting() / parts.documents.n_slots,
            "vectors_ready": parts.vectors_ready.waiting() / parts.vectors.n_slots,
            "vectors_busy": 1 - parts.vectors_free.waiting() / parts.vectors.n_slots,
        }
        if is_busy and any(client.get("rows") for client in clients.values()):
            self.occupancy.sample(**rings)
        return {
            "reader": generation.role("reader").facts.get("reader", {}),
            "clients": clients,
            "writer": generation.role("writer").facts.get("writer", {}),
            "rings": rings,
        }

    def verdict(self, generation: Generation) -> str:
        """The bottleneck in words."""
        reader: Message = generation.role("reader").facts.get("reader", {})
        return self.occupancy.verdict(reader, [child.facts.get("client", {}) for child in generation.clients()])
