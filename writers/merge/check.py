"""A closed output, read once more: whether it is what was put in, page by page, and its SHA-256 as it was read.

Rows that a merge has encoded are decoded and compared with the hashes taken before, in their order; copied pages have
the CRC-32 they were copied with, and hashes of ids and carried values. pyarrow, the general reader, decodes some.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import DamageError
from writers.parquet.foreign import MergeSchema
from writers.parquet.inputs import HashedFile, open_parquet
from writers.parquet.pages import Matrix, PageDecoder, RawPage, read_pages
from writers.proof.digests import RowHasher, ordered
from writers.shards import schema as sc

_SPOT_ROWS = 256


@dataclass(frozen=True, slots=True)
class PageSums:
    """What one page held when it was put in.

    Attributes:
        digest: Of its rows' hashes, in their order (`writers.proof.digests.ordered`).
        copied: Whether it came as it is: then the hashes are without the vectors.
    """

    digest: int
    copied: bool


@dataclass(frozen=True, slots=True)
class PageFacts:
    """What a page of the closed file has to be: its rows, the checksum of its body, and what it holds."""

    n_rows: int
    crc: int
    sums: PageSums


class Rereader:
    """Reads a closed output once more.

    Attributes:
        sha256: Of the file as it was read.
    """

    def __init__(self, path: Path, schema: MergeSchema, hasher: RowHasher, page_log: list[PageFacts]) -> None:
        """
        Args:
            path: The file.
            schema: Of its columns.
            hasher: Of its rows.
            page_log: All its pages of vectors, in order.
        """
        self._path = path
        self._schema = schema
        self._hasher = hasher
        self._page_log = page_log
        self._decoder = PageDecoder(schema.dtype)
        self._numbers: npt.NDArray[Any] = np.empty(0, dtype=schema.dtype)
        self.sha256 = ""

    def read(self, *, in_order: bool) -> tuple[int, str]:
        """Read everything and compare it page by page; returns the rows and the digest of the ids.

        Raises:
            DamageError: it holds something else.
            UNREADABLE: it cannot be read.
        """
        rows, id_digests = 0, [sc.combine_digests([])]
        order = _Order()
        pages = iter(self._page_log)
        file = HashedFile(self._path)
        try:
            parquet = open_parquet(self._path.name, pa.OSFile(str(self._path)))
            if not parquet.schema_arrow.equals(self._schema.arrow, check_metadata=False):
                raise DamageError(f"{self._path} has another schema than was written: report this")
            for group in range(parquet.num_row_groups):
                others = parquet.read_row_group(group, columns=self._schema.others.names, use_threads=False)
                if not others.schema.equals(self._schema.others):  # a cast imports Arrow's functions
                    others = others.cast(self._schema.others)
                if in_order and not order.goes_on(others.column(0)):
                    raise DamageError(f"{self._path} is not sorted by id: report this; all sources are untouched")
                self._read_pages(file, parquet, group, others, pages)
                rows += others.num_rows
                id_digests = [sc.combine_digests([*id_digests, sc.id_digest(others.column(0))])]
            if next(pages, None) is not None:
                raise DamageError(f"{self._path} has fewer pages than were written: all sources are untouched")
            if parquet.metadata.num_rows:
                self._spot_check(file, parquet)
            self.sha256 = file.hexdigest()
        finally:
            file.close()
        return rows, id_digests[0]

    def _read_pages(
        self, file: HashedFile, parquet: pq.ParquetFile, group: int, others: pa.Table, pages: Iterator[PageFacts]
    ) -> None:
        start = 0
        for page in read_pages(file.read_at, _place(parquet, group)):
            facts = next(pages, None)
            if facts is None or (page.n_values, page.crc) != (facts.n_rows * self._schema.dim, facts.crc):
                raise DamageError(f"{self._path} has another page at byte {page.offset} than was written")
            part = others.slice(start, facts.n_rows)
            hashes = self._hasher.row_hashes(part, None if facts.sums.copied else self._decode(page))
            if ordered(hashes) != facts.sums.digest:
                raise DamageError(
                    f"{self._path} holds other rows in the page at byte {page.offset} than were written: the memory or "
                    "the device is failing; all sources are untouched"
                )
            start += facts.n_rows
        if start != others.num_rows:
            raise DamageError(f"{self._path} has {start} vectors for {others.num_rows} ids in row group {group}")

    def _decode(self, page: RawPage) -> Matrix:
        """The page's vectors, valid until the next page."""
        if page.n_values > len(self._numbers):
            self._numbers = np.empty(page.n_values, dtype=self._schema.dtype)
        numbers = self._numbers[: page.n_values]
        self._decoder.decode_into(page, numbers)
        return numbers.reshape(-1, self._schema.dim)

    def _spot_check(self, file: HashedFile, parquet: pq.ParquetFile) -> None:
        """Let the general reader decode the first rows too: that others can read the file is part of it."""
        first = self._decode(next(read_pages(file.read_at, _place(parquet, 0))))
        n_rows = min(_SPOT_ROWS, len(first))
        batch = next(parquet.iter_batches(batch_size=n_rows, columns=[sc.EMBEDDING], use_threads=False))
        vectors = batch.column(0).flatten().to_numpy(zero_copy_only=False)
        if vectors.tobytes() != first[: batch.num_rows].tobytes():
            raise DamageError(f"{self._path} reads differently with pyarrow: report this; all sources are untouched")


def _place(parquet: pq.ParquetFile, group: int) -> tuple[int, int, int]:
    """Offset, bytes and values of the vectors of a row group; they are the last leaf of every output."""
    columns = parquet.metadata.row_group(group)
    vectors = columns.column(columns.num_columns - 1)
    return int(vectors.data_page_offset), int(vectors.total_compressed_size), int(vectors.num_values)


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
