"""The rows nearest to some vectors, by looking at every row: exact, streaming, on all cores.

Threads share the row groups: pyarrow's decoding and numpy's products both let go of the interpreter. A thread holds
one row group's compressed bytes, a few decoded rows, and its best rows so far, so memory depends on the size of a row
group and the number of threads, not on the rows. Checksums are not compared here: `engine verify` proves files.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from writers.parquet.access import THIS_MACHINE, FileAccess
from writers.parquet.merge_schema import MergeSchema
from writers.parquet.opening import UNREADABLE, unreadable
from writers.parquet.rows import to_matrix

_BATCH_ROWS = 1024
"""Rows that are decoded at a time: 3 MiB of 768 numbers, which stay in a core's cache until they are multiplied."""
_BUFFER_BYTES = 1 << 20
_MEMORY_BYTES = 320 << 20
"""For row groups in flight; with very large ones fewer threads work."""

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, order=True)
class Hit:
    """A row that was found; they sort best first, and among equals by place.

    Attributes:
        distance: The negative of the score.
        file: Position of its file in the list that was searched.
        row: Its number in the file.
    """

    distance: float
    file: int
    row: int

    @property
    def score(self) -> float:
        """Cosine of the angle between the row's vector and the one that was asked for."""
        return -self.distance


@dataclass(frozen=True, slots=True)
class _Part:
    """A row group of a file.

    Attributes:
        file: Position of the file.
        group: Number of the row group.
        first_row: Number of its first row in the file.
        n_bytes: What a thread that reads it holds.
    """

    file: int
    group: int
    first_row: int
    n_bytes: int


def nearest(
    files: Sequence[str],
    schema: MergeSchema,
    query: Vector,
    k: int,
    *,
    jobs: int | None = None,
    on_rows: Callable[[int], None] | None = None,
    access: FileAccess = THIS_MACHINE,
) -> list[Hit]:
    """Find the `k` rows with the largest cosine, best first; rows without a direction are never found.

    Args:
        files: Paths of Parquet files.
        schema: What they have in common.
        query: float32 (dim,).
        k: How many at most.
        jobs: Threads, or None for one a core.
        on_rows: Told how many rows have been looked at, from any thread.
        access: Opens the files.

    Raises:
        ConfigError: a row without a vector.
        DamageError: a file cannot be read.
    """
    length = float(np.linalg.norm(query.astype(np.float64)))
    if not length:
        return []
    unit = (query / length).astype(np.float32)
    with_norms = not (schema.fingerprint or {}).get("normalize", False)
    parts = _parts_of(files, schema, access)
    search = _Search(files, schema, unit, k, with_norms, on_rows, access)
    with ThreadPoolExecutor(_n_threads(parts, jobs)) as pool:
        for _ in pool.map(search.look_at, parts):
            pass
    return sorted(search.best)[:k]


def _n_threads(parts: list[_Part], jobs: int | None) -> int:
    largest = max((part.n_bytes for part in parts), default=1)
    return max(1, min(jobs or len(os.sched_getaffinity(0)), _MEMORY_BYTES // max(1, largest)))


def _parts_of(files: Sequence[str], schema: MergeSchema, access: FileAccess) -> list[_Part]:
    parts = []
    for number, path in enumerate(files):
        try:
            metadata = pq.read_metadata(access.source(path))
        except UNREADABLE as error:
            raise unreadable(path, error) from error
        leaf = _leaf_of(metadata, schema.vector_source)
        first = 0
        for group in range(metadata.num_row_groups):
            described = metadata.row_group(group)
            if described.num_rows:
                n_bytes = described.column(leaf).total_compressed_size + 3 * _BUFFER_BYTES
                parts.append(_Part(number, group, first, n_bytes))
            first += described.num_rows
    return parts


def _leaf_of(metadata: pq.FileMetaData, column: str) -> int:
    """Position of the vectors' numbers among the file's leaf columns."""
    paths = [metadata.schema.column(at).path for at in range(metadata.num_columns)]
    return next(at for at, path in enumerate(paths) if path == column or path.startswith(f"{column}."))


class _Search:
    """What the threads share, and what each row group does to it."""

    def __init__(
        self,
        files: Sequence[str],
        schema: MergeSchema,
        unit: Vector,
        k: int,
        with_norms: bool,
        on_rows: Callable[[int], None] | None,
        access: FileAccess,
    ) -> None:
        self._access = access
        self.best: list[Hit] = []
        self._files = files
        self._schema = schema
        self._unit = unit
        self._k = k
        self._with_norms = with_norms
        self._on_rows = on_rows
        self._lock = threading.Lock()
        self._floor = -np.inf  # a score below it is not among the best any more

    def look_at(self, part: _Part) -> None:
        """Score a row group's rows and keep the best.

        Raises:
            ConfigError, DamageError: see `nearest`.
        """
        path, column = self._files[part.file], self._schema.vector_source
        row = part.first_row
        try:
            with pq.ParquetFile(self._access.source(path), pre_buffer=False, buffer_size=_BUFFER_BYTES) as parquet:
                batches = parquet.iter_batches(_BATCH_ROWS, [part.group], [column], use_threads=False)
                for batch in batches:
                    self._score(part.file, row, to_matrix(path, batch.column(column), self._schema, row))
                    row += batch.num_rows
        except UNREADABLE as error:
            raise unreadable(path, error) from error
        if self._on_rows is not None:
            self._on_rows(row - part.first_row)

    def _score(self, file: int, first_row: int, matrix: npt.NDArray[np.floating]) -> None:
        rows = matrix.astype(np.float32, copy=False)
        scores = rows @ self._unit
        if self._with_norms:
            with np.errstate(invalid="ignore", divide="ignore"):
                scores = scores / np.sqrt(np.einsum("ij,ij->i", rows, rows))
        scores[~np.isfinite(scores)] = -np.inf
        candidates = np.flatnonzero(scores >= self._floor)
        candidates = candidates[scores[candidates] > -np.inf]
        if len(candidates) > self._k:
            # all that equal the k-th stay: their places decide
            kth = np.partition(scores[candidates], len(candidates) - self._k)[len(candidates) - self._k]
            candidates = candidates[scores[candidates] >= kth]
        if not len(candidates):
            return
        found = [Hit(-float(scores[at]), file, first_row + int(at)) for at in candidates]
        with self._lock:
            self.best = sorted([*self.best, *found])[: self._k]
            if len(self.best) == self._k:
                self._floor = self.best[-1].score
