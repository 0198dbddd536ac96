"""`engine status --watch`: the figures of a run again and again, until it ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from commands.terminal.output import print_result, to_json
from engine.telemetry.logs import iso_time
from engine.telemetry.progress import duration

EVERY_S = 2.0
LINE_EVERY_S = 5.0
"""Without a terminal, where every look is a line that stays."""
_SHARE = 0.1
"""Of the time that looking may take: a large ledger is read less often."""

Figures = dict[str, Any]


def watch(look: Callable[[], Figures], as_text: Callable[[Figures], str], *, as_json: bool) -> None:
    """Show the figures until the run has ended; those of its end are shown, too.

    Args:
        look: Finds the figures of the moment (`commands.status.status.collect`).
        as_text: Words them for a terminal.
        as_json: One JSON object a line instead.
    """
    on_terminal = sys.stdout.isatty() and not as_json
    every_s = EVERY_S if on_terminal else LINE_EVERY_S
    n_lines = 0
    while True:
        began_s = time.monotonic()
        figures = look()
        if on_terminal:
            text = as_text(figures)
            print_result(_over(n_lines, text))
            n_lines = text.count("\n") + 1
        else:
            print_result(to_json(figures) if as_json else line(figures))
        if not figures["running"]:
            return
        took_s = time.monotonic() - began_s
        time.sleep(max(every_s, took_s / _SHARE))


def _over(n_lines: int, text: str) -> str:
    """A text for a terminal, in the place of the last `n_lines`; lines are cut short rather than wrapped."""
    up = f"\033[{n_lines}A" if n_lines else ""
    # without wrapping (?7l) a line of the text is a line of the screen, and the way up is as long as it was down
    return f"\033[?7l{up}\r\033[J{text}\033[?7h"


def line(figures: Figures) -> str:
    """One line for a log or a pipe."""
    documents = figures["documents"]
    left = "unknown" if documents["left"] is None else f"{documents['left']:,}"
    parts = [
        iso_time(time.time()),
        figures["run"],
        figures["state"],
        f"{documents['committed']:,} committed",
        f"{left} left",
        f"{figures['rate']:,.0f}/s",
        f"{duration(figures['seconds_left'])} to go",
        f"{figures['shards']:,} shards",
        f"{figures['quarantine']['documents']:,} in quarantine",
    ]
    if figures["last_error"] and figures["running"]:
        parts.append(f"last error: {figures['last_error']}")
    return "  ".join(parts)
