"""Sorting by id with bounded memory: outputs gathered from ranges of ids out of sorted runs on disk.

Pass 1 (writers/merge/sorting/runs.py) makes sorted runs of whole rows. Quantiles of the first ids of their batches
cut the ids into ranges of about equal size, one range an output. Pass 2, a task an output: the ids of its range are
read out of every run and sorted, then the vectors are gathered; since runs are sorted, every stretch of sorted rows
is one contiguous read per run, however many rows there are in all.

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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import DamageError, SinkError
from engine.ledger.log import Record
from engine.memory.channels import Message
from writers.merge.outputs.group import merge_footer, write_output
from writers.merge.outputs.output import Output
from writers.merge.sorting.runs import BATCH_ROWS, HASH, Rows, RunPaths, read_firsts, sort_order
from writers.parquet.inputs import BLOCK_BYTES, Block
from writers.parquet.merge_schema import MergeSchema
from writers.proof.digests import MASK, Matrix, Words, total
from writers.workers.pool import Report

_GATHER_BYTES = 48 << 20
_OPEN_FILES = 128


def bound_text(scalar: pa.Scalar) -> int | str:
    """An id as it stands in JSON: a number, or its bytes in hexadecimal."""
    return int(scalar.as_py()) if pa.types.is_integer(scalar.type) else str(scalar.as_buffer().to_pybytes().hex())


def bound_scalar(text: int | str, kind: pa.DataType) -> pa.Scalar:
    """The same back, to compare with ids (as binary unless they are numbers)."""
    return pa.scalar(text, type=kind) if isinstance(text, int) else pa.scalar(bytes.fromhex(text), type=pa.binary())


def rows_below(ids: pa.Array | pa.ChunkedArray, bound: pa.Scalar | None, absent: int) -> int:
    """How many of some sorted ids are below a bound; `absent` when there is no bound."""
    if bound is None:
        return absent
    plain = ids if pa.types.is_integer(ids.type) else ids.cast(pa.binary())
    return int(pc.sum(pc.less(plain, bound)).as_py() or 0)


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


def gather_output(job: Message, report: Report) -> Message:
    """Task of pass 2: one sorted output from one range of ids."""
    schema = MergeSchema.from_dict(job["schema"])
    with Path(job["ranges"]).open("rb") as stream:
        groups = orjson.loads(stream.readline())
        stream.seek(int(job["place"][0]))
        bounds = orjson.loads(stream.read(int(job["place"][1])))
    gatherer = _Gatherer(Path(job["runs"]), int(job["number"]), groups, schema)
    blocks = itertools.chain.from_iterable(gatherer.blocks(low, high) for low, high in itertools.pairwise(bounds))

    def seal(output: Output) -> Message:
        gatherer.close()
        facts = output.seal(merge_footer(job["footer"], schema, job["lineage"]))
        if (output.sums.rows, output.sums.digest) != (gatherer.rows, gatherer.row_digest):
            raise DamageError(f"{output.path} does not hold what was read from the sources: run the same command again")
        return facts

    try:
        with contextlib.closing(gatherer):
            return write_output(job, schema, blocks, seal, report, sorted_by_id=True)
    except (OSError, pa.ArrowException) as error:
        raise SinkError(
            f"cannot read the sorted runs in {job['runs']} ({error}): run the same command again"
        ) from error


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
        self._block_rows = max(1, BLOCK_BYTES // self._row_bytes)
        self._fds: dict[int, int] = {}
        self._staging: Matrix = np.empty((max(1, _GATHER_BYTES // self._row_bytes), schema.dim), dtype=schema.dtype)

    def close(self) -> None:
        """Close the files."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}

    def blocks(self, low: int | str | None, high: int | str | None) -> Iterator[Block]:
        """The rows from `low` to below `high`, sorted, about a block at a time."""
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
            for first in range(0, len(rows), self._block_rows):
                piece = slice(first, first + self._block_rows)
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
