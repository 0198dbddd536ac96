"""The fixture of the supervisor's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.supervision.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A fresh world."""
    return World(tmp_path)
