"""A sample of files before anything is spent: some of their documents, and about how many there are in all."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import SourceError
from readers.batching.ports import Document
from readers.files.catalogue import SourceFile
from readers.files.formats import BLANK, CHUNK_BYTES, Unreadable, chunks, jsonl_chunks
from readers.files.opening import (
    FilePath,
    Format,
    at_once,
    for_a_look,
    known_format,
    open_stream,
    parquet_footer,
    read_at,
    reading,
)
from readers.files.settled import Settled

_PLACES = 24
"""Places that are looked at, in as many files or in fewer."""

_COUNTED_FOOTERS = 2_000
_NAMED_ROWS, _NAMED_FILES, _MOST_NAMES = 100, 3, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSample:
    """Documents of some places.

    Attributes:
        rows: Documents, and `Unreadable` for those that are none.
        n_rows: Rows of all files.
        is_exact: Whether they were counted; else about that many.
        names: Names of the fields that are there, for messages.
    """

    rows: tuple[Document | Unreadable, ...]
    n_rows: int
    is_exact: bool
    names: tuple[str, ...] = ()

    @property
    def documents(self) -> list[Document]:
        """Those that could be read."""
        return [row for row in self.rows if isinstance(row, dict)]


@dataclass(slots=True)
class _Measured:
    """Rows and bytes of what was looked at in files of one format."""

    rows: int = 0
    bytes: int = 0


def sample_files(files: Sequence[SourceFile], fields: tuple[str, ...], n_rows: int, seed: int = 0) -> FileSample:
    """Look at some places of the files that are there.

    Args:
        fields: Dotted paths of the fields that are needed.
        n_rows: Rows wanted.

    Raises:
        SourceError: a file cannot be read.
    """
    there = [file for file in files if file.path is not None and file.bytes]
    if not there:
        return FileSample(rows=(), n_rows=0, is_exact=True)
    rng = random.Random(seed)
    step = max(1, len(there) // _PLACES)
    chosen = there[::step][:_PLACES]
    n_places = max(1, _PLACES // len(chosen))
    wanted = -(-n_rows // (len(chosen) * n_places))
    rows: list[Any] = []
    measured: dict[Format, _Measured] = defaultdict(_Measured)
    for file in chosen:
        assert file.path is not None  # it is there
        with reading(file.path):
            for block, n_bytes in _places(for_a_look(file.path), file.bytes, fields, n_places, wanted, rng):
                found = [row for row in block if row is not BLANK]
                rows += found[:wanted]
                if n_bytes is not None:
                    measure = measured[known_format(file.name)]
                    measure.rows += len(found)
                    measure.bytes += n_bytes
    n_all, is_exact = _count(there, measured)
    names = {name for row in rows[:_NAMED_ROWS] if isinstance(row, dict) for name in row}
    names.update(*(_columns(file.path) for file in chosen[:_NAMED_FILES] if file.path is not None))
    return FileSample(
        rows=tuple(rows[:n_rows]), n_rows=n_all, is_exact=is_exact, names=tuple(sorted(names)[:_MOST_NAMES])
    )


def _places(
    path: FilePath, size_bytes: int, fields: tuple[str, ...], n_places: int, wanted: int, rng: random.Random
) -> Iterator[tuple[list[Any], int | None]]:
    """Rows of some places of a file, and in how many bytes of it they were; None where that is not asked for."""
    form = known_format(path.name)
    if form.kind == "parquet":
        yield from ((rows, None) for rows in _of_parquet(path, fields, n_places, wanted, rng))
    elif form.kind == "jsonl" and not form.compression and size_bytes > n_places * CHUNK_BYTES:
        for _ in range(n_places):
            yield _at(path, rng.randrange(size_bytes - CHUNK_BYTES))
    else:
        yield _head(path, size_bytes, fields, wanted * n_places)


def _of_parquet(
    path: FilePath, fields: tuple[str, ...], n_places: int, wanted: int, rng: random.Random
) -> Iterator[list[Any]]:
    sizes = _group_rows(path)
    starts = list(itertools.accumulate(sizes, initial=0))
    for group in sorted(rng.sample(range(len(sizes)), min(n_places, len(sizes)))):
        before = Settled([(0, starts[group] - 1)] if starts[group] else [])
        rows: list[Any] = []
        for _, chunk in chunks(path, fields, before):
            rows += chunk
            if len(rows) >= wanted:
                break
        yield rows


def _columns(path: FilePath) -> list[str]:
    """The columns of a Parquet file, of which a sample reads only those that are asked for; none of other files."""
    if known_format(path.name).kind != "parquet":
        return []
    with reading(path):
        return list(parquet_footer(path).schema.to_arrow_schema().names)


def _group_rows(path: FilePath) -> list[int]:
    footer = parquet_footer(path)
    return [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]


def _n_rows(path: FilePath) -> int:
    with reading(path):
        return parquet_footer(path).num_rows  # type: ignore[no-any-return]


def _at(path: FilePath, offset: int) -> tuple[list[Any], int]:
    """The whole lines of one block."""
    block = read_at(path, offset, CHUNK_BYTES)
    start, end = block.find(b"\n") + 1, block.rfind(b"\n") + 1
    if end <= start:
        return [], len(block)
    return [row for _, rows in jsonl_chunks(_Bytes(block[start:end]), Settled([])) for row in rows], end - start


class _Bytes:
    """A block as a stream that is read once."""

    def __init__(self, block: bytes) -> None:
        self._block = block

    def read(self, _: int) -> bytes:
        block, self._block = self._block, b""
        return block


def _head(path: FilePath, size_bytes: int, fields: tuple[str, ...], wanted: int) -> tuple[list[Any], int]:
    """The first rows of a stream, at least `wanted` of them, and how many bytes of the file they took."""
    rows: list[Any] = []
    n_bytes = size_bytes
    for _, chunk in chunks(path, fields, Settled([])):
        rows += chunk
        if len(rows) >= wanted and size_bytes > CHUNK_BYTES:  # a small file is read to its end, and so counted
            n_bytes = min(size_bytes - 1, _bytes_of_rows(path, size_bytes, len(rows)))
            break
    return rows, n_bytes


def _bytes_of_rows(path: FilePath, size_bytes: int, n_rows: int) -> int:
    """About how many bytes of a file its first lines take; by the compression of its beginning where it has one."""
    compression = known_format(path.name).compression
    lines = n_bytes = 0
    with open_stream(path, compression) as stream:
        while lines < n_rows and (data := stream.read(CHUNK_BYTES)):
            lines += data.count(b"\n")
            n_bytes += len(data)
        if not compression:
            return n_bytes
        if not stream.read(1):
            return size_bytes
    return max(1, min(size_bytes, int(n_bytes * _TYPICAL_COMPRESSION)))


_TYPICAL_COMPRESSION = 0.35
"""Of text by gzip or zstd; only progress and `engine plan` go by it, and only for files of more than a few thousand
rows."""


def _count(files: Sequence[SourceFile], measured: dict[Format, _Measured]) -> tuple[int, bool]:
    totals: dict[Format, int] = defaultdict(int)
    for file in files:
        totals[known_format(file.name)] += file.bytes
    tables = [file.path for file in files if known_format(file.name).kind == "parquet" and file.path is not None]
    counts = at_once(_n_rows, tables[:_COUNTED_FOOTERS])
    n_rows = sum(counts)
    is_exact = True
    n_footers = footer_bytes = 0
    for file in files:
        form = known_format(file.name)
        if form.kind == "parquet" and n_footers < len(counts):
            n_footers += 1
            footer_bytes += file.bytes
        elif form.kind == "parquet":
            n_rows += round(file.bytes * sum(counts) / footer_bytes)
            is_exact = False
        else:
            measure = measured.get(form)
            if measure is not None and measure.bytes:
                n_rows += round(file.bytes * measure.rows / measure.bytes)
                is_exact = is_exact and measure.bytes == totals[form]
            else:
                is_exact = False
    return n_rows, is_exact


def require_documents(sample: FileSample, where: str) -> None:
    """Refuse files of which nothing can be read.

    Raises:
        SourceError: not one row of the sample is a document.
    """
    if sample.rows and not sample.documents:
        fault = next(row for row in sample.rows if isinstance(row, Unreadable))
        raise SourceError(
            f"none of {len(sample.rows)} rows of {where} can be read ({fault.detail}): are the files what their names "
            "say?"
        )
