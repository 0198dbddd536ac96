"""A closed output is compared with what was put in: any other file in its place is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import DamageError
from engine.memory.ids import IdType
from tests.writers.dataset import vectors_of
from writers.merge.outputs.check import read_again
from writers.merge.outputs.output import Output
from writers.merge.outputs.row_group import GroupSum
from writers.parquet.inputs import Block
from writers.parquet.merge_schema import MergeSchema
from writers.parquet.opening import UNREADABLE
from writers.proof.digests import RowHasher
from writers.shards.schema import ShardSchema

DIM, ROWS = 16, 700


def schema_of(vector_type: str) -> MergeSchema:
    """Numbered rows with a word."""
    shard = ShardSchema(id_type=IdType.INT64, columns=(("word", "string"),), dim=DIM, vector_type=vector_type)
    return MergeSchema(
        arrow=shard.arrow(),
        id_type=IdType.INT64,
        id_source="_id",
        vector_source="embedding",
        fingerprint=None,
        described_by="a test",
    )


def written(path: Path, schema: MergeSchema, ids: Any, matrix: Any, words: Any = None) -> list[GroupSum]:
    """An output, checked by itself; what its row groups are."""
    output = Output(path, schema, row_group_bytes=1 << 16, sorted_by_id=False)
    words = [f"w{number % 7}" for number in range(len(ids))] if words is None else words
    for start in range(0, len(ids), 90):
        part = slice(start, start + 90)
        others = pa.table([pa.array(ids[part], pa.int64()), pa.array(words[part])], schema=schema.others)
        output.append(Block(others, np.ascontiguousarray(matrix[part])))
    output.seal({})
    return output._groups


def check(path: Path, schema: MergeSchema, facts: list[GroupSum]) -> None:
    read_again(path, schema, RowHasher(DIM, schema.dtype.itemsize), facts, in_order=False)


@pytest.mark.parametrize("vector_type", ["float32", "float16"])
def test_another_vector_order_id_or_value_in_the_closed_file_is_found(tmp_path: Path, vector_type: str) -> None:
    schema = schema_of(vector_type)
    ids, matrix = np.arange(ROWS), vectors_of(range(ROWS), DIM).astype(vector_type)
    facts = written(tmp_path / "a", schema, ids, matrix)
    check(tmp_path / "a", schema, facts)
    swapped = np.arange(ROWS)
    swapped[[30, 31]] = [31, 30]
    flipped = matrix.copy()
    flipped.view(np.uint8)[500, 3] ^= 1
    words = [f"w{number % 7}" for number in range(ROWS)]
    words[600] = "x"
    others = [
        (ids, matrix[swapped], None),
        (ids[swapped], matrix, None),
        (ids, flipped, None),
        (ids, matrix, words),
        (ids[:-1], matrix[:-1], None),
        (np.append(ids, ROWS), np.concatenate([matrix, matrix[:1]]), None),
    ]
    for number, (other_ids, other_matrix, other_words) in enumerate(others):
        path = tmp_path / f"other{number}"
        written(path, schema, other_ids, other_matrix, other_words)
        with pytest.raises(DamageError):
            check(path, schema, facts)


@pytest.mark.seconds
def test_one_flipped_bit_in_any_page_of_the_closed_file_is_found(tmp_path: Path) -> None:
    schema = schema_of("float32")
    facts = written(tmp_path / "a", schema, np.arange(ROWS), vectors_of(range(ROWS), DIM))
    content = (tmp_path / "a").read_bytes()
    metadata = pq.read_metadata(tmp_path / "a")
    places: list[int] = []
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            start = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
            places += range(start, start + column.total_compressed_size)
    random, passed = np.random.default_rng(2), 0
    for position in random.choice(places, size=400):
        broken = bytearray(content)
        broken[int(position)] ^= 1 << int(random.integers(8))
        (tmp_path / "b").write_bytes(broken)
        try:
            check(tmp_path / "b", schema, facts)
        except (DamageError, *UNREADABLE):
            continue
        passed += 1  # statistics in the header of an id page, which no reader of rows looks at
    assert passed <= 4


def test_readers_that_go_by_the_first_column_find_every_row_group(tmp_path: Path) -> None:
    """parquet-java gives a row group to the split that holds the middle of the bytes from its first column's start."""
    schema = schema_of("float32")
    words = [f"a long word that no page of ids has room for {number}" for number in range(3000)]
    written(tmp_path / "a", schema, np.arange(3000), vectors_of(range(3000), DIM), words)
    size, metadata = (tmp_path / "a").stat().st_size, pq.read_metadata(tmp_path / "a")
    end, middles = 4, []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(leaf) for leaf in range(group.num_columns)]
        starts = [
            column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
            for column in columns
        ]
        for column, start in zip(columns, starts, strict=True):  # in the schema's order, none over another
            assert start >= end
            end = start + column.total_compressed_size
        middles.append(starts[0] + (end - starts[0]) // 2)
    assert metadata.num_row_groups > 4 and end < size
    for split in (1 << 12, 1 << 14, size):
        found = [sum(start <= middle < start + split for start in range(0, size, split)) for middle in middles]
        assert found == [1] * len(middles)


def test_footers_say_what_readers_look_for(tmp_path: Path) -> None:
    """Ids have statistics, vectors have none; page indexes, encodings, the order of rows."""
    schema = schema_of("float32")
    output = Output(tmp_path / "a", schema, row_group_bytes=1 << 16, sorted_by_id=True)
    others = pa.table([pa.array(range(3000), pa.int64()), pa.array(["w"] * 3000)], schema=schema.others)
    output.append(Block(others, vectors_of(range(3000), DIM)))
    output.seal({b"note": b"x"})
    metadata = pq.read_metadata(tmp_path / "a")
    assert metadata.num_row_groups > 3 and metadata.metadata[b"note"] == b"x"
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        ids, vectors = group.column(0), group.column(2)
        assert group.total_byte_size < 1.1 * (1 << 16) and group.sorting_columns[0].column_index == 0
        assert ids.path_in_schema == "_id" and ids.has_column_index and ids.has_offset_index
        assert ids.statistics.min is not None and vectors.statistics is None and vectors.has_offset_index
        assert vectors.compression == "ZSTD" and "BYTE_STREAM_SPLIT" in vectors.encodings


def test_bits_that_are_not_numbers_come_through(tmp_path: Path) -> None:
    bits = np.random.default_rng(5).integers(0, 1 << 32, (300, DIM), dtype=np.uint32)
    written(tmp_path / "a", schema_of("float32"), np.arange(300), bits.view(np.float32))  # NaN payloads, denormals
    table = pq.read_table(tmp_path / "a")
    assert table["embedding"].combine_chunks().flatten().to_numpy().tobytes() == bits.tobytes()
