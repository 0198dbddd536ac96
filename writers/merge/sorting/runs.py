"""Sorted runs: pass 1 of sorting by id (writers/merge/sorting/sort.py says what for).

A task a group of inputs: rows are collected up to `sort_bytes` of vectors, sorted by id, and written as one run after
the other. Vectors lie raw, back to back, in `GROUP.vectors`; ids, carried columns and each row's hash in `GROUP.rows`,
an Arrow file of small batches; the first id of every batch in `GROUP.firsts` is the index; names and SHA-256 of the
inputs are in `GROUP.sources`. Runs are not fsynced: their record holds a checksum of everything but the vectors, and
the rows' hashes cover these, so that a start after a power cut knows which runs to make again.
"""

from __future__ import annotations

import contextlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import SinkError
from engine.memory.channels import Message
from writers.merge.ledger import read_group
from writers.merge.outputs.group import GroupReader
from writers.merge.outputs.output import Sums
from writers.parquet.inputs import Block
from writers.parquet.merge_schema import MergeSchema
from writers.proof.digests import Matrix, RowHasher
from writers.workers.pool import Report

HASH = "__row_hash"
BATCH_ROWS = 256
_WRITE_ROWS = 1024
_REPORT_ROWS = 8192
Rows = npt.NDArray[np.int64]


def sort_order(column: pa.Array | pa.ChunkedArray) -> Rows:
    """Row numbers in the order of ids; equal ids keep their order."""
    if pa.types.is_integer(column.type):
        return np.argsort(column.to_numpy(), kind="stable")
    plain = column.cast(pa.binary())
    return np.asarray(pc.sort_indices(plain).to_numpy(), dtype=np.int64)


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
        f"cannot write sorted runs to {folder} ({error.strerror or error}): free space, or name another "
        "--temp-dir, then run the same command again; all sources are untouched"
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
        """Take rows in."""
        vectors = block.vectors
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
        self.sums.add(others, hashes)
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
                sums.add(batch, hasher.row_hashes(batch, matrix))
            rest = vectors.read(1)
    except (OSError, ValueError, pa.ArrowException):
        return {"sound": False}
    return {"sound": not rest and (sums.rows, sums.digest_text) == (facts["rows"], facts["row_digest"])}


def read_firsts(paths: RunPaths) -> pa.Array:
    """The first id of every batch of a group's runs."""
    with pa.OSFile(str(paths.firsts)) as source, pa.ipc.open_stream(source) as stream:
        return stream.read_all().column(0).combine_chunks()
