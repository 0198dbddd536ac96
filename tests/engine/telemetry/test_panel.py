"""The live panel."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from engine.telemetry.panel import TerminalProgress

FIGURES: dict[str, Any] = {
    "run": "db.tweets.done",
    "phase": "running",
    "embedded_now": 500,
    "left_at_start": 2000,
    "rate": 100.0,
    "shards": 3,
    "quarantined": 1,
    "rings": {"documents_ready": 0.5, "vectors_ready": 0.25, "vectors_busy": 0.75},
    "clients": {
        "client-0": {"url": "http://127.0.0.1:18080", "state": "ok", "rows": 500, "in_flight": 2, "window": 8},
        "client-1": {},
    },
    "last_error": "http://127.0.0.1:18081: connect: refused",
}


class Terminal(io.StringIO):
    """Something that says it is one."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def test_the_panel_shows_documents_rate_time_left_rings_and_servers_each_on_its_line() -> None:
    """What a person looks at for days."""
    screen = Terminal()
    panel = TerminalProgress(Console(file=screen, width=120, force_terminal=True, color_system=None), "limits a=1")

    panel.update(FIGURES)
    panel._live.refresh()
    panel.close()

    lines = [line.strip() for line in screen.getvalue().replace("\r", "\n").splitlines()]
    assert "limits a=1" in lines
    assert any("500 of 2,000 documents" in line and "100/s" in line and "left 15 s" in line for line in lines)
    assert any(line.startswith("documents waiting 50%") for line in lines)
    assert any("http://127.0.0.1:18080" in line and "2/8" in line for line in lines)
    assert any("starting" in line for line in lines)
    assert any("connect: refused" in line for line in lines)
