"""A closed output is compared with what was put in: any other file in its place is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import DamageError
from engine.memory.ids import IdType
from tests.writers.dataset import vectors_of
from writers.merge.check import PageFacts, Rereader
from writers.merge.output import Output
from writers.parquet.foreign import MergeSchema
from writers.parquet.inputs import UNREADABLE, Block
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


def written(path: Path, schema: MergeSchema, ids: Any, matrix: Any, words: Any = None) -> list[PageFacts]:
    """An output, checked by itself; what its pages are."""
    output = Output(path, schema, row_group_bytes=1 << 16, sorted_by_id=False, expected_rows=len(ids))
    words = [f"w{number % 7}" for number in range(len(ids))] if words is None else words
    for start in range(0, len(ids), 90):
        part = slice(start, start + 90)
        others = pa.table([pa.array(ids[part], pa.int64()), pa.array(words[part])], schema=schema.others)
        output.append(Block(others, np.ascontiguousarray(matrix[part])))
    output.seal({})
    sums = zip(output._writer.page_log, output._page_sums, strict=True)
    return [PageFacts(n_rows, crc, found) for (n_rows, crc, _), found in sums]


def check(path: Path, schema: MergeSchema, facts: list[PageFacts]) -> None:
    Rereader(path, schema, RowHasher(DIM, schema.dtype.itemsize), facts).read(in_order=False)


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
        theirs = written(path, schema, other_ids, other_matrix, other_words)
        # Compared as if the checksums of the bodies were what was written: what the pages hold tells.
        same_crc = [replace(mine, crc=their.crc) for mine, their in zip(facts, theirs, strict=False)]
        with pytest.raises(DamageError):
            check(path, schema, same_crc)


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
