"""The reporter of a run: publishes its live figures to the status file, the progress display and the metrics."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from engine.memory.channels import Message
from engine.telemetry.bottleneck import Occupancy
from engine.telemetry.status import write_status
from engine.telemetry.summary import RunClock

if TYPE_CHECKING:
    from engine.gpus.watch import GpuWatch

_log = logging.getLogger("engine.reporting")

EVERY_S = 1.0


class Observer(Protocol):
    """Sees the live figures of a run (progress on a terminal, log lines, metrics)."""

    def update(self, figures: dict[str, Any]) -> None:
        """Take the figures of this moment."""


@runtime_checkable
class Journal(Protocol):
    """An observer that is told of events too (a server out, a crash, a signal)."""

    def note(self, event: str, **facts: Any) -> None:
        """Take an event of this moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFigures:
    """The figures that the child processes of a generation told last, and how full their rings are now.

    Attributes:
        reader, writer: Their last figures, empty before the first.
        clients: The last figures of each client, by its role.
        rings: Shares of a ring, 0 to 1, by name; empty when no generation lives.
    """

    reader: Message = field(default_factory=dict)
    clients: dict[str, Message] = field(default_factory=dict)
    writer: Message = field(default_factory=dict)
    rings: dict[str, float] = field(default_factory=dict)


class Reporter:
    """Publishes the live figures of a run about once a second.

    Attributes:
        clock: Times and rates of the run.
        occupancy: How full the rings were.
    """

    def __init__(self, status: Path, observers: list[Observer], gpus: GpuWatch | None = None) -> None:
        """
        Args:
            gpus: Watch over the GPUs of this machine, None where there are none.
        """
        self._gpus = gpus
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

    def note(self, event: str, **facts: Any) -> None:
        """Tell those observers who keep a journal of an event."""
        for observer in self._observers:
            if isinstance(observer, Journal):
                observer.note(event, **facts)

    def publish(self, stages: StageFigures, facts: dict[str, Any], *, committed_before: int) -> None:
        """Publish the figures of this moment.

        Args:
            stages: What the children told.
            facts: What the supervisor knows itself; passed on as it is.
            committed_before: Rows that this run committed in earlier generations.
        """
        figures = {
            "pid": os.getpid(),
            "at": time.time(),
            "seconds": round(self.clock.seconds, 1),
            **facts,
            "reader": stages.reader,
            "clients": stages.clients,
            "writer": stages.writer,
            "rings": stages.rings,
        }
        embedded = sum(client.get("rows", 0) for client in stages.clients.values())
        if embedded and facts["phase"] in ("running", "delivering"):
            self.occupancy.sample(**stages.rings)
        rows = committed_before + embedded
        if (estimate := stages.reader.get("estimate")) is not None:
            self._to_embed = committed_before + estimate  # a generation's reader finds what the ones before left
        if self._gpus is not None:
            self._gpus.urls = tuple(client["url"] for client in stages.clients.values() if "url" in client)
            figures["gpus"] = self._gpus.latest()
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

    def bottleneck(self, stages: StageFigures) -> str:
        """The bottleneck in words."""
        return self.occupancy.bottleneck(stages.reader, list(stages.clients.values()))
