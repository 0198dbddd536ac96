"""One input file of a merge or a check: its rows in blocks, and the SHA-256 of exactly the bytes they came from.

A file is read in file order, once: vector pages are decoded as they pass through the hash, those of other writers too
(writers/parquet/foreign_pages.py), and small files are read whole. Only a large file with pages that are not decoded
here is read twice, first for its SHA-256, then by pyarrow in portions (out of the page cache, unless it is larger than
that). At most one input is open at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import DamageError, EngineError, SinkError
from writers.parquet.encrypted import end_of, refuse_encrypted_columns, refuse_encrypted_footer
from writers.parquet.foreign import Matcher, MergeSchema, footer_of
from writers.parquet.foreign_pages import CODECS, ForeignChunk, ForeignReader
from writers.parquet.foreign_rows import OthersInOrder, to_matrix, to_others
from writers.parquet.pages import EncodedPage, Matrix, NotOurs, PageDamage, VectorReader
from writers.shards import schema as sc
from writers.workers.current_file import working_on

WHOLE_BYTES = 8 << 20
"""Files up to that size are read into memory in one go."""

_READ_BYTES = 1 << 20
_BATCH_BYTES = 1 << 20
_OUT_OF_RESOURCES = (12, 23, 24)  # ENOMEM, ENFILE, EMFILE

UNREADABLE = (OSError, pa.ArrowException, ValueError, OverflowError, MemoryError)
"""What reading a damaged file raises: also text that is not UTF-8, and sizes beyond memory."""


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of an input.

    Attributes:
        others: All columns but the vectors.
        vectors: Their vectors, (n_rows, dim), contiguous; or the page that holds exactly them, encoded as an output
            encodes them. Valid until the next block.
    """

    others: pa.Table
    vectors: Matrix | EncodedPage


