"""Level 3 across files and level 4: ids against ids, partition by partition (writers/proof/id_spill.py).

All ids of all files are spilled while the files are checked, 24 bytes a row; for level 4 the ids of all marked
documents follow, as one more source. A partition holds all occurrences of its keys, so a key's rows and marks meet in
it. Nothing is ever held for all ids at once: 400 million ids are 512 partitions of 19 MB.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.memory.channels import Message
from writers.proof.id_spill import Partition
from writers.workers.pool import Report

MARKED = (1 << 32) - 1
"""The source number of marked documents."""

MERGED_SHARD, LIVE_SHARD, OUTPUT = 0, 1, 2
"""What a file is: a shard whose rows an output holds too, one whose rows are nowhere else, an output."""

MAX_PLACES = 2000
_SOURCE_BITS = np.uint64(32)


def compare_partition(job: Message, _report: Report) -> Message:
    """Task: find, in one partition, ids that are there twice and, with marks, rows and marks that are alone.

    Returns counts; for duplicates pairs of places, for rows without a mark places, for marks without a row keys.
    """
    partition = Partition.load(Path(job["spill"]), int(job["partition"]))
    kinds = np.fromfile(job["kinds"], dtype=np.uint8)
    n_rows = len(partition.places)
    if not n_rows:
        return {"duplicates": 0, "pairs": [], "unmarked": 0, "places": [], "marked_only": 0, "keys": []}
    sources = (partition.places >> _SOURCE_BITS).astype(np.int64)
    is_mark = sources == MARKED
    kind = np.full(len(sources), -1, dtype=np.int64)  # signed, whatever type `kinds` has: -1 is no kind of file
    kind[~is_mark] = kinds[sources[~is_mark]]
    new = np.concatenate(([True], (partition.keys[1:] != partition.keys[:-1]).any(axis=1)))
    starts = np.flatnonzero(new)
    among_shards = _counts((kind == MERGED_SHARD) | (kind == LIVE_SHARD), starts)
    among_live = _counts((kind == LIVE_SHARD) | (kind == OUTPUT), starts)
    surplus = np.maximum(np.maximum(among_shards, among_live) - 1, 0)
    pairs = [_pair(partition, kind, starts, int(group)) for group in np.flatnonzero(surplus)[:10]]
    found: dict[str, Any] = {"duplicates": int(surplus.sum()), "pairs": pairs}
    alone = np.zeros(len(starts), dtype=bool)
    marked_only = alone
    if job["marks"]:
        marked = _counts(is_mark, starts) > 0
        alone = (among_live > 0) & ~marked
        marked_only = marked & (among_live == 0)
    rows_alone = _first_live(kind, starts, np.flatnonzero(alone)[:MAX_PLACES])
    return {
        **found,
        "unmarked": int(alone.sum()),
        "places": [int(partition.places[row]) for row in rows_alone],
        "marked_only": int(marked_only.sum()),
        "keys": [[int(word) for word in partition.keys[starts[group]]] for group in np.flatnonzero(marked_only)[:10]],
    }


def _counts(flags: npt.NDArray[np.bool_], starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.add.reduceat(flags.astype(np.int64), starts)


def _pair(partition: Partition, kind: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], group: int) -> list[int]:
    """Two rows with one id, both among the shards or both among the live files."""
    start = int(starts[group])
    end = int(starts[group + 1]) if group + 1 < len(starts) else len(kind)
    for wanted in ((MERGED_SHARD, LIVE_SHARD), (LIVE_SHARD, OUTPUT)):
        rows = [row for row in range(start, end) if kind[row] in wanted]
        if len(rows) > 1:
            return [int(partition.places[row]) for row in rows[:2]]
    raise AssertionError("a group without two rows of a kind")  # surplus counted them


def _first_live(kind: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], groups: npt.NDArray[np.int64]) -> list[int]:
    rows = []
    for group in groups:
        row = int(starts[group])
        while kind[row] not in (LIVE_SHARD, OUTPUT):
            row += 1
        rows.append(row)
    return rows
