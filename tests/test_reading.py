"""docs/reading.md: the snippets, run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.writers.shards.test_shard import DIM, seal_one

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reading.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_pyarrow_and_numpy_read_a_shard_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids, a float32 matrix, and the nearest rows."""
    (tmp_path / "shards").mkdir()
    seal_one(tmp_path / "shards")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}

    for snippet in SNIPPETS[:2]:
        exec(compile(snippet, "docs/reading.md", "exec"), names)

    assert names["vectors"].shape == (7, DIM)
    assert names["vectors"].dtype == np.float32
    assert names["ids"] == list(range(7))
    assert set(names["neighbours"][:2]) == {0, DIM}  # rows that are six apart have the same vector


def test_polars_reads_a_shard_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skipped where polars is not installed."""
    pytest.importorskip("polars", reason="the extra `reading` is not installed")
    (tmp_path / "shards").mkdir()
    seal_one(tmp_path / "shards")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}

    exec(compile(next(s for s in SNIPPETS if "polars" in s), "docs/reading.md", "exec"), names)

    assert names["frame"].height == 7


def test_duckdb_reads_a_shard_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skipped where duckdb is not installed."""
    duckdb = pytest.importorskip("duckdb", reason="the extra `reading` is not installed")
    (tmp_path / "shards").mkdir()
    seal_one(tmp_path / "shards")
    monkeypatch.chdir(tmp_path)
    query = re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]

    rows = duckdb.sql(query).fetchall()

    assert len(rows) == 7
    assert rows[0][1] == pytest.approx(1.0)
