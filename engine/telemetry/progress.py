"""The progress of a run as log lines, and durations as people say them (a terminal has `engine.telemetry.panel`)."""

from __future__ import annotations

import logging
import time
from typing import Any

_log = logging.getLogger("engine.progress")
LINE_EVERY_S = 5.0


def duration(seconds: float | None) -> str:
    """Seconds as people say them: `42 s`, `3 min 05 s`, `6 h 12 min`, `2 d 04 h`."""
    if seconds is None:
        return "unknown"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def seconds_left(figures: dict[str, Any]) -> float | None:
    """Time left by the rate of the last seconds, or None when unknown."""
    total, rate = figures.get("left_at_start"), figures.get("rate") or 0
    if total is None or rate <= 0:
        return None
    return max(0.0, float(total - figures["embedded_now"]) / float(rate))


class LineProgress:
    """Logs the progress of a run every few seconds, when there is no terminal."""

    def __init__(self) -> None:
        self._due = time.monotonic() + LINE_EVERY_S

    def update(self, figures: dict[str, Any]) -> None:
        """Take the figures of this moment."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + LINE_EVERY_S
        left = seconds_left(figures)
        facts = {name: figures[name] for name in ("phase", "embedded_now", "rate", "shards", "quarantined")}
        _log.info(
            "progress phase=%s embedded=%d rate=%.0f/s left=%s shards=%d quarantined=%d servers=%s",
            figures["phase"],
            figures["embedded_now"],
            figures["rate"],
            duration(left).replace(" ", "") if left is not None else "unknown",
            figures["shards"],
            figures["quarantined"],
            ",".join(str(told.get("state", "starting")) for told in figures["clients"].values()),
            extra={"facts": {**facts, "seconds_left": left}},
        )

    def close(self) -> None:
        """Nothing to take down."""
