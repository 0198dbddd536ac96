"""Data pages of the vector column, encoded and decoded without walking over levels value by value.

Every vector has the same length and none is null, so the repetition and definition levels of a page are known from
its row count alone: a constant pattern, built once. What is left per page is BYTE_STREAM_SPLIT (bytes of equal
significance stand together), zstd and a CRC-32. That takes 3 us for a row of 768 float32 where the general writer
of pyarrow takes 13, and 2 us against 4 for reading (`python -m bench.measure.merge_bench --parts`).

A page always begins at a row, so that it can have an entry in the page index and be copied to another file as it is.
Source: Apache Parquet, "File format", "Encodings", "Page checksum"; data page version 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import zstandard
from isal.isal_zlib import crc32

from writers.parquet import thrift
from writers.parquet.thrift import Field, Struct, i32, nested

PAGE_BYTES = 1 << 20
"""Of vectors, before compression. zstd finds least in pages under half a megabyte (32 rows: 2,840 bytes a row)."""

PLAIN, RLE, BYTE_STREAM_SPLIT = 0, 3, 9
ZSTD = 6
_MIN_COPIED_SHARE = 0.25
"""Pages that hold less than this share of a full page compress badly: their rows are encoded anew."""

_PARAMETERS = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST, window_log=17, hash_log=6, min_match=7, chain_log=6, search_log=1, target_length=0
)
"""Bytes of vectors hold no repeated strings worth looking for, only unlike frequencies: with next to no search the same
entropy coder takes 1.3 us a row of 768 where level 1 takes 3.0, and gives 2,575 bytes instead of 2,592."""

_DATA_PAGE = 0
_MAX_HEADER_BYTES = 1 << 16
Matrix = npt.NDArray[Any]


class PageDamage(ValueError):
    """A page is not what its header, its checksum or its chunk says."""


class NotOurs(ValueError):
    """A sound page, but not of the kind that is decoded here; the general reader has to take the file."""


def page_rows(dim: int, item_bytes: int, row_group_bytes: int = 8 * PAGE_BYTES) -> int:
    """Rows in a full page; small row groups have small pages."""
    return max(1, min(PAGE_BYTES, row_group_bytes // 8) // (dim * item_bytes))


def levels(n_rows: int, dim: int, definition: int = 1) -> bytes:
    """Repetition and definition levels of `n_rows` full lists of `dim` items, each with its length.

    Items that are there have the definition level `definition`: 1 where lists and items are required, more elsewhere.

    A row repeats as 0, 1, 1, ...: one bit-packed group of eight, then a run; short rows are bit-packed throughout.
    """
    if dim >= 8:
        row = b"\x03\xfe" + (thrift.varint((dim - 8) << 1) + b"\x01" if dim > 8 else b"")
        repetition = row * n_rows
    else:
        bits = np.ones((n_rows, dim), dtype=np.uint8)
        bits[:, 0] = 0
        packed = np.packbits(bits.reshape(-1), bitorder="little").tobytes()
        repetition = thrift.varint(len(packed) << 1 | 1) + packed
    defined = thrift.varint((n_rows * dim) << 1) + bytes([definition])
    return b"".join(len(part).to_bytes(4, "little") + part for part in (repetition, defined))


def join_planes(planes: npt.NDArray[np.uint8], out: npt.NDArray[Any]) -> None:
    """Put the four bytes of every number together again: BYTE_STREAM_SPLIT (4, n) to float32 (n)."""
    low, high = planes[1].astype("<u2"), planes[3].astype("<u2")  # two halves are quicker than four quarters
    for half, plane in ((low, planes[0]), (high, planes[2])):
        np.left_shift(half, np.uint16(8), out=half)
        np.bitwise_or(half, plane, out=half)
    words = out.view("<u4")
    np.copyto(words, high)
    np.left_shift(words, np.uint32(16), out=words)
    np.bitwise_or(words, low, out=words)


@dataclass(frozen=True, slots=True)
class EncodedPage:
    """A page as it stands in a file.

    Attributes:
        head: The page header.
        body: Compressed levels and values.
        rows: Rows in it.
        plain_bytes: Size of the body before compression.
        crc: CRC-32 of the body.
    """

    head: bytes
    body: bytes | memoryview | pa.Buffer
    rows: int
    plain_bytes: int
    crc: int

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return len(self.head) + memoryview(self.body).nbytes


class PageEncoder:
    """Turns matrices into pages; keeps the buffers between them."""

    def __init__(self, dim: int, dtype: npt.DTypeLike) -> None:
        self.dim = dim
        self.dtype = np.dtype(dtype)
        self.encoding = BYTE_STREAM_SPLIT if self.dtype == np.float32 else PLAIN
        self._compressor = zstandard.ZstdCompressor(compression_params=_PARAMETERS)
        self._rows = -1
        self._buffer = bytearray()
        self._values: npt.NDArray[np.uint8] = np.empty(0, dtype=np.uint8)

    def encode(self, matrix: Matrix) -> EncodedPage:
        """Encode (n_rows, dim) of the encoder's dtype, contiguous."""
        n_rows = len(matrix)
        if n_rows != self._rows:
            self._prepare(n_rows)
        flat = matrix.reshape(-1)
        if self.encoding == BYTE_STREAM_SPLIT:
            words = flat.view("<u4")
            for plane in range(4):
                # narrowing keeps the lowest byte; four vectorised passes beat any strided byte copy
                np.right_shift(words, np.uint32(8 * plane), out=self._values[plane], casting="unsafe")
        else:
            self._values[0] = flat.view(np.uint8)
        body = self._compressor.compress(self._buffer)
        crc = crc32(body)
        head = page_header(n_rows * self.dim, self.encoding, len(self._buffer), len(body), crc)
        return EncodedPage(head, body, n_rows, len(self._buffer), crc)

    def _prepare(self, n_rows: int) -> None:
        prefix = levels(n_rows, self.dim)
        n_values = n_rows * self.dim
        self._buffer = bytearray(len(prefix) + n_values * self.dtype.itemsize)
        self._buffer[: len(prefix)] = prefix
        planes = 4 if self.encoding == BYTE_STREAM_SPLIT else 1
        self._values = np.frombuffer(self._buffer, dtype=np.uint8, offset=len(prefix)).reshape(planes, -1)
        self._rows = n_rows


