"""Level 5: some rows at random, their documents' texts embedded again, the vectors compared by cosine."""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from engine.ports import IdList
from writers.parquet.access import FileAccess
from writers.parquet.merge_schema import MergeSchema
from writers.parquet.rows import to_matrix
from writers.shards.schema import ID
from writers.verify.config import Documents, Embedder, Findings, VerifyConfig

_BATCH_ROWS = 512
_EMBED_ROWS = 32
_LOOKED_AT = 16
"""Times the sample: rows whose texts' lengths are looked at."""
_ONE_LONG_IN = 4
"""Of so many rows of the sample one of a long text is added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the sample showed.

    Attributes:
        rows: Rows compared.
        cosine: Lowest and mean, or None without any.
        not_checked: What could not be compared.
    """

    rows: int
    cosine: dict[str, float] | None
    not_checked: list[str]


def check_sample(
    config: VerifyConfig,
    files: list[tuple[str, int]],
    schema: MergeSchema,
    documents: Documents,
    embedder: Embedder,
    findings: Findings,
) -> Sample:
    """Compare rows chosen by `config.seed` out of `files` (path, rows) with what the servers say now.

    Besides `config.sample_rows` rows at random go those of the longest texts among many more: some servers give long
    texts other vectors in some company. Each of these is embedded alone.
    """
    ends = list(itertools.accumulate(rows for _, rows in files))
    total = ends[-1] if ends else 0
    random = np.random.Generator(np.random.PCG64(config.seed))
    n_looked_at = min(_LOOKED_AT * config.sample_rows, total)
    drawn = [int(row) for row in random.choice(total, n_looked_at, replace=False)]
    places = []
    for row in drawn:
        number = bisect.bisect_right(ends, row)
        places.append((files[number][0], row - (ends[number - 1] if number else 0)))
    usual, others = places[: config.sample_rows], places[config.sample_rows :]
    cosines: list[float] = []
    without_text = 0
    access = FileAccess(config.cold)
    usual_pairs = list(rows_at(sorted(usual), schema, access))
    longest = _longest(others, schema, documents, config.sample_rows // _ONE_LONG_IN, access)
    long_pairs = list(rows_at(sorted(longest), schema, access))
    batches = [usual_pairs[start : start + _EMBED_ROWS] for start in range(0, len(usual_pairs), _EMBED_ROWS)]
    for batch in [*batches, *([pair] for pair in long_pairs)]:
        texts = documents.texts(cast(IdList, [value for value, _ in batch]))
        kept = [(pair, text) for pair, text in zip(batch, texts, strict=True) if text is not None]
        without_text += len(batch) - len(kept)
        if not kept:
            continue
        again = embedder([text for _, text in kept])
        for ((value, vector), _), fresh in zip(kept, again, strict=True):
            cosine = _cosine(vector, fresh)
            cosines.append(cosine)
            if not cosine >= config.min_cosine:
                shown = value.hex() if isinstance(value, bytes) else value
                findings.add("drifted", f"id {shown}: cosine {cosine:.6f} is below {config.min_cosine}")
    left = [f"{without_text} sampled rows have no document or no text any more"] if without_text else []
    summary = None
    if cosines:
        summary = {"lowest": round(min(cosines), 6), "mean": round(sum(cosines) / len(cosines), 6)}
    return Sample(rows=len(cosines), cosine=summary, not_checked=left)


def _longest(
    places: list[tuple[str, int]], schema: MergeSchema, documents: Documents, most: int, files: FileAccess
) -> list[tuple[str, int]]:
    """The rows among some (path, row) whose documents have the longest texts."""
    lengths: list[tuple[int, tuple[str, int]]] = []
    for start in range(0, len(places) if most else 0, _BATCH_ROWS):
        part = places[start : start + _BATCH_ROWS]
        texts = documents.texts(ids_at(part, schema, files))
        lengths += [(len(text), place) for text, place in zip(texts, part, strict=True) if text is not None]
    return [place for _, place in heapq.nlargest(most, lengths)]


def _cosine(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    if one.shape != other.shape:
        return float("nan")
    a, b = one.astype(np.float64), other.astype(np.float64)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else float("nan")


def ids_at(places: list[tuple[str, int]], schema: MergeSchema, files: FileAccess) -> IdList:
    """The ids of some rows (path, row), in the order given; only id columns are read."""
    found: dict[tuple[str, int], Any] = {}
    for path, rows in _by_file(places).items():
        with pq.ParquetFile(files.source(path), pre_buffer=False) as parquet:
            first = 0
            for group in range(parquet.num_row_groups):
                n_rows = parquet.metadata.row_group(group).num_rows
                wanted = [row for row in rows if first <= row < first + n_rows]
                if wanted:
                    column = parquet.read_row_group(group, columns=[schema.id_source], use_threads=False).column(0)
                    found.update({(path, row): column[row - first].as_py() for row in wanted})
                first += n_rows
    return cast(IdList, [found[place] for place in places])


def rows_at(
    places: list[tuple[str, int]], schema: MergeSchema, files: FileAccess
) -> Iterator[tuple[Any, npt.NDArray[Any]]]:
    """Id and vector of some rows (path, row), file by file; reads a row group only as far as needed."""
    columns = [schema.id_source, schema.vector_source]
    for path, rows in _by_file(places).items():
        with pq.ParquetFile(files.source(path), pre_buffer=False, buffer_size=1 << 20) as parquet:
            first = 0
            for group in range(parquet.num_row_groups):
                n_rows = parquet.metadata.row_group(group).num_rows
                wanted = sorted(row - first for row in rows if first <= row < first + n_rows)
                if wanted:
                    yield from _rows_of_group(path, parquet, group, columns, wanted, schema)
                first += n_rows


def _rows_of_group(
    path: str, parquet: pq.ParquetFile, group: int, columns: list[str], wanted: list[int], schema: MergeSchema
) -> Iterator[tuple[Any, npt.NDArray[Any]]]:
    start = 0
    waiting = list(wanted)
    for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False):
        inside = [row - start for row in waiting if row < start + batch.num_rows]
        if inside:
            matrix = to_matrix(path, batch.column(schema.vector_source), schema, start)
            ids = batch.column(schema.id_source).cast(schema.arrow.field(ID).type)
            for row in inside:
                yield ids[row].as_py(), matrix[row].copy()
            waiting = waiting[len(inside) :]
        start += batch.num_rows
        if not waiting:
            return


def _by_file(places: list[tuple[str, int]]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = defaultdict(list)
    for path, row in places:
        rows[path].append(row)
    return rows
