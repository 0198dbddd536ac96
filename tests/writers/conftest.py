"""What tests of merges share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.writers.inline_pool import InlinePool


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers in this process: most tests are not about processes, and these take a quarter of a second to start."""
    monkeypatch.setattr("writers.merge.merge.Pool", InlinePool)
    monkeypatch.setattr("writers.verify.verify.Pool", InlinePool)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for foreign files."""
    made = tmp_path / "source"
    made.mkdir()
    return made
