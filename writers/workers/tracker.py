"""Adds up what workers report, and tells whoever watches a few times a second."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from engine.memory.channels import Message

_EVERY_S = 0.2
_WINDOW_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a merge or a check stands.

    Attributes:
        phase: Of a merge: `scan` (footers and ids), `ids` (sought among all others), `sort` (sorted runs), `merge`
            (outputs), `remove` (sources). Of a check: `files`, `ids`, `marks`, `sample`.
        rows, rows_total: Rows done in this phase, and of how many (None while not known).
        files, files_total: FileAccess, or parts of what the phase works on, likewise.
        seconds: Since the phase began.
        rows_per_second: Over the last seconds.
        seconds_left: At that rate, or at that of the files while the number of rows is not known, or None.
    """

    phase: str
    rows: int
    rows_total: int | None
    files: int
    files_total: int | None
    seconds: float
    rows_per_second: float
    seconds_left: float | None


OnProgress = Callable[[Progress], None]


class Tracker:
    """The progress of one phase after the other."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress
        self._recent: deque[tuple[float, int, int]] = deque()
        self.begin("scan", None, None)

    def begin(self, phase: str, rows_total: int | None, files_total: int | None) -> None:
        """Start a phase at zero."""
        self._phase = phase
        self._rows_total, self._files_total = rows_total, files_total
        self._rows = self._files = 0
        self._started = time.monotonic()
        self._told = 0.0
        self._recent.clear()
        self._recent.append((self._started, 0, 0))

    def take(self, message: Message) -> None:
        """Count what a worker has done since it last said so."""
        self._rows += int(message.get("rows", 0))
        self._files += int(message.get("files", 0))
        self.tell()

    def tell(self, *, now: bool = False) -> None:
        """Tell, unless it was told a moment ago."""
        moment = time.monotonic()
        if self._on_progress is None or (not now and moment - self._told < _EVERY_S):
            return
        self._told = moment
        self._recent.append((moment, self._rows, self._files))
        while moment - self._recent[0][0] > _WINDOW_S and len(self._recent) > 2:
            self._recent.popleft()
        since, rows, files = self._recent[0]
        passed = moment - since
        rate = (self._rows - rows) / passed if passed else 0.0
        left = None
        if self._rows_total is not None:
            left = max(0, self._rows_total - self._rows) / rate if rate else None
        elif self._files_total is not None and self._files > files:
            left = max(0, self._files_total - self._files) * passed / (self._files - files)
        self._on_progress(
            Progress(
                phase=self._phase,
                rows=self._rows,
                rows_total=self._rows_total,
                files=self._files,
                files_total=self._files_total,
                seconds=moment - self._started,
                rows_per_second=rate,
                seconds_left=left,
            )
        )
