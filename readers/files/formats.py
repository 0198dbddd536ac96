"""The formats: a file becomes chunks of rows, each a document, an `Unreadable` with why it is none, or a blank line.

A chunk is the number of its first row and its rows. A row's number is its place in the file, from 0: in JSONL the
line's, blank ones counted; in CSV the record's, the header not counted; in Parquet the row's over all row groups.
Chunks whose rows are all settled are passed over as cheaply as the format allows.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from readers.batching.ports import Document
from readers.files.opening import FilePath, known_format, open_parquet, open_stream
from readers.files.settled import Settled

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK_BYTES = 512 << 10
LONGEST_LINE_BYTES = 64 << 20
_CSV_ROWS = 2048
_PARQUET_ROWS = 4096
_PARQUET_PAGE_BYTES = 4 << 20
_DELIMITERS = ",;\t|"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What stands for a row that cannot be read."""

    detail: str


class ByteStream(Protocol):
    """What bytes are read from, from the beginning to the end."""

    def read(self, size: int, /) -> bytes | None:
        """At most so many bytes, at least one; none at the end."""


BLANK = None
"""A line with nothing on it: no document, and no fault."""

Row = Document | Unreadable | None
Chunk = tuple[int, list[Any]]


def chunks(path: FilePath, fields: tuple[str, ...], settled: Settled) -> Iterator[Chunk]:
    """The rows of a file, in order.

    Args:
        fields: Dotted paths of the fields that are needed; a format may give more.
        settled: Rows that need not be given.

    Raises:
        OSError, EOFError, ValueError: it cannot be read (see `readers.files.opening.reading`).
    """
    form = known_format(path.name)
    if form.kind == "parquet":
        yield from parquet_chunks(path, fields, settled)
        return
    with open_stream(path, form.compression) as stream:
        yield from jsonl_chunks(stream, settled) if form.kind == "jsonl" else csv_chunks(stream, settled)


def jsonl_chunks(stream: ByteStream, settled: Settled) -> Iterator[Chunk]:
    """One JSON object a line."""
    row = 0
    for block, cut in _whole_lines(stream):
        if settled.is_over(row):
            return
        n_rows = block.count(b"\n") + 1
        if not settled.cover(row, n_rows):
            lines = block.split(b"\n")
            open_rows = settled.open_rows(row, n_rows)
            rows = _parsed(lines if open_rows is None else [lines[at] for at in open_rows])
            if cut is not None:
                rows = [Unreadable(cut)] if rows else []
            if open_rows is not None:
                found: list[Any] = [BLANK] * n_rows
                for at, one in zip(open_rows, rows, strict=True):
                    found[at] = one
                rows = found
            yield row, rows
        row += n_rows


def _whole_lines(stream: ByteStream) -> Iterator[tuple[bytes, str | None]]:
    """Blocks of whole lines without the last line break; a line that is too long alone, cut, with a word about it."""
    rest = b""
    is_first = True
    while data := stream.read(CHUNK_BYTES):
        if is_first:
            data = data.removeprefix(b"\xef\xbb\xbf")
            is_first = False
        end = data.rfind(b"\n")
        if end >= 0:
            yield rest + data[:end], None
            rest = data[end + 1 :]
        elif len(rest) + len(data) <= LONGEST_LINE_BYTES:
            rest += data
        else:
            yield b"{}", f"the line is longer than {LONGEST_LINE_BYTES >> 20} MiB"
            rest = _behind_line(stream)
    if rest:
        yield rest, None


def _behind_line(stream: ByteStream) -> bytes:
    """Read to the end of the line; what was read of the next one."""
    while data := stream.read(CHUNK_BYTES):
        _, found, rest = data.partition(b"\n")
        if found:
            return rest
    return b""


def _parsed(lines: list[bytes]) -> list[Any]:
    try:
        rows: list[Any] = list(map(orjson.loads, lines))
    except orjson.JSONDecodeError:
        return [_parsed_line(line) for line in lines]
    return rows if set(map(type, rows)) == {dict} else [_parsed_line(line) for line in lines]


