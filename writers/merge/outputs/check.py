"""A closed output, read once more: whether each row group is what was put in, and the SHA-256 of the bytes read."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import DamageError
from writers.files.hashed_file import HashedFile
from writers.merge.outputs.row_group import GroupSum, RowGroup
from writers.parquet.inputs import BLOCK_BYTES
from writers.parquet.merge_schema import MergeSchema
from writers.parquet.opening import open_parquet
from writers.parquet.rows import to_matrix
from writers.proof.digests import RowHasher
from writers.shards.schema import EMBEDDING, combine_digests, id_digest


class Reread(NamedTuple):
    """What a closed output turned out to be: rows, digest of all ids, SHA-256 of its bytes."""

    rows: int
    id_digest: str
    sha256: str


def read_again(path: Path, schema: MergeSchema, hasher: RowHasher, groups: list[GroupSum], *, in_order: bool) -> Reread:
    """Read a closed output and compare it with what was put in.

    Args:
        path: The file.
        schema: Of its columns.
        hasher: Of its rows.
        groups: What its row groups have to be.
        in_order: Whether its ids have to ascend.

    Raises:
        DamageError: it holds something else.
        UNREADABLE: it cannot be read; checksums of pages are compared.
    """
    rows, digest, order = 0, combine_digests([]), _Order()
    with contextlib.closing(HashedFile(path)) as file:
        parquet = open_parquet(path.name, pa.PythonFile(file, mode="r"))
        if not parquet.schema_arrow.equals(schema.arrow, check_metadata=False):
            raise DamageError(f"{path} has another schema than was written: report this")
        if parquet.num_row_groups != len(groups):
            raise DamageError(
                f"{path} has {parquet.num_row_groups} row groups, {len(groups)} were written: all sources are untouched"
            )
        file.hashing = True
        for number, group in enumerate(groups):
            found = RowGroup(schema, hasher)
            for batch in _batches(parquet, number, schema):
                matrix = to_matrix(path.name, batch.column(EMBEDDING), schema, rows + found.rows)
                found.add(batch.select(schema.others.names), matrix)
            others, _, holds = found.finish()
            if holds != group:
                raise DamageError(
                    f"{path} holds other rows in row group {number} than were written: the memory or the device is "
                    "failing; all sources are untouched"
                )
            if in_order and not order.goes_on(others.column(0)):
                raise DamageError(f"{path} is not sorted by id: report this; all sources are untouched")
            rows += found.rows
            digest = combine_digests([digest, id_digest(others.column(0))])
        return Reread(rows, digest, file.hexdigest())


def _batches(parquet: pq.ParquetFile, group: int, schema: MergeSchema) -> Iterator[pa.RecordBatch]:
    row_bytes = schema.dim * schema.dtype.itemsize
    batches: Iterator[pa.RecordBatch] = parquet.iter_batches(
        max(1, BLOCK_BYTES // row_bytes), row_groups=[group], use_threads=False
    )
    return batches


class _Order:
    """Whether ids ascend, part after part."""

    def __init__(self) -> None:
        self._last: Any = None

    def goes_on(self, ids: pa.ChunkedArray) -> bool:
        """Whether these ids ascend and none is below those before."""
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
