"""Exact search: the same rows as a product of the whole matrix, whatever the files look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import DamageError
from engine.memory.ids import IdType
from writers.parquet.folder_schema import schema_of_folder
from writers.parquet.merge_schema import MergeSchema
from writers.search.exact import nearest
from writers.search.lookup import find_row, values_of

DIM = 16
Matrix = npt.NDArray[Any]


def _write(path: Path, first_id: int, matrix: Matrix, kind: pa.DataType, rows_in_group: int) -> None:
    vectors = pa.array(list(matrix), type=kind)
    table = pa.table({"_id": pa.array(range(first_id, first_id + len(matrix)), pa.int64()), "embedding": vectors})
    pq.write_table(table, path, row_group_size=rows_in_group)


def _folder(tmp_path: Path, matrix: Matrix, kind: pa.DataType, n_files: int = 3) -> tuple[list[str], MergeSchema]:
    parts = np.array_split(matrix, n_files)
    first = 0
    for number, part in enumerate(parts):
        _write(tmp_path / f"{number}.parquet", first, part, kind, rows_in_group=700)
        first += len(part)
    paths = sorted(tmp_path.glob("*.parquet"))
    return [str(path) for path in paths], schema_of_folder(((str(path), path) for path in paths), None, None)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float32(), DIM),
        pa.list_(pa.float16(), DIM),
        pa.list_(pa.float32()),
        pa.large_list(pa.float64()),
    ],
    ids=str,
)
@pytest.mark.parametrize("k", [1, 10, 5000])
def test_the_rows_are_those_of_the_whole_product(tmp_path: Path, kind: pa.DataType, k: int) -> None:
    random = np.random.default_rng(3)
    number = np.float16 if kind.value_type == pa.float16() else np.float32
    matrix = random.standard_normal((4000, DIM)).astype(number) * random.uniform(0.5, 2.0, (4000, 1)).astype(number)
    files, schema = _folder(tmp_path, matrix, kind)
    query = random.standard_normal(DIM).astype(np.float32)

    hits = nearest(files, schema, query, k, jobs=3)

    rows = matrix.astype(np.float64)
    cosines = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query.astype(np.float64))
    best = np.argsort(-cosines, kind="stable")[:k]
    starts = np.cumsum([0, *(len(part) for part in np.array_split(matrix, 3))])
    assert [starts[hit.file] + hit.row for hit in hits] == best.tolist()
    assert np.allclose([hit.score for hit in hits], cosines[best], atol=1e-5)


def test_equal_rows_come_in_the_order_of_their_places_whatever_the_threads_do(tmp_path: Path) -> None:
    matrix = np.ones((3000, DIM), dtype=np.float32)
    files, schema = _folder(tmp_path, matrix, pa.list_(pa.float32(), DIM))
    for jobs in (1, 2, 4):
        hits = nearest(files, schema, np.ones(DIM, dtype=np.float32), 5, jobs=jobs)
        assert [(hit.file, hit.row) for hit in hits] == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)]


def test_rows_without_a_direction_are_never_found(tmp_path: Path) -> None:
    matrix = np.zeros((5, DIM), dtype=np.float32)
    matrix[1, 0], matrix[2, 0], matrix[3, 0] = np.nan, 2.0, -1.0
    files, schema = _folder(tmp_path, matrix, pa.list_(pa.float32(), DIM), n_files=1)
    query = np.eye(1, DIM, dtype=np.float32)[0]
    assert [(hit.row, hit.score) for hit in nearest(files, schema, query, 5)] == [(2, 1.0), (3, -1.0)]
    assert nearest(files, schema, np.zeros(DIM, dtype=np.float32), 5) == []


def test_every_row_is_counted_once(tmp_path: Path) -> None:
    files, schema = _folder(tmp_path, np.ones((2500, DIM), dtype=np.float32), pa.list_(pa.float32(), DIM))
    seen: list[int] = []
    nearest(files, schema, np.ones(DIM, dtype=np.float32), 1, on_rows=seen.append)
    assert sum(seen) == 2500


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).standard_normal((3000, DIM)).astype(np.float32)
    files, schema = _folder(tmp_path, matrix, pa.list_(pa.float32(), DIM))
    raw = bytearray(Path(files[1]).read_bytes())
    end = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")  # where the footer begins
    raw[4:end] = bytes(end - 4)
    Path(files[1]).write_bytes(raw)
    with pytest.raises(DamageError, match=r"1\.parquet"):
        nearest(files, schema, matrix[0], 3)


def test_a_row_is_found_by_its_id_in_any_file_and_row_group(tmp_path: Path) -> None:
    files, schema = _folder(tmp_path, np.ones((4000, DIM), dtype=np.float32), pa.list_(pa.float32(), DIM))
    starts = np.cumsum([0, *(len(part) for part in np.array_split(np.arange(4000), 3))])
    for identity in (0, 699, 700, 1334, 3999):
        place = find_row(files, schema, values_of(str(identity), IdType.INT64))
        assert place is not None
        assert starts[place[0]] + place[1] == identity
    assert find_row(files, schema, values_of("4000", IdType.INT64)) is None
    assert find_row(files, schema, values_of("tweet", IdType.INT64)) is None


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("17", IdType.INT64, [17]),
        ("-5", IdType.INT64, [-5]),
        ("9223372036854775808", IdType.INT64, []),
        ("17", IdType.STRING, ["17"]),
        ("507f1f77bcf86cd799439011", IdType.OBJECTID, [bytes.fromhex("507f1f77bcf86cd799439011")]),
        ("507f", IdType.OBJECTID, []),
        ("not hex", IdType.OBJECTID, []),
    ],
)
def test_an_id_is_read_as_its_column_holds_it(text: str, kind: IdType, expected: list[Any]) -> None:
    assert values_of(text, kind) == expected


def test_an_id_in_extended_json_may_be_written_plainly() -> None:
    assert '"abc"' in values_of("abc", IdType.EXTJSON)
    assert '{"$oid":"507f1f77bcf86cd799439011"}' in values_of("507f1f77bcf86cd799439011", IdType.EXTJSON)
    assert '{"$numberInt":"5"}' in values_of("5", IdType.EXTJSON)
