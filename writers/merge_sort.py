"""Sorting by id with bounded memory: sorted runs of whole rows on disk, then outputs gathered from ranges of ids.

Pass 1, a task a group of inputs: rows are collected up to `sort_bytes` of vectors, sorted by id, and written as one
run. Vectors lie raw, back to back, in `GROUP.vectors`; ids, carried columns and each row's hash lie in `GROUP.rows`, an
Arrow file of small batches; the first id of every batch in `GROUP.firsts` is the index.
Pass 2: quantiles of the first ids cut the ids into ranges of about equal size, one range an output. A task
reads the ids of its range out of every run, sorts them, and gathers the vectors: since runs are sorted, every
stretch of sorted rows is one contiguous read per run, however many rows there are in all.

So every row is written and read once more than without sorting, and memory is bounded by `sort_bytes` in pass 1, by a
row group's vectors and the ids of one range (in portions, when rows carry much else) in pass 2. Sorting an index and
then gathering rows out of the inputs themselves would save the writing, but every vector page would be decompressed
for each output it has a row in: with shuffled ids, every page for every output.

Ids are in the order of Parquet and Arrow: integers by value, strings and object ids by their bytes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from engine.channels import Message
from engine.errors import DamageError, SinkError
from engine.ledger import Record
from writers import schema as sc
from writers.digests import MASK, RowHasher, Words, total
from writers.foreign import MergeSchema
from writers.inputs import Block
from writers.merge_group import GroupReader, merge_footer
from writers.merge_ledger import read_group
from writers.merge_output import Output, Sums
from writers.pages import EncodedPage, Matrix, page_rows
from writers.pool import Report

HASH = "__row_hash"
BATCH_ROWS = 256
_WRITE_ROWS = 1024
_GATHER_BYTES = 48 << 20
_OPEN_FILES = 128
_REPORT_ROWS = 8192
Rows = npt.NDArray[np.int64]


def sort_order(column: pa.Array | pa.ChunkedArray) -> Rows:
    """Row numbers in the order of ids; equal ids keep their order."""
    if pa.types.is_integer(column.type):
        return np.argsort(column.to_numpy(), kind="stable")
    plain = column.cast(pa.binary())
    return np.asarray(pc.sort_indices(plain).to_numpy(), dtype=np.int64)


def bound_text(scalar: pa.Scalar) -> int | str:
    """An id as it stands in JSON: a number, or its bytes in hexadecimal."""
    plain = scalar.as_py()
    if isinstance(plain, int):
        return plain
    return (plain.encode() if isinstance(plain, str) else plain).hex()


def bound_scalar(text: int | str, kind: pa.DataType) -> pa.Scalar:
    """The same back, to compare with ids (as binary unless they are numbers)."""
    return pa.scalar(text, type=kind) if isinstance(text, int) else pa.scalar(bytes.fromhex(text), type=pa.binary())


def rows_below(ids: pa.Array | pa.ChunkedArray, bound: pa.Scalar | None, absent: int) -> int:
    """How many of some sorted ids are below a bound; `absent` when there is no bound."""
    if bound is None:
        return absent
    plain = ids if pa.types.is_integer(ids.type) else ids.cast(pa.binary())
    return int(pc.sum(pc.less(plain, bound)).as_py() or 0)


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The files of one group's runs."""

    vectors: Path
    rows: Path
    firsts: Path
    sources: Path

    @classmethod
    def of(cls, folder: Path, plan: int, group: int) -> RunPaths:
        """Where they lie."""
        stem = f"{plan:04d}-{group:06d}"
        return cls(*(folder / f"{stem}.{ending}" for ending in ("vectors", "rows", "firsts", "sources")))

    def remove(self) -> None:
        """Delete them."""
        for path in (self.vectors, self.rows, self.firsts, self.sources):
            path.unlink(missing_ok=True)

    def crc32(self) -> int:
        """One checksum over all but the vectors."""
        crc = 0
        for path in (self.rows, self.firsts, self.sources):
            with path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    crc = zlib.crc32(block, crc)
        return crc


def rows_schema(schema: MergeSchema) -> pa.Schema:
    """Ids, carried columns, and each row's hash."""
    return schema.others.append(pa.field(HASH, pa.uint64(), nullable=False))


