"""Merged files are read by everybody: the snippets of docs/reading.md, and DuckDB and polars row by row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.memory.ids import IdType
from tests.writers.dataset import DataSet, fingerprint, ids_of, vectors_of
from tests.writers.inline_pool import InlinePool
from writers.merge.merge import merge

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reading.md"
ROWS = 1500
EXTRA = "the extra `reading` is not installed"


def snippets(heading: str) -> list[str]:
    """The code below one heading of the page."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [str(code) for code in re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)]


def run(heading: str, **names: Any) -> dict[str, Any]:
    """Run a snippet; its names."""
    exec(compile(snippets(heading)[0], "docs/reading.md", "exec"), names)
    return names


@pytest.fixture(params=["float32", "float16"])
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[DataSet]:
    """A merged data set of several files and row groups; the current folder is the collection's."""
    monkeypatch.setattr("writers.merge.merge.Pool", InlinePool)
    made = DataSet(tmp_path, vector_type=request.param, columns=(("lang", "string"),))
    made.add_shard(range(0, 900))
    made.add_shard(range(900, ROWS))
    merge(made.config(sort="_id"))
    made.close()
    monkeypatch.chdir(made.folders.cold)
    yield made


@pytest.fixture
def expected(data: DataSet) -> tuple[list[int], Any]:
    """Ids in order, and the matrix."""
    ids = ids_of(range(ROWS), IdType.INT64)
    order = np.argsort(ids)
    matrix = vectors_of(range(ROWS), data.dim)[order].astype(data.vector_type)
    return [ids[row] for row in order], matrix


def test_the_snippet_for_more_than_memory_holds_reads_every_row(data: DataSet) -> None:
    assert run("More than memory holds")["rows"] == ROWS


def test_the_snippet_for_one_document_finds_it(data: DataSet, expected: tuple[list[int], Any]) -> None:
    ids, matrix = expected
    (row,) = run("One document", some_id=ids[700])["wanted"].to_pylist()
    assert row["_id"] == ids[700] and np.array(row["embedding"], dtype=matrix.dtype).tobytes() == matrix[700].tobytes()


def test_the_snippet_for_the_footer_shows_the_model(data: DataSet) -> None:
    some_file = next(data.folders.consolidated.glob("*.parquet"))
    assert run("What the footer says", some_file=some_file)["fingerprint"] == fingerprint(data.dim).as_dict()


def test_the_snippet_for_faiss_finds_each_vector_itself(data: DataSet, expected: tuple[list[int], Any]) -> None:
    pytest.importorskip("faiss", reason=EXTRA)
    ids, matrix = expected
    query = matrix[[3, 1100]].astype(np.float32)
    names = run("FAISS", dim=data.dim, query_vectors=query)
    assert names["neighbours"][:, 0].tolist() == [ids[3], ids[1100]]


def test_duckdb_reads_merged_files_row_by_row(data: DataSet, expected: tuple[list[int], Any]) -> None:
    duckdb = pytest.importorskip("duckdb", reason=EXTRA)
    ids, matrix = expected
    rows = duckdb.sql("SELECT _id, embedding, lang FROM 'consolidated/*.parquet' ORDER BY _id").fetchall()
    assert [row[0] for row in rows] == ids
    assert np.array([row[1] for row in rows], dtype=matrix.dtype).tobytes() == matrix.tobytes()
    one = duckdb.sql(f"SELECT embedding FROM 'consolidated/*.parquet' WHERE _id = {ids[1200]}").fetchall()
    assert np.array(one[0][0], dtype=matrix.dtype).tobytes() == matrix[1200].tobytes()


def test_polars_reads_merged_files_row_by_row(data: DataSet, expected: tuple[list[int], Any]) -> None:
    pl = pytest.importorskip("polars", reason=EXTRA)
    ids, matrix = expected
    lazy = pl.scan_parquet("consolidated/*.parquet")
    frame = lazy.collect()
    assert frame["_id"].to_list() == ids
    assert np.array(frame["embedding"].to_list(), dtype=matrix.dtype).tobytes() == matrix.tobytes()
    one = lazy.filter(pl.col("_id") == ids[1200]).collect()
    assert np.array(one["embedding"].to_list()[0], dtype=matrix.dtype).tobytes() == matrix[1200].tobytes()
