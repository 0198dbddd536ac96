"""An output of a merge while it is written, and the proof that it holds what was put in.

Rows are counted in before they are encoded: their number, their ids' digest, and the sum of their hashes (ids, carried
values and vectors together). pyarrow writes them, a row group at a time.

`seal` closes the file, opens it anew and decodes it from its own footer (writers/merge/check.py): every row against its
hash taken before, in their order, every page against its checksum. Only then is the file made durable.
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
from writers.merge.check import GroupSum, read_again
from writers.parquet.foreign import MergeSchema
from writers.parquet.inputs import BLOCK_BYTES, Block
from writers.parquet.opening import UNREADABLE, unreadable
from writers.proof.digests import MASK, OrderedSum, RowHasher, Words, total
from writers.shards.new_file import NewFile
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
        self.rows += others.num_rows
        self.digest = (self.digest + total(hashes)) & MASK
        self.id_digests.append(id_digest(others.column(0)))
        if len(self.id_digests) > 256:
            self.id_digests = [self.id_digest]

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
        sums: Of the rows counted in so far.
    """

    def __init__(self, path: Path, schema: MergeSchema, *, row_group_bytes: int, sorted_by_id: bool) -> None:
        """Create the file.

        Args:
            path: The file.
            schema: Of its columns.
            row_group_bytes: Bytes of a row group before compression, vectors and everything else together.
            sorted_by_id: Whether the rows come sorted, which the footer says then.

        Raises:
            SinkError: the device refused.
        """
        self.path = path
        self.sums = Sums()
        self._schema = schema
        self._sorted = sorted_by_id
        self._hasher = RowHasher(schema.dim, schema.dtype.itemsize)
        self._vector_type = schema.arrow.field(EMBEDDING).type
        self._row_bytes = schema.dim * schema.dtype.itemsize
        self._piece_rows = max(1, min(BLOCK_BYTES, row_group_bytes // 8) // self._row_bytes)
        self._pending: list[Block] = []
        self._n_pending = 0
        self._group: list[pa.Table] = []  # pieces of the row group that is not written yet
        self._group_bytes = 0
        self._most_group_bytes = row_group_bytes
        self._group_sum = OrderedSum()
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
        """Append rows; the block's memory is kept until its row group is written.

        Raises:
            SinkError: the device refused.
        """
        others, vectors = block
        start = 0
        while start < len(vectors):
            count = min(len(vectors) - start, self._piece_rows - self._n_pending)
            whole = count == len(vectors)
            self._pending.append(block if whole else Block(others.slice(start, count), vectors[start : start + count]))
            self._n_pending += count
            start += count
            if self._n_pending == self._piece_rows:
                self._take_piece()

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
            self._take_piece()
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

    def _take_piece(self) -> None:
        """Count the pending rows in; they go into the row group, and that into the file when it is full."""
        if not self._n_pending:
            return
        others = pa.concat_tables([block.others for block in self._pending]).combine_chunks()
        parts = [block.vectors for block in self._pending]
        matrix = parts[0] if len(parts) == 1 else np.concatenate(parts)
        self._pending, self._n_pending = [], 0
        ids = others.column(0)
        self._ends = (self._ends[0] if self.sums.rows else id_text(ids[0]), id_text(ids[-1]))
        size = others.nbytes + matrix.nbytes
        if self._group_bytes + size > self._most_group_bytes:
            self._write_group()
        hashes = self._hasher.row_hashes(others, matrix)
        self.sums.add(others, hashes)
        self._group_sum.add(hashes)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), type=self._vector_type)
        self._group.append(others.append_column(self._schema.arrow.field(EMBEDDING), vectors))
        self._group_bytes += size

    def _write_group(self) -> None:
        if not self._group:
            return
        table = pa.concat_tables(self._group)
        self._group, self._group_bytes = [], 0
        self._groups.append(GroupSum(self._group_sum.rows, self._group_sum.digest))
        self._group_sum = OrderedSum()
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
