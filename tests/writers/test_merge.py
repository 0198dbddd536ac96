"""`merge` on data sets with a ledger: what comes out is what went in, whatever the types."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.ids import IdType
from tests.writers.dataset import DataSet, read_outputs, rows_of
from writers.merge import merge


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataSet]:
    made = DataSet(tmp_path)
    yield made
    made.close()


KINDS = [
    (IdType.INT64, "float32", 16, ()),
    (IdType.STRING, "float32", 7, (("lang", "string"), ("n", "int64"), ("ok", "bool"), ("score", "double"))),
    (IdType.OBJECTID, "float16", 24, (("note", "json"),)),
    (IdType.EXTJSON, "float16", 5, ()),
]


@pytest.mark.parametrize(("id_type", "vector_type", "dim", "columns"), KINDS)
@pytest.mark.parametrize("sort", ["none", "_id"])
def test_every_row_comes_out_as_it_went_in(
    tmp_path: Path, sort: str, id_type: IdType, vector_type: str, dim: int, columns: tuple[tuple[str, str], ...]
) -> None:
    data = DataSet(tmp_path, id_type=id_type, dim=dim, vector_type=vector_type, columns=columns)
    parts = [list(range(0, 700)), list(range(700, 705)), list(range(705, 1500))]
    for numbers in parts:
        data.add_shard(numbers)
    report = merge(data.config(sort=sort))
    expected = rows_of(data.table([number for numbers in parts for number in numbers]))
    if sort == "_id":
        expected.sort(key=lambda row: row[0].encode() if isinstance(row[0], str) else row[0])
    table = read_outputs(data.folders.consolidated)
    assert rows_of(table) == expected
    assert table.schema.equals(data.schema.arrow(), check_metadata=False)
    assert (report.rows, report.inputs) == (1500, 3)
    data.close()
