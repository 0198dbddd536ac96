"""Log lines beside the live panel."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from engine.telemetry.logs import configure


def test_log_lines_go_to_what_stderr_is_at_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The panel takes stderr over while it stands; a line that went around it would tear it."""
    configure(level=logging.INFO)
    taken_over = io.StringIO()
    monkeypatch.setattr(sys, "stderr", taken_over)

    logging.getLogger("engine.test").info("shard_committed shard=%d", 7)

    assert "shard_committed shard=7" in taken_over.getvalue()
