"""Shares of files: blocks of rows, disjoint, complete, balanced, in every format."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.memory.ids import IdType
from engine.part import Part
from readers.files.catalogue import SourceFile
from readers.files.documents import Fields, pages
from readers.files.ids import row_of
from readers.files.settled import BLOCK_ROWS, SettledOrForeign

N = 3 * BLOCK_ROWS + 77
FIELDS = Fields.of("text", (), None, IdType.STRING)


def write(folder: Path, name: str) -> SourceFile:
    """A file of N rows."""
    path = folder / name
    texts = [f"text {number}" for number in range(N)]
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"text": texts}), path, row_group_size=3000)
    elif name.endswith(".csv.gz"):
        path.write_bytes(gzip.compress(("text\n" + "\n".join(texts) + "\n").encode(), 1))
    else:
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    stat = path.stat()
    return SourceFile(0, name, path, stat.st_size, stat.st_mtime_ns)


def rows_of(file: SourceFile, part: Part | None) -> list[int]:
    """Rows that a reader of a share reads."""
    return [row_of(document["_id"])[1] for page in pages(file, FIELDS, part) for document in page]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.csv.gz"])
def test_shares_of_a_file_are_disjoint_complete_and_differ_by_one_block_at_most(tmp_path: Path, name: str) -> None:
    file = write(tmp_path, name)
    shares = [rows_of(file, Part(number, 3)) for number in (1, 2, 3)]

    assert sorted(row for rows in shares for row in rows) == rows_of(file, None) == list(range(N))
    assert max(map(len, shares)) - min(map(len, shares)) <= BLOCK_ROWS


def test_a_share_goes_on_behind_its_settled_rows_and_no_others(tmp_path: Path) -> None:
    file = write(tmp_path, "a.jsonl")
    part = Part(2, 2)
    before = rows_of(file, part)
    settled = [row for row in before if row % BLOCK_ROWS < 100]
    stretches = tuple((row, row + 99) for row in settled if row % BLOCK_ROWS == 0)

    again = rows_of(dataclasses.replace(file, settled=stretches), part)

    assert settled and again == [row for row in before if row not in set(settled)]


def test_whose_a_row_is_hangs_on_name_and_row_alone_and_is_recorded_here_for_good() -> None:
    """Ledgers go by it: a change would lose and double rows, so these numbers never change."""
    owners = [
        next(
            number
            for number in (1, 2, 3)
            if SettledOrForeign([], "deep/part-1.parquet", Part(number, 3)).open_rows(row, 1) is None
        )
        for row in (0, BLOCK_ROWS - 1, BLOCK_ROWS, 2 * BLOCK_ROWS, 3 * BLOCK_ROWS)
    ]
    first = owners[0]
    assert owners == [first, first, first % 3 + 1, (first + 1) % 3 + 1, first]
    assert first == 3


def test_many_small_files_are_spread_by_their_names() -> None:
    own = sum(not SettledOrForeign([], f"day-{day:04d}.jsonl", Part(1, 2)).cover(0, 100) for day in range(400))
    assert abs(own - 200) < 5 * 10
