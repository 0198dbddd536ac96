"""One output of a merge: from its inputs to a complete, checked, fsynced file that has no final name yet.

    open NAME.inprogress -> rows of every input, hashed as they are decoded; each input's SHA-256 against the ledger
    -> close -> re-open, decode everything again: rows, id digest, row digest (ids, carried values and vectors
    together), order when sorted -> spot check by pyarrow, the general reader -> fsync

Naming it and recording it is the coordinator's business (writers/merge.py); a worker can be killed at any moment.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from engine import durable
from engine.channels import Message
from engine.errors import DamageError, EngineError, SinkError
from writers import schema as sc
from writers.digests import MASK, RowHasher, total
from writers.foreign import Matcher, MergeSchema
from writers.inputs import UNREADABLE, WHOLE_BYTES, Block, Input, check_committed, unreadable
from writers.merge_drops import dropped_rows
from writers.merge_ledger import PlannedInput, read_group
from writers.pages import Matrix
from writers.pool import Report
from writers.shard import HashingFile
from writers.vector_file import VectorFileWriter

_SPOT_ROWS = 1024
_REPORT_ROWS = 8192


@dataclass(slots=True)
class Sums:
    """What proves that rows came through: independent of their order.

    Attributes:
        rows: How many.
        row_digest: Sum of the rows' hashes (`writers.digests`).
        id_digests: `writers.schema.id_digest` of each part.
    """

    rows: int = 0
    row_digest: int = 0
    id_digests: list[str] = field(default_factory=list)

    def add(self, hasher: RowHasher, others: pa.Table, matrix: Matrix) -> None:
        """Count rows in."""
        self.rows += len(matrix)
        self.row_digest = (self.row_digest + total(hasher.row_hashes(others, matrix))) & MASK
        self.add_ids(others.column(0))

    def add_ids(self, ids: pa.ChunkedArray) -> None:
        """Count ids in."""
        self.id_digests.append(sc.id_digest(ids))
        if len(self.id_digests) > 256:
            self.id_digests = [sc.combine_digests(self.id_digests)]

    @property
    def id_digest(self) -> str:
        """The digest of all ids."""
        return sc.combine_digests(self.id_digests)

    @property
    def row_digest_text(self) -> str:
        """As it stands in ledger and footer."""
        return f"{self.row_digest:016x}"


class Output:
    """An output that is being written.

    Attributes:
        sums: Of the rows appended so far, taken before they were encoded.
    """

    def __init__(self, path: Path, schema: MergeSchema, *, row_group_bytes: int, sorted_by_id: bool) -> None:
        """Create the file.

        Raises:
            SinkError: the device refused.
        """
        self.path = path
        self.sums = Sums()
        self._schema = schema
        self._sorted = sorted_by_id
        self._hasher = RowHasher(schema.dim, schema.dtype.itemsize)
        self._n_pending = 0
        self._others: list[pa.Table] = []
        self._ends: tuple[str, str] = ("", "")
        try:
            self._file = HashingFile(path)
        except OSError as error:
            raise self.refused(error) from error
        try:
            self._writer = VectorFileWriter(
                self._file, schema.arrow, row_group_bytes=row_group_bytes, sorted_by_id=sorted_by_id
            )
        except OSError as error:
            raise self.refused(error) from error
        self._rows = self._writer.page_rows
        self._pending: Matrix = np.empty((self._rows, schema.dim), dtype=schema.dtype)

    @property
    def first_id(self) -> str:
        """First id in file order, as text."""
        return self._ends[0]

    @property
    def last_id(self) -> str:
        """Last id in file order, as text."""
        return self._ends[1]

    def append(self, block: Block) -> None:
        """Append rows.

        Raises:
            SinkError: the device refused.
        """
        try:
            if block.page is not None and not self._n_pending:
                self._count(block.others, block.matrix)
                self._writer.append_page(block.others, block.page)
                return
            start = 0
            while start < len(block.matrix):
                count = min(len(block.matrix) - start, self._rows - self._n_pending)
                if count == self._rows:
                    others, matrix = block.others.slice(start, count), block.matrix[start : start + count]
                    self._count(others, matrix)
                    self._writer.append(others, matrix)
                    start += count
                    continue
                self._pending[self._n_pending : self._n_pending + count] = block.matrix[start : start + count]
                self._others.append(block.others.slice(start, count))
                self._n_pending += count
                start += count
                if self._n_pending == self._rows:
                    self._flush()
        except OSError as error:
            raise self.refused(error) from error

    def seal(self, footer: dict[bytes, bytes]) -> dict[str, Any]:
        """Close, re-open and compare, fsync; returns the facts for the MERGED record.

        Raises:
            SinkError: the device refused.
            DamageError: the file does not hold what was appended.
        """
        try:
            self._flush()
            durable.point("merge.before_close")
            self._writer.close({**footer, **self._own_footer()})
            durable.point("merge.after_close")
        except OSError as error:
            raise self.refused(error) from error
        self._check()
        durable.point("merge.after_check")
        try:
            durable.fsync_file(self._file.fd)
        except OSError as error:
            raise self.refused(error) from error
        durable.point("merge.after_fsync")
        os.close(self._file.fd)
        return {
            "bytes": self._file.size_bytes,
            "sha256": self._file.sha256.hexdigest(),
            "rows": self.sums.rows,
            "id_digest": self.sums.id_digest,
            "row_digest": self.sums.row_digest_text,
            "first_id": self.first_id,
            "last_id": self.last_id,
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

    def _count(self, others: pa.Table, matrix: Matrix) -> None:
        ids = others.column(0)
        if not self.sums.rows:
            self._ends = (sc.id_text(ids[0]), "")
        self._ends = (self._ends[0], sc.id_text(ids[-1]))
        self.sums.add(self._hasher, others, matrix)

    def _own_footer(self) -> dict[bytes, bytes]:
        return {
            sc.KEY_ROWS: str(self.sums.rows).encode(),
            sc.KEY_ID_DIGEST: self.sums.id_digest.encode(),
            sc.KEY_ROW_DIGEST: self.sums.row_digest_text.encode(),
        }

    def _check(self) -> None:
        """Decode the file from its own footer, every row of it, and compare."""
        found = Sums()
        order = _Order() if self._sorted else None
        spots: list[Block] = []
        matcher = Matcher(self._schema.of_outputs())
        with Input(self.path, str(self.path), matcher, hashing=False, checked=False) as opened:
            for block in opened.blocks():
                found.add(self._hasher, block.others, block.matrix)
                if order is not None and not order.goes_on(block.others.column(0)):
                    raise DamageError(f"{self.path} is not sorted by id: report this; all sources are untouched")
                if not spots:
                    spots.append(Block(block.others, block.matrix.copy()))
        mine = (self.sums.rows, self.sums.id_digest, self.sums.row_digest)
        theirs = (found.rows, found.id_digest, found.row_digest)
        if mine != theirs or os.fstat(self._file.fd).st_size != self._file.size_bytes:
            raise DamageError(
                f"{self.path} does not hold what was written (rows, id digest, row digest {theirs}, expected {mine}): "
                "the memory or the device is failing; all sources are untouched"
            )
        if spots:
            self._spot_check(spots[0])

    def _spot_check(self, expected: Block) -> None:
        """Let the general reader decode the first rows, with checksums: that others can read it is part of it."""
        try:
            with pq.ParquetFile(
                pa.OSFile(str(self.path)), page_checksum_verification=True, pre_buffer=False, buffer_size=1 << 20
            ) as file:
                batch = next(file.iter_batches(batch_size=min(_SPOT_ROWS, len(expected.matrix)), use_threads=False))
        except UNREADABLE as error:
            raise unreadable(str(self.path), error) from error
        vectors = batch.column(sc.EMBEDDING).flatten().to_numpy(zero_copy_only=False)
        same_ids = batch.column(0).equals(expected.others.column(0).combine_chunks().slice(0, batch.num_rows))
        if not same_ids or vectors.tobytes() != expected.matrix[: batch.num_rows].tobytes():
            raise DamageError(f"{self.path} reads differently with pyarrow: report this; all sources are untouched")


class _Order:
    """Whether ids ascend, block after block."""

    def __init__(self) -> None:
        self._last: Any = None

    def goes_on(self, ids: pa.ChunkedArray) -> bool:
        if pa.types.is_integer(ids.type):
            values = ids.to_numpy()
            ascending = bool((values[1:] >= values[:-1]).all())
        else:
            values = ids.cast(pa.binary()).to_pylist()
            ascending = all(a <= b for a, b in itertools.pairwise(values))
        if not len(values):
            return True
        ascending = ascending and (self._last is None or bool(self._last <= values[0]))
        self._last = values[-1]
        return ascending


def merge_group(job: Message, report: Report) -> Message:
    """Task: write one output from the inputs of one group, in their order."""
    schema = MergeSchema.from_dict(job["schema"])
    inputs = read_group(Path(job["plan"]), *job["place"])
    output = Output(Path(job["output"]), schema, row_group_bytes=int(job["row_group_bytes"]), sorted_by_id=False)
    try:
        reader = GroupReader(job, inputs, schema)
        told = 0
        for block in reader.blocks():
            output.append(block)
            if output.sums.rows - told >= _REPORT_ROWS:
                report({"rows": output.sums.rows - told})
                told = output.sums.rows
        facts = output.seal(merge_footer(job["footer"], schema, lineage(reader.sha256s, inputs)))
        reader.check_sums(output.sums)
        report({"rows": output.sums.rows - told})
        return facts
    except BaseException:
        output.abort()
        raise


class GroupReader:
    """The rows of a group's inputs, without those that are left out, and the proof that the inputs are the right ones.

    Attributes:
        sha256s: SHA-256 of each input that has been read whole.
    """

    def __init__(self, job: Message, inputs: list[PlannedInput], schema: MergeSchema) -> None:
        self._folder = Path(job["source"])
        self._inputs = inputs
        self._first = int(job["first"])
        self._drops = None if job["drops"] is None else Path(job["drops"])
        self._matcher = Matcher(schema)
        self._scratch = bytearray(WHOLE_BYTES)
        self._dropped = 0
        self.sha256s: list[str] = []

    def blocks(self) -> Iterator[Block]:
        """All rows that stay, input after input.

        Raises:
            DamageError: an input is missing, damaged, or not what the ledger says.
            ConfigError: an input that does not fit.
        """
        for number, item in enumerate(self._inputs, self._first):
            try:
                yield from self._of_input(number, item)
            except EngineError as error:
                check_committed(self._folder / item.name, item.name, item.sha256, error)

    def _of_input(self, number: int, item: PlannedInput) -> Iterator[Block]:
        drops = None if self._drops is None else dropped_rows(self._drops, number)
        with Input(self._folder / item.name, item.name, self._matcher, scratch=self._scratch) as opened:
            if (opened.rows, opened.size_bytes) != (item.rows, item.bytes):
                raise DamageError(
                    f"{item.name} has {opened.rows} rows in {opened.size_bytes} bytes, but had {item.rows} in "
                    f"{item.bytes} when the merge was planned: restore it"
                )
            if drops is None or not len(drops):
                yield from opened.blocks()
            else:
                self._dropped += len(drops)
                yield from _without(opened.blocks(), drops)
            sha256 = opened.sha256()
        if item.sha256 and sha256 != item.sha256:
            raise DamageError(
                f"{item.name} is not what was committed (another SHA-256): restore it from a copy; nothing was removed"
            )
        self.sha256s.append(sha256)

    def check_sums(self, sums: Sums) -> None:
        """Compare the output with what the ledger says of its sources, from the moment they were written.

        Raises:
            DamageError: rows or ids differ.
        """
        rows = sum(item.rows for item in self._inputs) - self._dropped
        if sums.rows != rows:
            raise DamageError(f"an output has {sums.rows} rows, its inputs have {rows}: report this")
        digests = [item.id_digest for item in self._inputs]
        if all(digests) and not self._dropped and sc.combine_digests(digests) != sums.id_digest:
            raise DamageError("an output has other ids than the ledger says of its inputs: report this")


def _without(blocks: Iterator[Block], drops: Any) -> Iterator[Block]:
    """Leave out rows by their number in the file."""
    first_row = 0
    for block in blocks:
        n_rows = len(block.matrix)
        low, high = np.searchsorted(drops, [first_row, first_row + n_rows])
        if low == high:
            yield block
        else:
            keep = np.ones(n_rows, dtype=bool)
            keep[drops[low:high] - first_row] = False
            if keep.any():
                yield Block(block.others.filter(pa.array(keep)), block.matrix[keep])
        first_row += n_rows


def lineage(sha256s: list[str], inputs: list[PlannedInput]) -> dict[str, Any]:
    """Which files an output was made of, for its footer."""
    return {
        "inputs": len(inputs),
        "files": [[item.name, sha256] for item, sha256 in zip(inputs, sha256s, strict=True)],
    }


def merge_footer(said: dict[str, Any], schema: MergeSchema, lines: dict[str, Any]) -> dict[bytes, bytes]:
    """The footer of an output, without what depends on its rows."""
    footer = {
        sc.KEY_VERSION: str(said["version"]).encode(),
        sc.KEY_EPOCH: str(said["epoch"]).encode(),
        sc.KEY_SHARD: str(said["name"]).encode(),
        sc.KEY_ID_TYPE: schema.id_type.value.encode(),
        sc.KEY_MERGE: orjson.dumps({name: said[name] for name in ("merge", "plan", "output", "sort")}),
        sc.KEY_LINEAGE: orjson.dumps(lines),
    }
    if schema.fingerprint is not None:
        footer[sc.KEY_FINGERPRINT] = orjson.dumps(schema.fingerprint)
    return footer
