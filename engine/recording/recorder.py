"""The recorder of a run: an observer that writes down, every few seconds, what the run does and how fast.

It works in a thread of its own. What it cannot write, because a disk is full, gone or stands still, it drops: a run is
neither ended nor slowed by it, and it tries again a minute later.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from pathlib import Path
from typing import Any

from engine.recording.history import History
from engine.recording.machine import BusyProcesses, Machine
from engine.recording.sampling import Sampler
from engine.telemetry.logs import redact

_log = logging.getLogger("engine.recorder")

FIRST_EVERY_S, FIRST_S = 1.0, 300.0
"""A run that is young is looked at closely, so that a short one can be judged too."""
EVERY_S = 5.0
SERVERS_A_SECOND = 16
"""A sample costs by the server: of a larger fleet there is one every so many seconds more."""
_RETRY_S = 60.0
_MOST_WAITING = 64
_LEAVE_S = 2.0
_SLACK_S = 0.4  # figures come about once a second, never on the dot


def first_every_s(n_servers: int) -> float:
    """Seconds between samples of a young run."""
    return min(EVERY_S, FIRST_EVERY_S * max(1.0, n_servers / SERVERS_A_SECOND))


class Recorder:
    """Records a run; `engine.telemetry.reporting.Journal`."""

    def __init__(self, folder: Path, *, facts: dict[str, Any], folders: dict[str, Path]) -> None:
        """Begin, with an event `new_run`.

        Args:
            folder: `RunFolders.history`.
            facts: What is known of the run at its start; stands in that event.
            folders: Whose file systems to ask for free space, by name.
        """
        self._history = History(folder)
        self._began_s = time.monotonic()
        self._sampler = Sampler(self._began_s)
        self._machine = Machine(folders)
        self._busy = BusyProcesses()
        self._retry_s = 0.0
        self._has_complained = False
        self._phase: str | None = None
        self._gpus: dict[int, str] = {}
        self._waiting: queue.Queue[tuple[str, dict[str, Any], float] | None] = queue.Queue(_MOST_WAITING)
        self.note("new_run", cores=os.cpu_count(), **facts)
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def update(self, figures: dict[str, Any]) -> None:
        """Take the figures of this moment."""
        self._put(("", figures, time.monotonic()))

    def note(self, event: str, **facts: Any) -> None:
        """Take an event of this moment; what it says in words is kept without secrets (G10)."""
        told = {name: redact(fact) if isinstance(fact, str) else fact for name, fact in facts.items()}
        self._put((event, {"at": time.time(), "event": event, **told}, time.monotonic()))

    def close(self) -> None:
        """Write what waits, for a moment at most."""
        while True:
            try:
                self._waiting.put_nowait(None)
                break
            except queue.Full:  # the disk stands still, or did: the end takes the place of what came first
                with contextlib.suppress(queue.Empty):
                    self._waiting.get_nowait()
        self._thread.join(_LEAVE_S)

    def _put(self, item: tuple[str, dict[str, Any], float]) -> None:
        with contextlib.suppress(queue.Full):  # the disk stands still: this is lost, and nobody waits
            self._waiting.put_nowait(item)

    def _work(self) -> None:
        figures: dict[str, Any] | None = None
        while (item := self._waiting.get()) is not None:
            event, facts, now_s = item
            try:
                if event:
                    self._write(facts)
                else:
                    figures = facts
                    self._see(figures, now_s)
            except OSError as error:
                self._give_way(error)
        try:
            self._end(figures)
        except OSError as error:
            self._give_way(error)
        self._history.close()

    def _see(self, figures: dict[str, Any], now_s: float) -> None:
        self._sampler.see(figures, now_s)
        if figures["phase"] != self._phase:
            self._phase = figures["phase"]
            self._write({"at": figures["at"], "event": "phase", "phase": self._phase})
        for gpu in figures.get("gpus", ()):
            self._see_gpu(figures["at"], gpu)
        every_s = first_every_s(len(figures["clients"])) if now_s - self._began_s < FIRST_S else EVERY_S
        if self._sampler.seconds_since(now_s) >= every_s - _SLACK_S or figures.get("exit") is not None:
            self._take(figures, now_s)
        if figures.get("exit") is not None:
            self._write({"at": figures["at"], "event": "end", "exit": figures["exit"], "why": _why(figures)})

    def _see_gpu(self, at: float, gpu: dict[str, Any]) -> None:
        """Write down, once, which server works on a GPU."""
        if gpu["server"] and self._gpus.get(gpu["index"]) != gpu["server"]:
            self._gpus[gpu["index"]] = gpu["server"]
            facts = {"index": gpu["index"], "name": gpu["name"], "url": redact(gpu["server"])}
            self._write({"at": at, "event": "gpu", **facts})

    def _take(self, figures: dict[str, Any], now_s: float) -> None:
        levels = self._machine.look()
        sample = self._sampler.take(figures, levels, now_s)
        if now_s < self._retry_s:
            return
        self._history.append(sample, self._sampler.servers)
        if (busy := self._busy.look(levels.get("machine.cpu_busy", 0.0))) is not None:
            self._write({"at": figures["at"], "event": "busy_processes", "processes": busy})

    def _write(self, event: dict[str, Any]) -> None:
        if time.monotonic() >= self._retry_s:
            self._history.note(event)

    def _end(self, figures: dict[str, Any] | None) -> None:
        if figures is not None and time.monotonic() >= self._retry_s:
            self._history.flush(self._sampler.servers)

    def _give_way(self, error: OSError) -> None:
        self._retry_s = time.monotonic() + _RETRY_S
        self._history.close()
        if not self._has_complained:
            self._has_complained = True
            _log.warning("history_not_written error=%r: the run goes on without a recording", str(error))


def _why(figures: dict[str, Any]) -> str | None:
    """What went wrong last in a run that is over, without secrets."""
    return redact(figures["last_error"]) if figures.get("last_error") else None
