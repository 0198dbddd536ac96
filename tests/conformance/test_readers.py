"""Every kind of file, read back whole by everybody's libraries: every row, every value, every bit of every vector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conformance import readers
from tests.conformance.doctored import FLIPPED_ROW
from tests.conformance.kinds import KINDS, Kind, Written
from tests.conformance.readers import Reader, Ways
from tests.conformance.rows import difference

Read = Callable[[Reader], dict[Path, Ways]]


@pytest.mark.seconds
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_row_comes_back_as_it_was_written(
    reader: Reader, kind: Kind, files: dict[Kind, Written], read: Read
) -> None:
    file = files[kind]
    assert len(file.lines) == kind.n_rows
    ways = read(reader)[file.path]
    expected = {"whole": file.lines, "splits": file.lines, "one": [file.lines[len(file.lines) // 2]]}
    for way in ("whole", "one", *ways):
        if differs := difference(ways[way], expected[way]):
            pytest.fail(f"{way}: {differs}", pytrace=False)


@pytest.mark.parametrize("vector_type", ["float32", "float16"])
def test_one_wrong_bit_of_a_vector_is_noticed(
    reader: Reader, vector_type: str, doctored: dict[str, Written], read: Read
) -> None:
    wrong = doctored[f"flipped-{vector_type}"]
    found = difference(read(reader)[wrong.path]["whole"], wrong.lines)
    assert found.startswith(f"row {FLIPPED_ROW}: embedding=f")


def test_a_row_that_is_not_there_is_noticed(reader: Reader, files: dict[Kind, Written], read: Read) -> None:
    file = files[KINDS[0]]
    lines = read(reader)[file.path]["whole"]
    assert difference(lines, [*file.lines, file.lines[-1]]) == f"{len(lines)} rows instead of {len(lines) + 1}"


@pytest.mark.slow
def test_parquet_java_loses_rows_of_a_file_whose_first_column_does_not_come_first(
    doctored: dict[str, Written], read: Read
) -> None:
    """The file is sound and others read it; only `splits` show that Spark would lose rows without a word."""
    wrong = doctored["misplaced"]
    got = read(readers.parquet_java)[wrong.path]["splits"]
    assert 0 < len(got) < len(wrong.lines) and difference(got, wrong.lines)
    assert not difference(read(readers.pyarrow)[wrong.path]["whole"], wrong.lines)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_row_groups_begin_with_their_first_column(kind: Kind, files: dict[Kind, Written]) -> None:
    """By which parquet-java, and so Spark, decides who reads them; the rule itself, for machines without a JVM."""
    path = files[kind].path
    metadata, size = pq.read_metadata(path), path.stat().st_size
    end = 4
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(place) for place in range(group.num_columns)]
        starts = [min(filter(None, (c.data_page_offset, c.dictionary_page_offset))) for c in columns]
        assert starts == sorted(starts) and starts[0] >= end
        end = max(start + c.total_compressed_size for start, c in zip(starts, columns, strict=True))
        assert starts[0] + sum(column.total_compressed_size for column in columns) // 2 < end < size
