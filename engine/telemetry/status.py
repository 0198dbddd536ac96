"""The status file of a run: its live figures, for `engine status` to read at any time and after a crash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_status(path: Path, figures: dict[str, Any]) -> None:
    """Replace the live figures; not durable on purpose: after a crash the ledger is what counts."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(figures), encoding="utf-8")
    temporary.replace(path)


def read_status(path: Path) -> dict[str, Any] | None:
    """The last live figures, or None when there are none."""
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return figures if isinstance(figures, dict) else None
