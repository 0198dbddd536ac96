"""Progress of a merge or a verification: a line rewritten on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from engine.telemetry.logs import is_json
from engine.telemetry.progress import LINE_EVERY_S, duration
from writers.workers.tracker import Progress

_COUNTED = {"ids": "partitions", "sort": "groups", "remove": "groups"}
"""What a phase counts besides rows, unless it is files."""

_log = logging.getLogger("engine.progress")


def as_line(progress: Progress) -> str:
    """One line for a person."""
    parts = []
    if progress.rows or progress.rows_total is not None:
        total = f"/{progress.rows_total:,}" if progress.rows_total is not None else ""
        parts.append(f"{progress.rows:,}{total} rows at {progress.rows_per_second:,.0f}/s")
    if progress.files_total is not None:
        parts.append(f"{progress.files:,}/{progress.files_total:,} {_COUNTED.get(progress.phase, 'files')}")
    if progress.seconds_left is not None:
        parts.append(f"{duration(progress.seconds_left)} left")
    return f"{progress.phase}: {', '.join(parts)}"


class ProgressLine:
    """A line of progress that is rewritten in place; a context manager that leaves the terminal clean."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty() and not is_json()
        self._due_s = time.monotonic() + LINE_EVERY_S

    def __call__(self, progress: Progress) -> None:
        """Take the progress of this moment."""
        if self._quiet:
            return
        line = as_line(progress)
        if self._terminal:
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + LINE_EVERY_S
            _log.info("progress %s", line)

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal and not self._quiet:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        if kind is KeyboardInterrupt:  # typer turns it into an exit code without a word
            print("engine: stopped by SIGINT", file=sys.stderr, flush=True)
