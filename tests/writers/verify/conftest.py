"""A data set to be verified."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.writers.dataset import DataSet
from tests.writers.inline_pool import InlinePool


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Workers in this process: most tests are not about processes, and these take half a second to start."""
    monkeypatch.setattr("writers.merge.merge.Pool", InlinePool)
    if "in_processes" not in request.node.name:
        monkeypatch.setattr("writers.verify.verify.Pool", InlinePool)


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataSet]:
    made = DataSet(tmp_path, columns=(("lang", "string"),))
    made.add_shard(range(0, 250))
    made.add_shard(range(250, 400))
    yield made
    made.close()
