"""The rows of one row group of an output: as they are put in, and as they are read again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from writers.parquet.merge_schema import MergeSchema
from writers.proof.digests import Matrix, RowHasher, Words, ordered


@dataclass(frozen=True, slots=True)
class GroupSum:
    """What a row group holds.

    Attributes:
        rows: Its rows.
        digest: Of their hashes, in their order (`writers.proof.digests.ordered`).
    """

    rows: int
    digest: int


class RowGroup:
    """Collects rows: ids and carried columns, and a hash of each vector; not the vectors.

    Attributes:
        rows: Rows so far.
    """

    def __init__(self, schema: MergeSchema, hasher: RowHasher) -> None:
        self.rows = 0
        self._schema = schema.others
        self._hasher = hasher
        self._others: list[pa.Table | pa.RecordBatch] = []
        self._vectors: list[Words] = []

    def add(self, others: pa.Table | pa.RecordBatch, matrix: Matrix) -> None:
        """Take in rows.

        Args:
            others: All columns but the vectors, in the schema's types.
            matrix: Their vectors; not kept.
        """
        self.rows += len(matrix)
        self._others.append(others)
        self._vectors.append(self._hasher.vector_hashes(matrix))

    def finish(self) -> tuple[pa.Table, Words, GroupSum]:
        """All columns but the vectors, the hash of every row, and what to compare; computed for all rows at once."""
        tables = [part if isinstance(part, pa.Table) else pa.Table.from_batches([part]) for part in self._others]
        others = pa.concat_tables(tables).combine_chunks() if tables else self._schema.empty_table()
        hashes = self._hasher.with_columns(np.concatenate([np.empty(0, dtype=np.uint64), *self._vectors]), others)
        return others, hashes, GroupSum(self.rows, ordered(hashes))
