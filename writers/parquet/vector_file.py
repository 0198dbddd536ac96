"""A Parquet file of ids, carried columns and vectors, written page by page with little memory.

The vector column is encoded by `writers.parquet.pages`. All other columns of a row group are left to pyarrow: it writes
them to a small file in memory, and their column chunks, statistics and page indexes are carried over with their offsets
moved.

In a row group the other columns stand before the vectors, in the schema's order. The format lets them stand anywhere,
but Spark and others who read with parquet-java take a row group for the bytes that follow its first column's offset;
where these reach beyond the end of the file, they leave it out without a word (seen with Spark 4.3: 0 rows). Vectors
go out as they are made all the same, and one page is buffered: room is left for the other columns, which are written
into it when the row group ends. Where it was too little, the vectors move.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine import __version__
from writers.parquet import thrift
from writers.parquet.pages import RLE, ZSTD, EncodedPage, Matrix, PageEncoder, page_rows
from writers.parquet.thrift import BINARY, I32, Field, ListOf, Struct, binary, i32, i64, nested, structs
from writers.shards.schema import EMBEDDING, writer_options

_MAGIC = b"PAR1"
_LEAF = (EMBEDDING, "list", "element")
_FLOAT, _FIXED_LEN_BYTE_ARRAY = 4, 7
ARROW_SCHEMA = b"ARROW:schema"

_MOVED_BYTES = 1 << 20
_SPARE_SHARE, _SPARE_BYTES = 0.03, 128
"""What is left beyond the expected size of the other columns (the bytes for each), so that vectors seldom move."""


class Sink(Protocol):
    """Where bytes go; `writers.merge.file.MergeFile` is one."""

    def write(self, data: Any, /) -> int:
        """Write all of `data`."""

    def seek(self, offset: int, /) -> int:
        """Go to a byte, also beyond the end: what is skipped and never written reads as zeros."""

    def read(self, count: int, /) -> bytes:
        """Read that many bytes."""


class FooterDamage(ValueError):
    """A footer that cannot be read."""


def read_footer(tail: bytes | memoryview) -> Struct:
    """The footer of a Parquet file from its last bytes, which have to hold it whole.

    Raises:
        FooterDamage: no footer, or one that is not whole.
    """
    if len(tail) < 8 or bytes(tail[-4:]) != _MAGIC:
        raise FooterDamage("the file does not end like a Parquet file")
    length = int.from_bytes(tail[-8:-4], "little")
    if length + 8 > len(tail):
        raise FooterDamage(f"the footer is said to have {length} bytes, more than the file")
    try:
        footer, end = thrift.read_struct(tail[-8 - length : -8])
    except thrift.ThriftError as error:
        raise FooterDamage(f"the footer cannot be read: {error}") from error
    if end != length:
        raise FooterDamage("the footer is followed by bytes that do not belong to it")
    return footer


class _Template:
    """What a footer says about columns, as pyarrow says it."""

    def __init__(self, schema: pa.Schema) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(schema.empty_table(), sink, **writer_options(schema))
        footer = read_footer(memoryview(sink.getvalue()).cast("B"))
        self.elements = footer[2]
        self.column_orders = footer.get(7)
        self.version = footer[1]
        self.arrow_schema = b""
        for pair in footer[5].value.items if 5 in footer else []:
            if pair[1].value == ARROW_SCHEMA:
                self.arrow_schema = pair[2].value


class _Chunk:
    """One column chunk that is in the file, and its page indexes, which come behind all row groups."""

    def __init__(self, meta: Struct, offset_index: bytes, column_index: bytes | None) -> None:
        self.meta = meta
        self.offset_index = offset_index
        self.column_index = column_index
        self.places: Struct = {}

    @property
    def start(self) -> int:
        """Offset of its first page."""
        dictionary = self.meta.get(11)
        data = int(self.meta[9].value)
        return min(data, int(dictionary.value)) if dictionary is not None else data

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes before and after compression."""
        return int(self.meta[6].value), int(self.meta[7].value)


