"""One input file of a merge: its ids, its rows in blocks, and the SHA-256 of exactly the bytes they came from.

A small file is read whole, once; of a large one every byte passes through the hash on its way to pyarrow. At most one
input of a worker is open at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

from engine.errors import DamageError
from writers.files.hashed_file import HashedFile
from writers.parquet.access import FileAccess
from writers.parquet.merge_schema import Matcher
from writers.parquet.opening import UNREADABLE, footer_of, open_parquet, unreadable
from writers.parquet.rows import to_matrix, to_others
from writers.proof.digests import Matrix
from writers.shards import schema
from writers.workers.current_file import working_on

WHOLE_BYTES = 2 << 20
"""Files up to that size are read into memory in one go."""

BLOCK_BYTES = 1 << 20
"""Of vectors that are decoded at once."""

_IDS_AT_ONCE = 65_536


class Block(NamedTuple):
    """Some rows of an input.

    Attributes:
        others: All columns but the vectors.
        vectors: Their vectors, (n_rows, dim), contiguous.
    """

    others: pa.Table
    vectors: Matrix


class Input:
    """An open input; of those that share memory for small files, one at a time.

    Attributes:
        name: As it is called in messages and lineage.
        size_bytes: Size of the file.
        mtime_ns: When it was last written.
        rows: Rows by its footer.
    """

    def __init__(
        self,
        path: str,
        name: str,
        matcher: Matcher,
        small: memoryview,
        access: FileAccess,
        *,
        checksums: bool = True,
    ) -> None:
        """Open a file and compare its footer with the schema.

        Args:
            path: The file.
            name: As it is called in messages and lineage.
            matcher: Compares it with the schema.
            small: Memory for a file that fits: fresh memory costs more than reading such a file.
            access: Opens the file.
            checksums: Whether checksums of pages are compared; not where the SHA-256 of the whole file is, which tells
                more.

        Raises:
            DamageError: it is missing, cannot be read, or has no sound footer.
            ConfigError: it does not fit the schema.
            SinkError: this process is out of file handles or memory.
        """
        self.name = name
        self._schema = matcher.schema
        self._row_bytes = matcher.schema.dim * matcher.schema.dtype.itemsize
        self._file: HashedFile | None = None
        self._whole: memoryview | None = None
        working_on(name)
        try:
            self._file = access.hashed(path)
            self.size_bytes, self.mtime_ns = self._file.size_bytes, self._file.mtime_ns
            if self.size_bytes <= len(small):
                self._whole = self._file.read_whole(small)
                source = pa.BufferReader(pa.py_buffer(self._whole))
                self._parquet = open_parquet(name, source, in_memory=True, checksums=checksums)
            else:
                self._parquet = open_parquet(name, pa.PythonFile(self._file, mode="r"), checksums=checksums)
            self.rows = int(self._parquet.metadata.num_rows)
            self._footer = footer_of(self._parquet)
            self._vectors = matcher.check(name, self._parquet, self._footer)
        except BaseException as error:
            self.close()
            if isinstance(error, UNREADABLE):
                raise unreadable(name, error) from error
            raise

    @property
    def row_digest(self) -> str:
        """What the footer says of the sum of all rows' hashes; empty when it does not."""
        return self._digest(schema.KEY_ROW_DIGEST, 16)

    @property
    def id_digest(self) -> str:
        """What the footer says of the digest of all ids; empty when it does not."""
        return self._digest(schema.KEY_ID_DIGEST, 32)

    def _digest(self, key: bytes, length: int) -> str:
        said = self._footer.get(key, b"").decode(errors="replace")
        return said if len(said) == length and set(said) <= set("0123456789abcdef") else ""

    def other_bytes(self) -> int:
        """Bytes of all columns but the vectors, encoded but not compressed, by the footer."""
        groups = map(self._parquet.metadata.row_group, range(self._parquet.num_row_groups))
        return sum(group.total_byte_size - group.column(self._vectors).total_uncompressed_size for group in groups)

    def sha256(self) -> str:
        """SHA-256 of the file, of the bytes that `blocks` has read where it has read them."""
        try:
            if self._whole is not None:
                return hashlib.sha256(self._whole).hexdigest()
            assert self._file is not None  # it is open
            return self._file.hexdigest()
        except OSError as error:
            raise unreadable(self.name, error) from error

    def ids(self) -> Iterator[pa.Array]:
        """The ids in file order; of a file that is not in memory nothing else is read.

        Raises:
            DamageError: they cannot be read.
        """
        source, kind = self._schema.sources[0]
        try:
            for batch in self._parquet.iter_batches(_IDS_AT_ONCE, columns=[source], use_threads=False):
                column = batch.column(source)
                yield column if column.type == kind else column.cast(kind)
        except UNREADABLE as error:
            raise unreadable(self.name, error) from error

    def blocks(self) -> Iterator[Block]:
        """All rows in file order.

        Raises:
            DamageError: a page does not match its checksum, or cannot be decoded; or there are other rows than the
                footer says.
            ConfigError: a vector that does not fit (foreign files).
        """
        first_row = 0
        try:
            for batch in self._batches():
                vectors = batch.column(self._schema.vector_source)
                matrix = to_matrix(self.name, vectors, self._schema, first_row)
                if len(matrix) != batch.num_rows:
                    raise ValueError(f"{len(matrix)} vectors for {batch.num_rows} ids")
                yield Block(to_others(self.name, batch, self._schema), matrix)
                first_row += batch.num_rows
        except UNREADABLE as error:
            raise unreadable(self.name, error) from error
        if first_row != self.rows:
            raise DamageError(f"{self.name} holds {first_row} rows, its footer says {self.rows}: restore it")

    def _batches(self) -> Iterator[pa.RecordBatch | pa.Table]:
        """All rows in portions of about a block, at once when they are few."""
        if self._whole is not None and self.rows * self._row_bytes <= BLOCK_BYTES:
            yield self._parquet.read(use_threads=False)
            return
        assert self._file is not None  # it is open
        self._file.hashing = True
        yield from self._parquet.iter_batches(max(1, BLOCK_BYTES // self._row_bytes), use_threads=False)

    def close(self) -> None:
        """Close the file."""
        working_on("")
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Input:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