class HashedFile:
    """A file that is hashed in file order while it is read, each byte once.

    Attributes:
        size_bytes: Size of the file.
        mtime_ns: When it was last written.
    """

    def __init__(self, path: str | Path, *, hashing: bool = True) -> None:
        self._hashing = hashing
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        stat = os.fstat(self._fd)
        self.size_bytes, self.mtime_ns = stat.st_size, stat.st_mtime_ns
        self._sha256 = hashlib.sha256()
        self._hashed = 0  # bytes from the start that went through the hash

    def read_at(self, offset: int, count: int) -> memoryview:
        """Read `count` bytes, fewer at the end; what lies before them is hashed first."""
        if not self._hashing:
            return memoryview(self._read(offset, count))
        self._hash_up_to(offset)
        data = memoryview(self._read(offset, count))
        if offset <= self._hashed < offset + len(data):
            self._sha256.update(data[self._hashed - offset :])
            self._hashed = offset + len(data)
        return data

    def read_whole(self, into: memoryview) -> memoryview:
        """All bytes, without hashing; `into` has to hold them."""
        return into[: read_into(self._fd, into[: self.size_bytes], 0)]

    def hexdigest(self) -> str:
        """The SHA-256 of the whole file; reads what has not been read."""
        self._hash_up_to(self.size_bytes)
        return self._sha256.hexdigest()

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _hash_up_to(self, end: int) -> None:
        while self._hashed < end:
            data = self._read(self._hashed, min(_READ_BYTES, end - self._hashed))
            if not data:
                return
            self._sha256.update(data)
            self._hashed += len(data)

    def _read(self, offset: int, count: int) -> bytes:
        data = os.pread(self._fd, count, offset)
        while len(data) < count:
            more = os.pread(self._fd, count - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data


def read_into(fd: int, view: memoryview, offset: int) -> int:
    """Fill a view with the bytes at an offset; how many they are: fewer only where the file ends."""
    done = 0
    while done < len(view) and (count := os.preadv(fd, [view[done:]], offset + done)):
        done += count
    return done


def open_parquet(name: str, source: pa.NativeFile, *, verifying: bool = True) -> pq.ParquetFile:
    """Open a file of which parts are read, page checksums compared if `verifying`.

    Raises:
        ConfigError: it is encrypted.
    """
    end = end_of(source)
    refuse_encrypted_footer(name, end)
    parquet = pq.ParquetFile(source, pre_buffer=False, buffer_size=_READ_BYTES, page_checksum_verification=verifying)
    refuse_encrypted_columns(name, source, end, parquet)
    return parquet


def first_page(column: pq.ColumnChunkMetaData) -> int:
    """Where the pages of a column chunk begin; an offset of 0 stands for what is not there."""
    start = int(column.data_page_offset)
    dictionary = int(column.dictionary_page_offset or 0) if column.has_dictionary_page else 0
    return dictionary if dictionary > 0 and (dictionary < start or not start) else start


class Kept:
    """What one input after the other is read with.

    Fresh memory costs more than reading a small file out of the page cache, and so do fresh tables for its pages.
    """

    def __init__(self, schema: MergeSchema) -> None:
        self.whole = memoryview(bytearray(WHOLE_BYTES))
        self.own = VectorReader(schema.dim, schema.dtype)
        self.foreign = ForeignReader(schema.dim, schema.dtype)


class Input:
    """An open input; of those that share a `Kept`, one at a time.

    Attributes:
        name: As it is called in messages and lineage.
        size_bytes: Size of the file.
        mtime_ns: When it was last written.
        rows: Rows by its footer.
    """

    def __init__(self, path: str | Path, name: str, matcher: Matcher, kept: Kept) -> None:
        """Open a file and compare its footer with the schema.

        Args:
            path: The file.
            name: As it is called in messages and lineage.
            matcher: Compares it with the schema.
            kept: What was used for the input before.

        Raises:
            DamageError: it is missing, cannot be read, or has no sound footer.
            ConfigError: it does not fit the schema.
            SinkError: this process is out of file handles or memory.
        """
        self.name = name
        self._schema = matcher.schema
        self._row_bytes = matcher.schema.dim * matcher.schema.dtype.itemsize
        self._kept = kept
        self._hashed: HashedFile | None = None
        self._whole: memoryview | None = None
        working_on(name)
        try:
            hashed = HashedFile(path)
            self.size_bytes, self.mtime_ns = hashed.size_bytes, hashed.mtime_ns
            if hashed.size_bytes <= WHOLE_BYTES:
                try:
                    self._whole = hashed.read_whole(kept.whole)
                finally:
                    hashed.close()
                source: pa.NativeFile = pa.BufferReader(pa.py_buffer(self._whole))
            else:
                self._hashed = hashed
                source = pa.OSFile(str(path))
            self._parquet = open_parquet(name, source)
            self.rows = int(self._parquet.metadata.num_rows)
            self._matched = matcher.check(name, self._parquet)
            # Looked up once: each look costs a small file as much as decoding a row.
            metadata = self._parquet.metadata
            self._groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            self._columns = [group.column(self._matched.vectors) for group in self._groups]
        except BaseException as error:
            self.close()
            if isinstance(error, UNREADABLE):
                raise unreadable(name, error) from error
            raise

    @property
    def row_digest(self) -> str:
        """What the footer says of the sum of all rows' hashes; empty when it does not."""
        return self._digest(sc.KEY_ROW_DIGEST, 16)

    @property
    def id_digest(self) -> str:
        """What the footer says of the digest of all ids; empty when it does not."""
        return self._digest(sc.KEY_ID_DIGEST, 32)

    def _digest(self, key: bytes, length: int) -> str:
        said = footer_of(self._parquet).get(key, b"").decode(errors="replace")
        return said if len(said) == length and set(said) <= set("0123456789abcdef") else ""

    def sha256(self) -> str:
        """SHA-256 of the file, of the bytes that `blocks` has read where it has read them."""
        try:
            if self._whole is not None:
                return hashlib.sha256(self._whole).hexdigest()
            assert self._hashed is not None  # one of the two is there while the input is open
            return self._hashed.hexdigest()
        except OSError as error:
            raise unreadable(self.name, error) from error

    def blocks(self, *, copying: bool = False) -> Iterator[Block]:
        """All rows in file order.

        Args:
            copying: Whether pages may come as they are.

        Raises:
            DamageError: a page does not match its checksum, or cannot be decoded.
            ConfigError: a vector that does not fit (foreign files).
        """
        try:
            yield from self._blocks(copying)
        except UNREADABLE as error:
            raise unreadable(self.name, error) from error

    def _blocks(self, copying: bool) -> Iterator[Block]:
        """Vectors by the decoders of this package as far as these go, the rest by pyarrow."""
        ours = self._is_ours()
        done = 0
        try:
            for block in self._own_blocks(copying) if ours else self._foreign_blocks():
                yield block
                done += block.others.num_rows
            return
        except NotOurs as error:
            if ours and sc.KEY_VERSION in footer_of(self._parquet):
                raise DamageError(f"{self.name} is damaged: {error}, which its footer does not tell") from error
            # else pyarrow may have been told to write pages of version 2, which a footer does not say
        yield from self._read_by_pyarrow(done)

    def close(self) -> None:
        """Close the file."""
        working_on("")
        if self._hashed is not None:
            self._hashed.close()
            self._hashed = None
        self._whole = None

    def __enter__(self) -> Input:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_ours(self) -> bool:
        """Whether the vector pages are of the kind that is decoded here."""
        schema = self._schema
        pyarrow = str(self._parquet.metadata.created_by).startswith("parquet-cpp-arrow")
        if not pyarrow and sc.KEY_VERSION not in footer_of(self._parquet):
            return False  # others may repeat levels in another pattern, which only the general reader checks
        if not self._matched.same:
            return False
        kinds = {"RLE", "BYTE_STREAM_SPLIT" if schema.vector_type == "float32" else "PLAIN"}
        for column in self._columns:
            if column.compression != "ZSTD" or column.has_dictionary_page or not set(column.encodings) <= kinds:
                return False
        return True

    def _own_blocks(self, copying: bool) -> Iterator[Block]:
        schema, parquet = self._schema, self._parquet
        names = schema.others.names
        for group, column in enumerate(self._columns):
            others = to_others(self.name, parquet.read_row_group(group, columns=names, use_threads=False), schema)
            if column.num_values != others.num_rows * schema.dim:
                raise PageDamage(f"row group {group} has {column.num_values} numbers for {others.num_rows} rows")
            start = 0
            place = (column.data_page_offset, column.total_compressed_size, column.num_values)
            for vectors in self._kept.own.read(self._read_at, place, copying=copying):
                n_rows = vectors.rows if isinstance(vectors, EncodedPage) else len(vectors)
                yield Block(others if n_rows == others.num_rows else others.slice(start, n_rows), vectors)
                start += n_rows

    def _read_at(self, offset: int, count: int) -> memoryview:
        if self._whole is not None:
            return self._whole[offset : offset + count]
        assert self._hashed is not None  # one of the two is there while the input is open
        return self._hashed.read_at(offset, count)

    def _foreign_blocks(self) -> Iterator[Block]:
        schema = self._schema
        chunks = self._foreign_chunks()
        others = OthersInOrder(self.name, self._batches([source for source, _ in schema.sources]), schema)
        for chunk in chunks:
            for matrix in self._kept.foreign.read(self._read_at, chunk):
                yield Block(others.take(len(matrix)), matrix)

    def _read_by_pyarrow(self, done: int) -> Iterator[Block]:
        """All rows but the first `done`."""
        self.sha256()  # reads the file once, in order; what follows comes out of the page cache
        first_row = 0
        for batch in self._batches(None):
            behind = first_row + batch.num_rows
            if behind > done:
                skip = max(0, done - first_row)
                yield self._block(batch.slice(skip), first_row + skip)
            first_row = behind

    def _foreign_chunks(self) -> list[ForeignChunk]:
        """The chunks of the vectors.

        Raises:
            NotOurs: they need the general reader.
        """
        schema = self._schema
        column = self._parquet.schema.column(self._matched.vectors)
        half = schema.dtype.itemsize == 2
        if column.max_repetition_level != 1 or column.physical_type != ("FIXED_LEN_BYTE_ARRAY" if half else "FLOAT"):
            raise NotOurs("vectors of another shape or type")
        if any("." in source for source, _ in schema.sources):  # pyarrow takes that for a path
            raise NotOurs("a column's name with a dot")
        chunks = []
        for group, chunk in zip(self._groups, self._columns, strict=True):
            if chunk.compression not in CODECS or chunk.num_values != group.num_rows * schema.dim:
                raise NotOurs("another codec, or lists of another length")
            place = (first_page(chunk), chunk.total_compressed_size, chunk.num_values)
            chunks.append(ForeignChunk(place, chunk.compression, column.max_definition_level))
        return chunks

    def _batches(self, columns: list[str] | None) -> Iterator[pa.RecordBatch | pa.Table]:
        """All rows in portions of about a page of vectors, at once when they are few; some or all columns."""
        if self._whole is not None and self.rows * self._row_bytes <= WHOLE_BYTES:
            yield self._parquet.read(columns=columns, use_threads=False)
            return
        batch_rows = max(1, _BATCH_BYTES // self._row_bytes)
        yield from self._parquet.iter_batches(batch_size=batch_rows, columns=columns, use_threads=False)

    def _block(self, batch: pa.RecordBatch | pa.Table, first_row: int) -> Block:
        schema = self._schema
        matrix = to_matrix(self.name, batch.column(schema.vector_source), schema, first_row)
        return Block(to_others(self.name, batch, schema), matrix)


def check_committed(path: Path, name: str, sha256: str, error: EngineError) -> NoReturn:
    """Raise `error`, which an input has caused; as damage when the file is not the one that was committed.

    A flipped bit in a footer can look like another schema or another count: the SHA-256 tells.
    """
    if sha256:
        with contextlib.suppress(OSError):
            whole = HashedFile(path)
            try:
                found = whole.hexdigest()
            finally:
                whole.close()
            if found != sha256:
                raise DamageError(
                    f"{name} is not what was committed (another SHA-256; {error}): restore it from a copy; "
                    "nothing was removed"
                ) from error
    raise error


def unreadable(name: str, error: Exception) -> DamageError | SinkError:
    """What a failed read of an input is to the user."""
    if isinstance(error, FileNotFoundError):
        return DamageError(f"{name} is missing: restore it from a copy")
    if isinstance(error, OSError) and error.errno in _OUT_OF_RESOURCES:
        return SinkError(f"cannot open {name} ({error.strerror}): raise the limit of open files, or use fewer --jobs")
    reason = getattr(error, "strerror", None) or (str(error) or type(error).__name__).splitlines()[0]
    return DamageError(f"{name} cannot be read ({reason}): restore it from a copy")