class VectorFileWriter:
    """Writes rows of (id, carried columns, vector); pages go to the sink as they fill.

    Attributes:
        page_rows: Rows in a full page.
        page_log: Rows, CRC-32, and whether it was copied, of every vector page so far.
        rows: Rows written so far.
        position: Bytes written so far.
    """

    def __init__(
        self,
        sink: Sink,
        schema: pa.Schema,
        *,
        row_group_bytes: int,
        sorted_by_id: bool = False,
        expected_rows: int = 0,
    ) -> None:
        """
        Args:
            sink: Gets the bytes; empty.
            schema: `_id` first, `embedding` last, as `writers.shards.schema.ShardSchema.arrow` makes it.
            row_group_bytes: Bytes of a row group before compression, vectors and everything else together.
            sorted_by_id: Whether to say in the footer that rows are sorted by the first column.
            expected_rows: How many rows will come; a wrong number costs time or a little room, no more.
        """
        vectors = schema.field(EMBEDDING).type
        self.dim: int = vectors.list_size
        self.schema = schema
        self._dtype = np.dtype(np.float16 if pa.types.is_float16(vectors.value_type) else np.float32)
        self._sink = sink
        self._sorted = sorted_by_id
        self._row_group_bytes = row_group_bytes
        self._template = _Template(schema)
        self._others = pa.schema([field for field in schema if field.name != EMBEDDING])
        self._encoder = PageEncoder(self.dim, self._dtype)
        self.page_rows = page_rows(self.dim, self._dtype.itemsize, row_group_bytes)
        self._pending: Matrix = np.empty((self.page_rows, self.dim), dtype=self._dtype)
        self._n_pending = 0
        self._tables: list[pa.Table] = []
        self._pages: list[tuple[int, int, int]] = []  # offset, size, first row
        self.page_log: list[tuple[int, int, bool]] = []
        self._expected_rows = expected_rows
        self._written_row_bytes: float | None = None  # of the other columns in the row group before
        self._group_rows = 0
        self._group_start = 0
        self._other_bytes = 0
        self._vector_plain_bytes = 0
        self._row_groups: list[tuple[int, int, list[_Chunk]]] = []  # rows, start, chunks
        self.rows = 0
        self.position = 0
        self._write(_MAGIC)
        self._group_start = self.position

    def append(self, others: pa.Table, matrix: Matrix) -> None:
        """Append rows.

        Args:
            others: All columns but the vectors, in the schema's order.
            matrix: (n_rows, dim) of the schema's number type, contiguous; not kept.
        """
        start = 0
        while start < len(matrix):
            count = min(len(matrix) - start, self.page_rows - self._n_pending)
            self._take_others(others.slice(start, count))
            if count == self.page_rows:
                self._put_page(self._encoder.encode(matrix[start : start + count]))
            else:
                self._pending[self._n_pending : self._n_pending + count] = matrix[start : start + count]
                self._n_pending += count
                if self._n_pending == self.page_rows:
                    self._flush_page()
            start += count
            self._end_group_if_full()

    def append_page(self, others: pa.Table, page: EncodedPage) -> None:
        """Append the rows of one page that is already encoded the way this file encodes its vectors."""
        self._flush_page()
        self._take_others(others)
        self._put_page(page, copied=True)
        self._end_group_if_full()

    def end_row_group(self) -> None:
        """End the row group here, unless it is empty."""
        self._flush_page()
        if not self._group_rows:
            return
        chunks = [*self._write_others(), self._vector_chunk()]
        self._row_groups.append((self._group_rows, chunks[0].start, chunks))
        self._pages = []
        self._group_rows = self._other_bytes = self._vector_plain_bytes = 0
        self._group_start = self.position

    def close(self, metadata: Mapping[bytes, bytes]) -> None:
        """End the file: page indexes, footer. Without it the file cannot be read."""
        self.end_row_group()
        for _, _, chunks in self._row_groups:
            for chunk in chunks:
                if chunk.column_index is not None:
                    chunk.places[6], chunk.places[7] = i64(self.position), i32(len(chunk.column_index))
                    self._write(chunk.column_index)
        for _, _, chunks in self._row_groups:
            for chunk in chunks:
                chunk.places[4], chunk.places[5] = i64(self.position), i32(len(chunk.offset_index))
                self._write(chunk.offset_index)
        footer = thrift.write_struct(self._footer(metadata))
        self._write(footer + len(footer).to_bytes(4, "little") + _MAGIC)

    def _write(self, data: Any) -> None:
        self._sink.write(data)
        self.position += memoryview(data).nbytes

    def _take_others(self, table: pa.Table) -> None:
        self._tables.append(table)
        self._other_bytes += table.nbytes
        self._group_rows += table.num_rows
        self.rows += table.num_rows

    def _flush_page(self) -> None:
        if self._n_pending:
            self._put_page(self._encoder.encode(self._pending[: self._n_pending]))
            self._n_pending = 0

    def _put_page(self, page: EncodedPage, *, copied: bool = False) -> None:
        if not self._pages:
            self._leave_room()
        self.page_log.append((page.rows, page.crc, copied))
        first_row = self._pages[-1][2] + self._last_page_rows if self._pages else 0
        self._pages.append((self.position, page.size_bytes, first_row))
        self._last_page_rows = page.rows
        self._vector_plain_bytes += len(page.head) + page.plain_bytes
        self._write(page.head)
        self._write(page.body)

    _last_page_rows = 0

    def _end_group_if_full(self) -> None:
        vectors = (self._group_rows + self.page_rows) * self.dim * self._dtype.itemsize
        if self._n_pending == 0 and vectors + self._other_bytes > self._row_group_bytes:
            self.end_row_group()

    def _leave_room(self) -> None:
        """Leave room for the other columns of the row group that begins."""
        row_bytes = self._other_bytes / self._group_rows
        group_rows = self._row_group_bytes / (row_bytes + self.dim * self._dtype.itemsize)
        left = max(0, self._expected_rows - (self.rows - self._group_rows))
        if self._written_row_bytes is not None:
            row_bytes = self._written_row_bytes
        room = row_bytes * min(left, group_rows)
        if room:
            self.position += int(room * (1 + _SPARE_SHARE)) + _SPARE_BYTES * len(self._others)
            self._sink.seek(self.position)

    def _make_room(self, size: int) -> int:
        """Where `size` bytes can stand right before the vectors, which are moved if they must."""
        first, end = self._pages[0][0], self.position
        by = size - (first - self._group_start)
        if by > 0:
            while end > first:
                count = min(_MOVED_BYTES, end - first)
                end -= count
                self._sink.seek(end)
                data = self._sink.read(count)
                self._sink.seek(end + by)
                self._sink.write(data)
            self.position += by
            self._pages = [(offset + by, size, row) for offset, size, row in self._pages]
            first += by
        return first - size

    def _write_others(self) -> list[_Chunk]:
        """Let pyarrow write the other columns to memory; carry the chunks over to before the vectors."""
        table = pa.concat_tables(self._tables)
        self._tables = []
        buffer = pa.BufferOutputStream()
        options = writer_options(self.schema)
        options.pop("use_byte_stream_split", None)
        options["store_schema"] = False
        with pq.ParquetWriter(buffer, self._others, write_page_index=True, **options) as writer:
            writer.write_table(table, row_group_size=table.num_rows)
        data = memoryview(buffer.getvalue()).cast("B")
        (group,) = read_footer(data)[4].value.items
        columns = [(column, _Chunk(column[3].value, b"", None)) for column in group[1].value.items]
        all_bytes = sum(chunk.sizes[1] for _, chunk in columns)
        self._written_row_bytes = all_bytes / self._group_rows
        position = self._make_room(all_bytes)
        self._sink.seek(position)
        chunks = []
        for column, chunk in columns:
            start, (_, size) = chunk.start, chunk.sizes
            moved = position - start
            self._sink.write(data[start : start + size])
            position += size
            for number in (9, 10, 11, 14):  # data, index and dictionary pages, bloom filter
                if number in chunk.meta:
                    chunk.meta[number] = i64(chunk.meta[number].value + moved)
            chunk.offset_index = _moved_offset_index(_part(data, column, 4), moved)
            if 6 in column:
                chunk.column_index = bytes(_part(data, column, 6))
            chunks.append(chunk)
        self._sink.seek(self.position)
        return chunks

    def _vector_chunk(self) -> _Chunk:
        half = self._dtype == np.float16
        size = sum(page[1] for page in self._pages)
        meta: Struct = {
            1: i32(_FIXED_LEN_BYTE_ARRAY if half else _FLOAT),
            2: Field(thrift.LIST, ListOf(I32, sorted({self._encoder.encoding, RLE}))),
            3: Field(thrift.LIST, ListOf(BINARY, [name.encode() for name in _LEAF])),
            4: i32(ZSTD),
            5: i64(self._group_rows * self.dim),
            6: i64(self._vector_plain_bytes),
            7: i64(size),
            9: i64(self._pages[0][0]),
        }
        locations = [{1: i64(offset), 2: i32(size), 3: i64(row)} for offset, size, row in self._pages]
        return _Chunk(meta, thrift.write_struct({1: structs(locations)}), None)

    def _footer(self, metadata: Mapping[bytes, bytes]) -> Struct:
        groups = [self._row_group(number, *group) for number, group in enumerate(self._row_groups)]
        pairs = {ARROW_SCHEMA: self._template.arrow_schema, **metadata}
        footer: Struct = {
            1: self._template.version,
            2: self._template.elements,
            3: i64(self.rows),
            4: structs(groups),
            5: structs([{1: binary(key), 2: binary(value)} for key, value in pairs.items()]),
            6: binary(f"embedding-engine version {__version__} (build pyarrow-{pa.__version__})".encode()),
        }
        if self._template.column_orders is not None:
            footer[7] = self._template.column_orders
        return footer

    def _row_group(self, number: int, n_rows: int, start: int, chunks: list[_Chunk]) -> Struct:
        columns = [{2: i64(0), 3: nested(chunk.meta), **chunk.places} for chunk in chunks]
        group: Struct = {
            1: structs(columns),
            2: i64(sum(chunk.sizes[0] for chunk in chunks)),
            3: i64(n_rows),
            5: i64(start),
            6: i64(sum(chunk.sizes[1] for chunk in chunks)),
            7: Field(thrift.I16, number & 0x7FFF),
        }
        if self._sorted:
            group[4] = structs([{1: i32(0), 2: Field(thrift.FALSE, False), 3: Field(thrift.FALSE, False)}])
        return group


def _part(data: memoryview, column: Struct, number: int) -> memoryview:
    """The bytes that a column chunk's pair of offset and length points to."""
    start = int(column[number].value)
    return data[start : start + int(column[number + 1].value)]


def _moved_offset_index(data: memoryview, moved: int) -> bytes:
    index, _ = thrift.read_struct(data)
    for location in index[1].value.items:
        location[1] = i64(location[1].value + moved)
    return thrift.write_struct(index)
