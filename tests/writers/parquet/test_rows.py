"""Vectors of any list type as a matrix: whatever slice of a column they come as, and refused where they do not fit."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import ConfigError
from writers.parquet.arrow_types import row_bytes
from writers.parquet.merge_schema import MergeSchema, schema_of_file
from writers.parquet.rows import to_matrix

DIM = 4
LISTS = [pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float32(), DIM)]


@pytest.fixture
def schema() -> MergeSchema:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"_id": [1], "embedding": pa.array([[1.0] * DIM], pa.list_(pa.float32()))}), sink)
    return schema_of_file("first", pq.ParquetFile(pa.BufferReader(sink.getvalue())), None, None)


@pytest.mark.parametrize("kind", LISTS, ids=str)
@pytest.mark.parametrize(("start", "count"), [(0, 9), (0, 4), (3, 6), (8, 1), (5, 0), (9, 0)])
def test_a_slice_of_a_column_gives_its_own_vectors(
    schema: MergeSchema, kind: pa.DataType, start: int, count: int
) -> None:
    numbers = np.arange(9 * DIM, dtype=np.float32).reshape(9, DIM)
    column = pa.array(numbers.tolist(), kind).slice(start, count)
    assert to_matrix("file", column, schema, 0).tolist() == numbers[start : start + count].tolist()


@pytest.mark.parametrize("kind", LISTS[:2], ids=str)
def test_numbers_before_the_first_vector_are_left_out(schema: MergeSchema, kind: pa.DataType) -> None:
    offsets = np.array([DIM, 2 * DIM, 3 * DIM], dtype=np.int64 if kind == LISTS[1] else np.int32)
    numbers = pa.array(np.arange(3 * DIM, dtype=np.float32))
    lists = pa.LargeListArray if kind == LISTS[1] else pa.ListArray
    column = lists.from_arrays(pa.array(offsets), numbers)
    assert to_matrix("file", column, schema, 0).tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]


@pytest.mark.parametrize("kind", LISTS[:2], ids=str)
def test_a_vector_of_another_length_is_named_by_its_row_though_the_lengths_add_up(
    schema: MergeSchema, kind: pa.DataType
) -> None:
    column = pa.array([[1.0] * DIM, [1.0] * (DIM - 1), [1.0] * (DIM + 1)], kind)
    with pytest.raises(ConfigError, match="the vector in row 11 has 3 numbers, expected 4"):
        to_matrix("file", column, schema, 10)


def test_a_row_of_numbers_has_a_size_and_one_with_texts_has_not() -> None:
    numbers = [("_id", pa.int64()), ("seen", pa.bool_()), ("half", pa.float16()), ("key", pa.binary(12))]
    assert row_bytes(pa.schema(numbers)) == 8 + 1 + 2 + 12
    for kind in (pa.string(), pa.list_(pa.int8()), pa.null(), pa.dictionary(pa.int8(), pa.string())):
        assert row_bytes(pa.schema([*numbers, ("more", kind)])) is None