def spill_group(job: Message, report: Report) -> Message:
    """Task of pass 1: the rows of one group as sorted runs; returns the facts for the SPILLED record."""
    schema = MergeSchema.from_dict(job["schema"])
    inputs = read_group(Path(job["plan"]), *job["place"])
    paths = RunPaths.of(Path(job["runs"]), int(job["number"]), int(job["group"]))
    reader = GroupReader(job, inputs, schema)
    told = 0
    try:
        with _RunWriter(paths, schema, int(job["sort_bytes"])) as writer:
            for block in reader.blocks():
                writer.append(block)
                if writer.sums.rows - told >= _REPORT_ROWS:
                    report({"rows": writer.sums.rows - told})
                    told = writer.sums.rows
            writer.finish()
        pairs = zip(inputs, reader.sha256s, strict=True)
        paths.sources.write_bytes(b"".join(orjson.dumps([item.name, sha256]) + b"\n" for item, sha256 in pairs))
        crc = paths.crc32()
    except OSError as error:
        raise _refused(Path(job["runs"]), error) from error
    reader.check_sums(writer.sums)
    report({"rows": writer.sums.rows - told})
    return {
        "rows": writer.sums.rows,
        "row_digest": writer.sums.digest_text,
        "runs": writer.runs,
        "other_bytes": paths.rows.stat().st_size,
        "crc32": crc,
    }


def _refused(folder: Path, error: OSError) -> SinkError:
    return SinkError(
        f"cannot write sorted runs to {folder} ({error.strerror or error}): free space, or name another folder for "
        "temporaries, then run the same command again; all sources are untouched"
    )


