"""Fixtures of the command line's tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.telemetry import logs
from tests.cli.terminal import Terminal


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Terminal:
    """The command line in an empty folder, with no ENGINE_ variable set."""
    for name in [name for name in os.environ if name.startswith("ENGINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(logs, "_SECRETS", set())  # what one test has called a secret is a word in another one
    monkeypatch.chdir(tmp_path)
    return Terminal(monkeypatch, capsys)