def page_header(n_values: int, encoding: int, plain_bytes: int, body_bytes: int, crc: int) -> bytes:
    """The header of a data page, with the CRC-32 of its body."""
    data: Struct = {1: i32(n_values), 2: i32(encoding), 3: i32(RLE), 4: i32(RLE)}
    return thrift.write_struct(
        {
            1: i32(_DATA_PAGE),
            2: i32(plain_bytes),
            3: i32(body_bytes),
            4: i32(crc - (1 << 32) if crc >> 31 else crc),
            5: nested(data),
        }
    )


@dataclass(frozen=True, slots=True)
class RawPage:
    """A page as it was read; `body` is valid until the next page is read.

    Attributes:
        head, body: Its header and its body as they stand in the file.
        fields: The header, parsed.
        offset: Where it stands.
    """

    head: bytes
    body: memoryview
    fields: Struct
    offset: int

    @property
    def plain_bytes(self) -> int:
        """Size of the body before compression."""
        return int(self.fields[2].value)

    @property
    def n_values(self) -> int:
        """Values in it; 0 for a dictionary."""
        for number in (5, 8):  # data page of version 1, of version 2
            if number in self.fields:
                return int(self.fields[number].value[1].value)
        return 0

    @property
    def crc(self) -> int | None:
        """The CRC-32 of the body, or None when whoever wrote it left it out."""
        return int(self.fields[4].value) & 0xFFFFFFFF if 4 in self.fields else None


ReadAt = Callable[[int, int], bytes | memoryview]
"""Reads `count` bytes at an offset, or fewer at the end of the file."""

_READ_BYTES = 512 << 10
_READ_STEP_BYTES = 32 << 10
_READ_SLACK = 1 / 32
"""Small pages are read many at once. Large ones are nearly alike: a little more than the page before is read, once, and
stays in the CPU's own cache. Counts are multiples of the step, or else the allocator would ask the kernel for new
memory each time."""