class _RunWriter:
    """Collects rows, and writes them as one sorted run after the other.

    Attributes:
        runs: Rows of each run.
        sums: Of all rows.
    """

    def __init__(self, paths: RunPaths, schema: MergeSchema, sort_bytes: int) -> None:
        row_bytes = schema.dim * schema.dtype.itemsize
        self.runs: list[int] = []
        self.sums = Sums()
        self._paths = paths
        self._schema = schema
        self._hasher = RowHasher(schema.dim, schema.dtype.itemsize)
        self._matrix: Matrix = np.empty((max(1, sort_bytes // row_bytes), schema.dim), dtype=schema.dtype)
        self._most_other_bytes = sort_bytes // 4
        self._n_rows = self._other_bytes = 0
        self._others: list[pa.Table] = []
        self._firsts: list[pa.Array] = []

    def __enter__(self) -> _RunWriter:
        self._paths.remove()
        self._vectors = self._paths.vectors.open("wb", buffering=0)
        self._rows_sink = pa.OSFile(str(self._paths.rows), "wb")
        self._rows = pa.ipc.new_file(self._rows_sink, rows_schema(self._schema))
        return self

    def __exit__(self, *_: object) -> None:
        self._vectors.close()
        with contextlib.suppress(OSError, pa.ArrowException):  # after an error the runs are thrown away anyway
            self._rows_sink.close()

    def append(self, block: Block) -> None:
        """Take rows in; the block holds a matrix."""
        vectors = block.vectors
        assert not isinstance(vectors, EncodedPage)  # not asked for
        start = 0
        while start < len(vectors):
            count = min(len(vectors) - start, len(self._matrix) - self._n_rows)
            others = block.others.slice(start, count)
            self._matrix[self._n_rows : self._n_rows + count] = vectors[start : start + count]
            self._others.append(others)
            self._other_bytes += others.nbytes
            self._n_rows += count
            start += count
            if self._n_rows == len(self._matrix) or self._other_bytes > self._most_other_bytes:
                self._write_run()

    def finish(self) -> None:
        """Write the last run, and the index."""
        self._write_run()
        self._rows.close()
        kind = self._schema.others.field(0).type
        firsts = pa.chunked_array(self._firsts, type=kind).combine_chunks() if self._firsts else pa.array([], kind)
        table = pa.table([firsts], names=["first"])
        with pa.OSFile(str(self._paths.firsts), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)

    def _write_run(self) -> None:
        if not self._n_rows:
            return
        others = pa.concat_tables(self._others).combine_chunks()
        matrix = self._matrix[: self._n_rows]
        hashes = self._hasher.row_hashes(others, matrix)
        self.sums.rows += self._n_rows
        self.sums.digest = (self.sums.digest + total(hashes)) & MASK
        self.sums.id_digests.append(sc.id_digest(others.column(0)))
        order = sort_order(others.column(0))
        for start in range(0, len(order), _WRITE_ROWS):
            piece = matrix[order[start : start + _WRITE_ROWS]].data.cast("B")
            while len(piece):
                piece = piece[self._vectors.write(piece) :]
        table = others.append_column(rows_schema(self._schema).field(HASH), pa.array(hashes)).take(pa.array(order))
        table = table.combine_chunks()
        self._rows.write_table(table, max_chunksize=BATCH_ROWS)
        ids = table.column(0).combine_chunks()
        self._firsts.append(ids.take(pa.array(np.arange(0, len(ids), BATCH_ROWS))))
        self.runs.append(self._n_rows)
        self._others = []
        self._n_rows = self._other_bytes = 0


def check_runs(job: Message, _report: Report) -> Message:
    """Task: whether the runs of a group are still what was written; after a power cut they may not be."""
    schema = MergeSchema.from_dict(job["schema"])
    facts = job["facts"]
    paths = RunPaths.of(Path(job["runs"]), int(job["number"]), int(job["group"]))
    try:
        if paths.crc32() != facts["crc32"]:
            return {"sound": False}
        hasher = RowHasher(schema.dim, schema.dtype.itemsize)
        row_bytes = schema.dim * schema.dtype.itemsize
        names = schema.others.names
        sums = Sums()
        with paths.vectors.open("rb") as vectors, pa.OSFile(str(paths.rows)) as source:
            reader = pa.ipc.open_file(source)
            for number in range(reader.num_record_batches):
                batch = pa.Table.from_batches([reader.get_batch(number)]).select(names)
                raw = vectors.read(batch.num_rows * row_bytes)
                matrix = np.frombuffer(raw, dtype=schema.dtype).reshape(-1, schema.dim)
                sums.add(hasher, batch, matrix)
            rest = vectors.read(1)
    except (OSError, ValueError, pa.ArrowException):
        return {"sound": False}
    return {"sound": not rest and (sums.rows, sums.digest_text) == (facts["rows"], facts["row_digest"])}


def cut_ranges(runs: Path, plan: int, spilled: dict[int, Record], n_outputs: int, range_rows: int) -> list[list[Any]]:
    """Bounds of ids for each output, and within an output for each portion of about `range_rows` rows.

    An output's list holds the bounds of its portions, the lower one included, the upper one not; None is no bound.
    """
    firsts = [read_firsts(RunPaths.of(runs, plan, group)) for group in sorted(spilled)]
    column = pa.concat_arrays([array for array in firsts if len(array)] or firsts[:1])
    order = sort_order(column)
    rows = sum(int(record["rows"]) for record in spilled.values())
    portions = max(1, -(-rows // (n_outputs * range_rows)))
    n_pieces = min(n_outputs * portions, max(1, len(order)))
    picked = [int(order[piece * len(order) // n_pieces]) for piece in range(1, n_pieces)]
    bounds: list[int | str | None] = [None]
    for number in picked:
        bound = bound_text(column[number])
        if bound != bounds[-1]:
            bounds.append(bound)
    bounds.append(None)
    per_output = -(-(len(bounds) - 1) // n_outputs)
    return [bounds[start : start + per_output + 1] for start in range(0, len(bounds) - 1, per_output)]


def read_firsts(paths: RunPaths) -> pa.Array:
    """The first id of every batch of a group's runs."""
    with pa.OSFile(str(paths.firsts)) as source, pa.ipc.open_stream(source) as stream:
        return stream.read_all().column(0).combine_chunks()


def gather_output(job: Message, report: Report) -> Message:
    """Task of pass 2: one sorted output from one range of ids."""
    schema = MergeSchema.from_dict(job["schema"])
    with Path(job["ranges"]).open("rb") as stream:
        groups = orjson.loads(stream.readline())
        stream.seek(int(job["place"][0]))
        bounds = orjson.loads(stream.read(int(job["place"][1])))
    output = Output(Path(job["output"]), schema, row_group_bytes=int(job["row_group_bytes"]), sorted_by_id=True)
    try:
        gatherer = _Gatherer(Path(job["runs"]), int(job["number"]), groups, schema)
        told = 0
        with contextlib.closing(gatherer):
            for low, high in itertools.pairwise(bounds):
                for block in gatherer.blocks(low, high):
                    output.append(block)
                    if output.sums.rows - told >= _REPORT_ROWS:
                        report({"rows": output.sums.rows - told})
                        told = output.sums.rows
        facts = output.seal(merge_footer(job["footer"], schema, job["lineage"]))
        if (output.sums.rows, output.sums.digest) != (gatherer.rows, gatherer.row_digest):
            raise DamageError(f"{output.path} does not hold what was read from the sources: run the same command again")
        report({"rows": output.sums.rows - told})
        return facts
    except (OSError, pa.ArrowException) as error:
        output.abort()
        raise SinkError(
            f"cannot read the sorted runs in {job['runs']} ({error}): run the same command again"
        ) from error
    except BaseException:
        output.abort()
        raise


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Consecutive rows of one run that fall into a range: their group, and the first one's place among its vectors."""

    group: int
    first_row: int


class _Gatherer:
    """Reads ranges of ids out of all runs.

    Attributes:
        rows: Rows read so far.
        row_digest: Sum of their hashes as pass 1 took them from the inputs.
    """

    def __init__(self, folder: Path, plan: int, groups: list[list[int]], schema: MergeSchema) -> None:
        self.rows = 0
        self.row_digest = 0
        self._folder, self._plan = folder, plan
        self._groups = groups
        self._schema = schema
        self._row_bytes = schema.dim * schema.dtype.itemsize
        self._page_rows = page_rows(schema.dim, schema.dtype.itemsize)
        self._fds: dict[int, int] = {}
        self._staging: Matrix = np.empty((max(1, _GATHER_BYTES // self._row_bytes), schema.dim), dtype=schema.dtype)

    def close(self) -> None:
        """Close the files."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}

    def blocks(self, low: int | str | None, high: int | str | None) -> Iterator[Block]:
        """The rows from `low` to below `high`, sorted, about a page at a time."""
        kind = self._schema.others.field(0).type
        stretches, tables = self._select(
            None if low is None else bound_scalar(low, kind), None if high is None else bound_scalar(high, kind)
        )
        if not tables:
            return
        table = pa.concat_tables(tables).combine_chunks()
        lengths = np.array([len(part) for part in tables])
        stretch_of = np.repeat(np.arange(len(tables)), lengths)
        row_of = np.arange(len(table)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        row_of += np.repeat(np.array([stretch.first_row for stretch in stretches]), lengths)
        hashes: Words = table.column(HASH).to_numpy()
        self.rows += len(table)
        self.row_digest = (self.row_digest + total(hashes)) & MASK
        others = table.drop_columns([HASH])
        order = sort_order(others.column(0))
        for start in range(0, len(order), len(self._staging)):
            rows = order[start : start + len(self._staging)]
            at = self._stage(stretches, stretch_of[rows], row_of[rows])
            for first in range(0, len(rows), self._page_rows):
                piece = slice(first, first + self._page_rows)
                yield Block(others.take(pa.array(rows[piece])), self._staging[at[piece]])

    def _select(self, low: pa.Scalar | None, high: pa.Scalar | None) -> tuple[list[_Stretch], list[pa.Table]]:
        """What every run has between two ids."""
        stretches, tables = [], []
        for group, runs in enumerate(self._groups):
            paths = RunPaths.of(self._folder, self._plan, group)
            firsts = read_firsts(paths)
            with pa.OSFile(str(paths.rows)) as source:
                reader = pa.ipc.open_file(source)
                batch = first_row = 0
                for n_rows in runs:
                    n_batches = -(-n_rows // BATCH_ROWS)
                    index = firsts.slice(batch, n_batches)
                    begin = max(0, rows_below(index, low, 1) - 1)
                    end = rows_below(index, high, n_batches)
                    if end > begin:
                        found = pa.Table.from_batches(
                            [reader.get_batch(batch + number) for number in range(begin, end)]
                        )
                        ids = found.column(0)
                        skip = rows_below(ids, low, 0)
                        found = found.slice(skip, rows_below(ids, high, len(found)) - skip)
                        if len(found):
                            tables.append(found)
                            stretches.append(_Stretch(group, first_row + begin * BATCH_ROWS + skip))
                    batch += n_batches
                    first_row += n_rows
        return stretches, tables

    def _stage(self, stretches: list[_Stretch], stretch_of: Rows, row_of: Rows) -> Rows:
        """Read the vectors of some sorted rows, each stretch's in one piece; says where each row's vector lies now."""
        at = np.empty(len(row_of), dtype=np.int64)
        base = 0
        by_stretch = np.argsort(stretch_of, kind="stable")
        numbers, starts = np.unique(stretch_of[by_stretch], return_index=True)
        for number, start, end in zip(numbers, starts, [*starts[1:], len(row_of)], strict=True):
            mine = by_stretch[start:end]
            first = int(row_of[mine[0]])
            at[mine] = base + row_of[mine] - first
            self._read(stretches[number].group, first, self._staging[base : base + len(mine)])
            base += len(mine)
        return at

    def _read(self, group: int, first_row: int, into: Matrix) -> None:
        fd = self._fds.get(group)
        if fd is None:
            if len(self._fds) >= _OPEN_FILES:
                self.close()
            fd = os.open(RunPaths.of(self._folder, self._plan, group).vectors, os.O_RDONLY | os.O_CLOEXEC)
            self._fds[group] = fd
        view = into.data.cast("B")
        offset = first_row * self._row_bytes
        while len(view):
            count = os.preadv(fd, [view], offset)
            if not count:
                raise OSError(5, f"the sorted run of group {group} ends too early")
            view, offset = view[count:], offset + count
