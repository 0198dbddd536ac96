"""An output of a merge while it is written, and the proof that it holds what was put in.

Rows are counted in before they are encoded: their number, their ids' digest, and the sum of their hashes (ids, carried
values and vectors together). Vector pages that an input holds in the very form of an output are copied; for them the
page's CRC-32, compared when the input was read, stands in for the vectors, and the input's SHA-256 for the page.

`seal` closes the file, opens it anew, and decodes it from its own footer: pages in their order with the checksums they
were made or copied with, rows that were encoded here against their hashes taken before, in their order. pyarrow, the
general reader, decodes a sample besides. Only then is the file made durable.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine.errors import DamageError, SinkError
from engine.ledger import durable
from writers.merge.check import PageFacts, PageSums, Rereader
from writers.merge.file import MergeFile
from writers.parquet.foreign import MergeSchema
from writers.parquet.inputs import UNREADABLE, Block, unreadable
from writers.parquet.pages import EncodedPage, Matrix
from writers.parquet.vector_file import VectorFileWriter
from writers.proof.digests import MASK, RowHasher, Words, ordered, total
from writers.shards import schema as sc


@dataclass(slots=True)
class Sums:
    """What proves that rows came through; does not depend on their order.

    Attributes:
        rows: How many.
        digest: Sum of the rows' hashes (`writers.proof.digests`), without the vectors of copied pages.
        id_digests: `writers.shards.schema.id_digest` of each part.
    """

    rows: int = 0
    digest: int = 0
    id_digests: list[str] = field(default_factory=list)

    def add(self, hasher: RowHasher, others: pa.Table, matrix: Matrix | None) -> None:
        """Count rows in."""
        self.add_hashed(others, hasher.row_hashes(others, matrix))

    def add_hashed(self, others: pa.Table, hashes: Words) -> None:
        """Count rows in whose hashes are known."""
        self.rows += others.num_rows
        self.digest = (self.digest + total(hashes)) & MASK
        self.id_digests.append(sc.id_digest(others.column(0)))
        if len(self.id_digests) > 256:
            self.id_digests = [sc.combine_digests(self.id_digests)]

    @property
    def id_digest(self) -> str:
        """The digest of all ids."""
        return sc.combine_digests(self.id_digests)

    @property
    def digest_text(self) -> str:
        """As it stands in ledgers and footers."""
        return f"{self.digest:016x}"


class Output:
    """An output that is being written.

    Attributes:
        path: The file, which has no final name.
        sums: Of the rows appended so far.
    """

    def __init__(
        self, path: Path, schema: MergeSchema, *, row_group_bytes: int, sorted_by_id: bool, expected_rows: int
    ) -> None:
        """Create the file.

        Raises:
            SinkError: the device refused.
        """
        self.path = path
        self.sums = Sums()
        self._schema = schema
        self._sorted = sorted_by_id
        self._hasher = RowHasher(schema.dim, schema.dtype.itemsize)
        self._page_sums: list[PageSums] = []
        self._n_pending = 0
        self._others: list[pa.Table] = []
        self._ends: tuple[str, str] = ("", "")
        try:
            self._file = MergeFile(path)
        except OSError as error:
            raise self.refused(error) from error
        try:
            self._writer = VectorFileWriter(
                self._file,
                schema.arrow,
                row_group_bytes=row_group_bytes,
                sorted_by_id=sorted_by_id,
                expected_rows=expected_rows,
            )
        except OSError as error:
            raise self.refused(error) from error
        self._rows = self._writer.page_rows
        self._pending: Matrix = np.empty((self._rows, schema.dim), dtype=schema.dtype)

    def append(self, block: Block) -> None:
        """Append rows.

        Raises:
            SinkError: the device refused.
        """
        try:
            if isinstance(block.vectors, EncodedPage):
                self._flush()
                self._count(block.others, None)
                self._writer.append_page(block.others, block.vectors)
            else:
                self._append_rows(block.others, block.vectors)
        except OSError as error:
            raise self.refused(error) from error

    def _append_rows(self, others: pa.Table, matrix: Matrix) -> None:
        start = 0
        while start < len(matrix):
            count = min(len(matrix) - start, self._rows - self._n_pending)
            if count == self._rows:  # a whole page needs no copy
                piece = others.slice(start, count)
                self._count(piece, matrix[start : start + count])
                self._writer.append(piece, matrix[start : start + count])
            else:
                self._pending[self._n_pending : self._n_pending + count] = matrix[start : start + count]
                self._others.append(others.slice(start, count) if count < len(matrix) else others)
                self._n_pending += count
                if self._n_pending == self._rows:
                    self._flush()
            start += count

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
            self._flush()
            if not any(page.copied for page in self._page_sums):
                if row_digest and row_digest != self.sums.digest_text:
                    raise DamageError(
                        f"the rows read for {self.path} have digest {self.sums.digest_text}, the footers of its "
                        f"sources say {row_digest}: one of them was damaged when it was written; verify them"
                    )
                row_digest = self.sums.digest_text
            durable.point("merge.before_close")
            self._writer.close({**footer, **self._own_footer(row_digest)})
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
            "row_digest": row_digest,
            "first_id": self._ends[0],
            "last_id": self._ends[1],
        }

    def abort(self) -> None:
        """Throw the file away."""
        with contextlib.suppress(OSError, AttributeError):  # an error of close changes nothing for a file that goes
            os.close(self._file.fd)
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

    def _flush(self) -> None:
        if not self._n_pending:
            return
        others = pa.concat_tables(self._others).combine_chunks()
        matrix = self._pending[: self._n_pending]
        self._count(others, matrix)
        self._writer.append(others, matrix)
        self._others = []
        self._n_pending = 0

    def _count(self, others: pa.Table, matrix: Matrix | None) -> None:
        ids = others.column(0)
        if not self.sums.rows:
            self._ends = (sc.id_text(ids[0]), "")
        self._ends = (self._ends[0], sc.id_text(ids[-1]))
        hashes = self._hasher.row_hashes(others, matrix)
        self.sums.add_hashed(others, hashes)
        # What is counted in one call makes one page: the writer gets full pages, or the rest before a copied one.
        self._page_sums.append(PageSums(ordered(hashes), copied=matrix is None))

    def _own_footer(self, row_digest: str) -> dict[bytes, bytes]:
        footer = {sc.KEY_ROWS: str(self.sums.rows).encode(), sc.KEY_ID_DIGEST: self.sums.id_digest.encode()}
        return {**footer, sc.KEY_ROW_DIGEST: row_digest.encode()} if row_digest else footer

    def _check(self) -> str:
        """Decode the file from its own footer and compare; returns the SHA-256 of the bytes that were read.

        Raises:
            DamageError: it holds something else.
        """
        log = [
            PageFacts(n_rows, crc, sums)
            for (n_rows, crc, _), sums in zip(self._writer.page_log, self._page_sums, strict=True)
        ]
        reader = Rereader(self.path, self._schema, self._hasher, log)
        try:
            rows, id_digest = reader.read(in_order=self._sorted)
        except UNREADABLE as error:
            raise unreadable(str(self.path), error) from error
        mine = (self.sums.rows, self.sums.id_digest, self._file.size_bytes)
        theirs = (rows, id_digest, os.fstat(self._file.fd).st_size)
        if mine != theirs:
            raise DamageError(
                f"{self.path} does not hold what was written (rows, id digest, bytes {theirs}, expected {mine}): "
                "the memory or the device is failing; all sources are untouched"
            )
        return reader.sha256
