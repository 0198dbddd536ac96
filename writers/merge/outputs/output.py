"""An output of a merge while it is written, and the proof that it holds what was put in.

Rows are counted in before they are encoded: their number, their ids' digest, and the sum of their hashes (ids, carried
values and vectors together). pyarrow writes them, a row group at a time.

`seal` closes the file, opens it anew and decodes it from its own footer (writers/merge/outputs/check.py): every row
against its hash taken before, in their order, every page against its checksum. Only then is the file made durable.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import DamageError, SinkError
from engine.ledger import durable
from writers.files.new_file import NewFile
from writers.merge.outputs.check import read_again
from writers.merge.outputs.row_group import GroupSum, RowGroup
from writers.parquet.arrow_types import row_bytes
from writers.parquet.inputs import BLOCK_BYTES, Block
from writers.parquet.merge_schema import MergeSchema
from writers.parquet.opening import UNREADABLE, unreadable
from writers.proof.digests import MASK, Matrix, RowHasher, Words, total
from writers.shards.schema import (
    EMBEDDING,
    KEY_ID_DIGEST,
    KEY_ROW_DIGEST,
    KEY_ROWS,
    combine_digests,
    id_digest,
    id_text,
    writer_options,
)

_USUAL_BYTES, _HELD_BYTES = 64 << 20, 12 << 20
"""pyarrow takes a row group at once, so it is held until it is full: less than the usual size keeps memory within its
bound (docs/protocols/merge.md); who asks for more than the usual size gets it, and needs that memory."""


@dataclass(slots=True)
class Sums:
    """What proves that rows came through; does not depend on their order.

    Attributes:
        rows: How many.
        digest: Sum of the rows' hashes (`writers.proof.digests`).
        id_digests: `writers.shards.schema.id_digest` of each part.
    """

    rows: int = 0
    digest: int = 0
    id_digests: list[str] = field(default_factory=list)

    def add(self, others: pa.Table, hashes: Words) -> None:
        """Count rows in.

        Args:
            others: All columns but the vectors, the ids first.
            hashes: Of these rows.
        """
        self.rows += len(hashes)
        self.digest = (self.digest + total(hashes)) & MASK
        self.id_digests = [combine_digests([*self.id_digests, id_digest(others.column(0))])]

    @property
    def id_digest(self) -> str:
        """The digest of all ids."""
        return combine_digests(self.id_digests)

    @property
    def digest_text(self) -> str:
        """As it stands in ledgers and footers."""
        return f"{self.digest:016x}"


class Output:
    """An output that is being written.

    Attributes:
        path: The file, which has no final name.
        rows: Rows appended so far.
        sums: Of the row groups written so far.
    """

    def __init__(self, path: Path, schema: MergeSchema, *, row_group_bytes: int, sorted_by_id: bool) -> None:
        """Create the file.

        Args:
            path: The file.
            schema: Of its columns.
            row_group_bytes: Most bytes of a row group before compression, vectors and everything else together; what
                is not more than the usual 64 MiB becomes 12 MiB at most.
            sorted_by_id: Whether the rows come sorted, which the footer says then.

        Raises:
            SinkError: the device refused.
        """
        self.path = path
        self.rows = 0
        self.sums = Sums()
        self._schema = schema
        self._sorted = sorted_by_id
        self._hasher = RowHasher(schema.dim, schema.dtype.itemsize)
        self._vector_type = schema.arrow.field(EMBEDDING).type
        self._row_bytes = row_bytes(schema.others)
        self._piece_rows = max(1, min(BLOCK_BYTES, row_group_bytes // 8) // (schema.dim * schema.dtype.itemsize))
        large = row_group_bytes > _USUAL_BYTES
        self._most_group_bytes = row_group_bytes if large else min(row_group_bytes, _HELD_BYTES)
        self._group = RowGroup(schema, self._hasher)  # the row group that is not written yet
        rows = max(self._piece_rows, self._most_group_bytes // (schema.dim * schema.dtype.itemsize))
        self._vectors: Matrix = np.empty((rows, schema.dim), dtype=schema.dtype)  # of that row group; used again
        self._group_bytes = 0
        self._groups: list[GroupSum] = []
        self._ends: tuple[str, str] = ("", "")
        options = writer_options(schema.arrow)
        options["data_page_size"] = min(int(options["data_page_size"]), max(1, row_group_bytes // 8))
        order = [pq.SortingColumn(0)] if sorted_by_id else None
        try:
            self._file = NewFile(path)
            self._writer = pq.ParquetWriter(
                self._file, schema.arrow, write_page_index=True, sorting_columns=order, **options
            )
        except OSError as error:
            raise self.refused(error) from error

    def append(self, block: Block) -> None:
        """Append rows.

        Raises:
            SinkError: the device refused.
        """
        others, vectors = block
        for start in range(0, len(vectors), self._piece_rows):  # pieces that stay in the core's cache are quicker
            if len(vectors) <= self._piece_rows:
                self._take(others, vectors)
            else:
                piece = slice(start, start + self._piece_rows)
                self._take(others.slice(start, self._piece_rows), vectors[piece])

    def seal(self, footer: dict[bytes, bytes], row_digest: str = "") -> dict[str, Any]:
        """Close, re-open and compare, fsync; returns the facts for the MERGED record.

        Args:
            footer: Key-value metadata, without what depends on the rows.
            row_digest: What the inputs' footers say of the sum of all rows' hashes; empty when they do not all.

        Raises:
            SinkError: the device refused.
            DamageError: the file does not hold what was appended, or not what the inputs' footers say.
        """
        try:
            self._write_group()
            if row_digest and row_digest != self.sums.digest_text:
                raise DamageError(
                    f"the rows read for {self.path} have digest {self.sums.digest_text}, the footers of its "
                    f"sources say {row_digest}: one of them was damaged when it was written; verify them"
                )
            durable.point("merge.before_close")
            own = {
                KEY_ROWS: str(self.sums.rows).encode(),
                KEY_ID_DIGEST: self.sums.id_digest.encode(),
                KEY_ROW_DIGEST: self.sums.digest_text.encode(),
            }
            self._writer.add_key_value_metadata({**footer, **own})
            self._writer.close()
            durable.point("merge.after_close")
        except OSError as error:
            raise self.refused(error) from error
        sha256 = self._check()
        durable.point("merge.after_check")
        try:
            durable.fsync_file(self._file.fd)
        except OSError as error:
            raise self.refused(error) from error
        durable.point("merge.after_fsync")
        os.close(self._file.fd)
        return {
            "bytes": self._file.size_bytes,
            "sha256": sha256,
            "rows": self.sums.rows,
            "id_digest": self.sums.id_digest,
            "row_digest": self.sums.digest_text,
            "first_id": self._ends[0],
            "last_id": self._ends[1],
        }

    def abort(self) -> None:
        """Throw the file away."""
        self._file.discard()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def refused(self, error: OSError) -> SinkError:
        """What an error of the output device is to the user."""
        folder = self.path.parent
        try:
            stats = os.statvfs(folder)
            free = f"{stats.f_bavail * stats.f_frsize >> 20} MiB free"
        except OSError:
            free = "free space unknown"
        return SinkError(
            f"cannot write {self.path} ({error.strerror or error}; {free}): free space or repair the device, then run "
            "the same command again; finished files and all sources are untouched"
        )

    def _take(self, others: pa.Table, matrix: Matrix) -> None:
        size = (others.nbytes if self._row_bytes is None else self._row_bytes * len(matrix)) + matrix.nbytes
        if self._group_bytes + size > self._most_group_bytes:
            self._write_group()
        self._vectors[self._group.rows : self._group.rows + len(matrix)] = matrix
        self._group.add(others, matrix)
        self.rows += len(matrix)
        self._group_bytes += size

    def _write_group(self) -> None:
        """Count the rows of the row group in, and write it, unless it is empty."""
        if not self._group.rows:
            return
        others, hashes, group_sum = self._group.finish()
        flat = pa.array(self._vectors[: len(others)].reshape(-1))
        whole = pa.FixedSizeListArray.from_arrays(flat, type=self._vector_type)
        starts = range(0, len(others), self._piece_rows)
        vectors = pa.chunked_array([whole.slice(start, self._piece_rows) for start in starts])
        self._group, self._group_bytes = RowGroup(self._schema, self._hasher), 0
        ids = others.column(0)
        self._ends = (self._ends[0] if self.sums.rows else id_text(ids[0]), id_text(ids[-1]))
        self.sums.add(others, hashes)
        self._groups.append(group_sum)
        table = others.append_column(self._schema.arrow.field(EMBEDDING), vectors)
        try:
            self._writer.write_table(table, row_group_size=table.num_rows)
        except OSError as error:
            raise self.refused(error) from error

    def _check(self) -> str:
        """Compare the closed file with what was put in; returns the SHA-256 of the bytes that were read.

        Raises:
            DamageError: it holds something else.
        """
        try:
            found = read_again(self.path, self._schema, self._hasher, self._groups, in_order=self._sorted)
        except UNREADABLE as error:
            raise unreadable(str(self.path), error) from error
        mine = (self.sums.rows, self.sums.id_digest, self._file.size_bytes)
        theirs = (found.rows, found.id_digest, os.fstat(self._file.fd).st_size)
        if mine != theirs:
            raise DamageError(
                f"{self.path} does not hold what was written (rows, id digest, bytes {theirs}, expected {mine}): "
                "the memory or the device is failing; all sources are untouched"
            )
        return found.sha256