def read_pages(read_at: ReadAt, place: tuple[int, int, int]) -> Iterator[RawPage]:
    """All pages of one column chunk, in order, each compared with its checksum where it has one.

    Args:
        read_at: Reads the file.
        place: Offset of the first page, bytes of all pages, number of values.

    Raises:
        PageDamage: a header cannot be read, a checksum differs, or the pages do not fill the chunk.
    """
    offset, size_bytes, n_values = place
    end = offset + size_bytes
    seen = 0
    likely = 0  # about the size of the page that comes
    window = memoryview(b"")
    start = offset  # where the window begins
    while offset < end:
        if len(window) - (offset - start) < min(max(_MAX_HEADER_BYTES, likely), end - offset):
            count = _stepped(likely * max(1, _READ_BYTES // likely) if likely else _READ_BYTES)
            start, window = offset, memoryview(read_at(offset, min(count, end - offset)))
        fields, behind = _parse_header(window, offset - start, offset)
        body_bytes = int(fields[3].value)
        body_at = start + behind
        if body_bytes < 0 or body_at + body_bytes > end:
            raise PageDamage(f"the page header at byte {offset} names {body_bytes} bytes, more than its column has")
        if body_at + body_bytes > start + len(window):
            # the window begins anew with this page, so that what is read next continues the file
            count = _stepped(body_at - offset + body_bytes)
            start, window = offset, memoryview(read_at(offset, min(count, end - offset)))
            if body_at + body_bytes > start + len(window):
                raise PageDamage(f"the file ends inside the page at byte {offset}")
        body = window[body_at - start : body_at - start + body_bytes]
        if 4 in fields and crc32(body) != int(fields[4].value) & 0xFFFFFFFF:
            raise PageDamage(f"the page at byte {offset} does not match its checksum")
        page = RawPage(bytes(window[offset - start : body_at - start]), body, fields, offset)
        seen += page.n_values
        if seen > n_values or page.n_values < 0:
            raise PageDamage(f"the page at byte {offset} holds {page.n_values} values, more than its column has left")
        yield page
        likely = int((body_at - offset + body_bytes) * (1 + _READ_SLACK))
        offset = body_at + body_bytes
    if seen != n_values:
        raise PageDamage(f"the pages hold {seen} values, their column says {n_values}")


def _stepped(count: int) -> int:
    return -(-count // _READ_STEP_BYTES) * _READ_STEP_BYTES


_HEADER_FIELDS = {0: 5, 2: 7, 3: 8}
"""Where the header of each type of page has its own part: data, dictionary, data of version 2."""

_NOTHING, _NO_CRC = Field(0, 0), Field(thrift.I32, 0)


def _parse_header(window: memoryview, position: int, offset: int) -> tuple[Struct, int]:
    try:
        fields, behind = thrift.read_struct(window, position)
    except thrift.ThriftError as error:
        raise PageDamage(f"the page header at byte {offset} cannot be read: {error}") from error
    which = fields.get(1, _NOTHING)
    own = fields.get(_HEADER_FIELDS.get(which.value, 0) if which.kind == thrift.I32 else 0, _NOTHING)
    plain, stored, crc = fields.get(2, _NOTHING), fields.get(3, _NOTHING), fields.get(4, _NO_CRC)
    numbers = plain.kind == stored.kind == crc.kind == thrift.I32
    if own.kind != thrift.STRUCT or not numbers or plain.value < 0:
        raise PageDamage(f"the page header at byte {offset} makes no sense")
    if not own.value.get(1, _NOTHING).kind == own.value.get(2, _NOTHING).kind == thrift.I32:
        raise PageDamage(f"the page header at byte {offset} lacks its counts")
    return fields, behind


class PageDecoder:
    """Turns zstd pages back into numbers."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self._decompressor = zstandard.ZstdDecompressor()  # kept: pyarrow's makes its tables anew for every page

    def decode_into(self, page: RawPage, out: npt.NDArray[Any]) -> None:
        """Write the page's values to `out` (n_values, of the decoder's dtype).

        Raises:
            PageDamage: sizes that do not fit together, or a body that cannot be decompressed.
            NotOurs: null or missing values, or another encoding.
        """
        if len(out) != page.n_values:
            raise NotOurs("a page with missing values")
        planes = self._planes(page)
        if len(planes) == 4:
            join_planes(planes, out)
        else:
            out.view(np.uint8)[:] = planes[0]

    def _planes(self, page: RawPage) -> npt.NDArray[np.uint8]:
        """The page's values as they stand in it: (4, n_values) bytes of equal significance, or (1, bytes) if PLAIN."""
        if 5 not in page.fields:
            raise NotOurs("a dictionary or a page of version 2")
        prefix = page.plain_bytes - page.n_values * self.dtype.itemsize
        if not 0 <= prefix <= 64 + 2 * page.n_values:
            raise NotOurs("a page with missing values")  # or with a damaged size, which is not allocated then
        plain = self._decompress(page)
        encoding = int(page.fields[5].value[2].value)
        split = encoding == BYTE_STREAM_SPLIT and self.dtype == np.float32
        if not split and encoding != PLAIN:
            raise NotOurs(f"encoding {encoding}")
        return np.frombuffer(plain, dtype=np.uint8, offset=prefix).reshape(4 if split else 1, -1)

    def _decompress(self, page: RawPage) -> bytes:
        try:
            if zstandard.frame_content_size(page.body) not in (page.plain_bytes, -1):  # -1: the frame does not say
                raise PageDamage(f"the page at byte {page.offset} says two sizes")
            plain = self._decompressor.decompress(page.body, max_output_size=page.plain_bytes)
        except zstandard.ZstdError as error:
            raise PageDamage(f"the page at byte {page.offset} cannot be decompressed: {error}") from error
        if len(plain) != page.plain_bytes:
            raise PageDamage(f"the page at byte {page.offset} has {len(plain)} bytes, not {page.plain_bytes}")
        return plain


class VectorReader:
    """Reads column chunks of vectors; keeps its tables and its memory from one to the next."""

    def __init__(self, dim: int, dtype: npt.DTypeLike) -> None:
        self._dim = dim
        self._decoder = PageDecoder(dtype)
        self._buffer: npt.NDArray[Any] = np.empty(0, dtype=self._decoder.dtype)

    def read(
        self, read_at: ReadAt, place: tuple[int, int, int], *, copying: bool = False
    ) -> Iterator[Matrix | EncodedPage]:
        """The vectors of one column chunk as whole rows, about a page at a time.

        Args:
            read_at: Reads the file.
            place: Offset, size in bytes, and number of values of the chunk.
            copying: Whether pages that `PageEncoder` would have made alike are left as they are. pyarrow makes such
                pages too, with the same levels to the byte; only in older versions they may end within a row.

        Yields:
            (n_rows, dim), contiguous, valid until the next; or a page of whole rows.

        Raises:
            PageDamage, NotOurs: see `read_pages` and `PageDecoder`.
        """
        dim, dtype = self._dim, self._decoder.dtype
        left = 0  # values of a row that began in an earlier page
        for page in read_pages(read_at, place):
            if copying and not left and (copied := _copied(page, dim, dtype)) is not None:
                yield copied
                continue
            end = left + page.n_values
            if end > len(self._buffer):
                larger = np.empty(end + dim, dtype=dtype)
                larger[:left] = self._buffer[:left]
                self._buffer = larger
            buffer = self._buffer
            self._decoder.decode_into(page, buffer[left:end])
            n_rows = end // dim
            if n_rows:
                yield buffer[: n_rows * dim].reshape(n_rows, dim)
            left = end - n_rows * dim
            buffer[:left] = buffer[n_rows * dim : end].copy()
        if left:
            raise PageDamage("the column ends within a row")


def _copied(page: RawPage, dim: int, dtype: np.dtype[Any]) -> EncodedPage | None:
    """The page as `PageEncoder` would have made it, or None when it would not, or when it is too small to keep."""
    n_rows = page.n_values // dim
    encoding = BYTE_STREAM_SPLIT if dtype == np.float32 else PLAIN
    if n_rows * dim != page.n_values or n_rows < page_rows(dim, dtype.itemsize) * _MIN_COPIED_SHARE:
        return None
    if page.crc is None or 5 not in page.fields or page.fields[5].value[2].value != encoding:
        return None
    if page.plain_bytes != len(levels(n_rows, dim)) + page.n_values * dtype.itemsize:
        return None
    return EncodedPage(page.head, page.body, n_rows, page.plain_bytes, page.crc)
