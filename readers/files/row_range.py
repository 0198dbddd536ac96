"""A range of rows: the part of the files that one node of a cluster reads at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from readers.files.catalogue import SourceFile
from readers.files.ids import row_of
from readers.files.settled import LAST_ROW

SETTLED = "settled-"
"""Beginning of the name of the file that says which rows of a lease are settled; the lease's number follows. Each line
holds the number of a file, the first and the last row of a stretch; they ascend."""


def take_in_range(files: Sequence[SourceFile], wanted: dict[str, Any], folder: Path) -> list[SourceFile]:
    """The files that hold rows of a range, with all other rows taken for settled.

    Args:
        files: All files by their numbers.
        wanted: `low` and `high`, positions or None, and `lease`, its number.
        folder: Where the file lies that says what is settled, if anything is; it is removed.
    """
    settled = _settled(folder / f"{SETTLED}{wanted['lease']}")
    found = []
    for number, start, end in rows_by_file(wanted["low"], wanted["high"], len(files)):
        stretches = [(0, start - 1), *settled.get(number, ()), (end, LAST_ROW)]
        found.append(dataclasses.replace(files[number], settled=tuple(_joined(stretches))))
    return found


def rows_by_file(low: int | None, high: int | None, n_files: int) -> Iterator[tuple[int, int, int]]:
    """What a range has of each file: its number, the first row, and the row behind the last one.

    Args:
        low, high: Positions, None for the beginning of the first file and the end of the last one.
    """
    first_file, first_row = (0, 0) if low is None else row_of(low)
    last_file, end_row = (n_files, 0) if high is None else row_of(high)
    for number in range(first_file, min(last_file + 1, n_files)):
        start = first_row if number == first_file else 0
        end = end_row if number == last_file else LAST_ROW + 1
        if start < end:
            yield number, start, end


def _settled(path: Path) -> dict[int, list[tuple[int, int]]]:
    found: dict[int, list[tuple[int, int]]] = {}
    if path.exists():
        with path.open("rb") as stream:
            for line in stream:
                number, first, last = orjson.loads(line)
                found.setdefault(number, []).append((first, last))
        path.unlink()
    return found


def _joined(stretches: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Ascending stretches without empty ones, neighbours as one."""
    before: tuple[int, int] | None = None
    for first, last in stretches:
        if last < first:
            continue
        if before is not None and first <= before[1] + 1:
            before = before[0], max(before[1], last)
            continue
        if before is not None:
            yield before
        before = first, last
    if before is not None:
        yield before