def _parsed_line(line: bytes) -> Any:
    if not line.strip():
        return BLANK
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return Unreadable(f"the line is not JSON: {error.msg} at character {error.pos}")
    return row if isinstance(row, dict) else Unreadable("the line is no JSON object")


def csv_chunks(stream: io.RawIOBase | io.BufferedIOBase, settled: Settled) -> Iterator[Chunk]:
    """Records with a header; the delimiter is the one of comma, semicolon, tab and bar that the header has most of."""
    text = io.TextIOWrapper(
        io.BufferedReader(stream, CHUNK_BYTES),
        encoding="utf-8-sig",
        errors="surrogateescape",
        newline="",
    )
    csv.field_size_limit(LONGEST_LINE_BYTES)
    head = text.readline()
    if not head:
        return
    delimiter = max(_DELIMITERS, key=head.count)
    lines = _Lines(head, text)
    records = csv.reader(lines, delimiter=delimiter, strict=True)
    names = next(records)
    row = 0
    while not settled.is_over(row) and (rows := _records(records, names)):
        if not settled.cover(row, len(rows)):
            yield row, rows
        row += len(rows)


class _Lines:
    """The lines of a text, the first of which was read already."""

    def __init__(self, head: str, text: io.TextIOWrapper) -> None:
        self._head: str | None = head
        self._text = text

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        head, self._head = self._head, None
        return next(self._text) if head is None else head


def _records(records: Any, names: list[str]) -> list[Any]:
    """The next records; empty at the end."""
    rows: list[Any] = []
    n_names = len(names)
    while len(rows) < _CSV_ROWS:
        try:
            record = next(records, None)
        except csv.Error as error:
            rows.append(Unreadable(f"the record is not CSV: {error}"))
            continue
        if record is None:
            break
        if len(record) == n_names:
            rows.append(dict(zip(names, record, strict=True)))
        elif not record:
            rows.append(BLANK)
        else:
            rows.append(Unreadable(f"the record has {len(record)} fields, the header {n_names}"))
    return rows


def parquet_chunks(path: FilePath, fields: tuple[str, ...], settled: Settled) -> Iterator[Chunk]:
    """Row groups in order, of which only the columns that are needed are read."""
    columns = list(dict.fromkeys(fields))
    with open_parquet(path, columns) as file:
        row = 0
        for group in range(file.num_row_groups):
            metadata = file.metadata.row_group(group)
            n_rows = metadata.num_rows
            if n_rows and not settled.cover(row, n_rows):
                per_row = metadata.total_byte_size // n_rows + 1
                size = max(1, min(_PARQUET_ROWS, _PARQUET_PAGE_BYTES // per_row))
                at = row
                for batch in file.iter_batches(size, row_groups=[group], columns=columns, use_threads=False):
                    if settled.is_over(at):
                        return
                    if not settled.cover(at, batch.num_rows):
                        yield at, documents_of(batch)
                    at += batch.num_rows
            row += n_rows


def documents_of(batch: pa.RecordBatch) -> list[Any]:
    """A batch as documents."""
    if not batch.num_columns:
        return [{} for _ in range(batch.num_rows)]
    names = batch.schema.names
    values = [_values(column) for column in batch.columns]
    if len(names) == 1:
        name = names[0]
        return [{name: value} for value in values[0]]
    if len(names) == 2:
        one, other = names
        return [{one: first, other: second} for first, second in zip(*values, strict=True)]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def _values(column: pa.Array) -> list[Any]:
    """A column as Python values; text that is no valid UTF-8 keeps its bytes as surrogates, and is refused later."""
    import pyarrow as pa  # noqa: PLC0415 - sources without Parquet do without it

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        try:
            return column.to_numpy(zero_copy_only=False).tolist()  # type: ignore[no-any-return]
        except (UnicodeDecodeError, pa.ArrowException):
            raw = column.cast(pa.large_binary()).to_pylist()
            return [None if value is None else value.decode("utf-8", "surrogateescape") for value in raw]
    if pa.types.is_integer(kind) and not column.null_count:
        return column.to_numpy().tolist()  # type: ignore[no-any-return]
    return column.to_pylist()  # type: ignore[no-any-return]
