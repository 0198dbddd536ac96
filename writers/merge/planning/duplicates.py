"""Ids that are in several inputs, or in a finished output too: refused, or settled for the latest row of each."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import DamageError
from engine.memory.channels import Message
from writers.merge.config import MergeConfig
from writers.merge.ledger import PlannedInput
from writers.merge.planning.drops import Drops
from writers.merge.planning.listing import Listing
from writers.proof.id_spill import Partition, row_of, source_of
from writers.workers.pool import Pool, Report
from writers.workers.tracker import Tracker

_EXAMPLES = 5


def settle_duplicates(
    config: MergeConfig,
    listing: Listing,
    old: list[PlannedInput],
    pool: Pool,
    folder: Path,
    n_partitions: int,
    rows: npt.NDArray[np.int64],
    tracker: Tracker,
) -> Drops | None:
    """Refuse ids that are there twice, or choose the latest row of each.

    Raises:
        DamageError: `error` was asked for; or the older row lies in a finished output, which is never rewritten.
    """
    n_inputs = len(listing)
    drops = Drops(folder, rows) if config.on_duplicate == "latest" else None
    rank_file = folder / "ranks"
    if drops is not None:
        _ranks(listing).tofile(rank_file)
    jobs = [
        {
            "task": "writers.merge.planning.duplicates:find_duplicates",
            "spill": str(folder),
            "partition": partition,
            "n_inputs": n_inputs,
            "ranks": str(rank_file) if drops is not None else None,
            "bucket_starts": drops.bucket_starts if drops is not None else None,
        }
        for partition in range(n_partitions)
    ]
    refused, examples = 0, []
    tracker.begin("ids", None, n_partitions)
    for _, result in pool.run(jobs, lambda _: None):
        tracker.take({"files": 1})
        refused += result["refused"]
        examples += result["examples"]
        if drops is not None:
            drops.rows += result["dropped"]
    if refused:
        raise _duplicate_error(config, listing, old, refused, examples)
    return drops if drops is not None and drops.rows else None


def _ranks(listing: Listing) -> npt.NDArray[np.uint32]:
    """Which input is later: by commit, or by file time and then by name."""
    ranks = np.empty(len(listing), dtype=np.uint32)
    order = np.arange(len(listing)) if listing.commits is not None else np.argsort(listing.mtimes, kind="stable")
    ranks[order] = np.arange(len(listing), dtype=np.uint32)
    return ranks


def find_duplicates(job: Message, _report: Report) -> Message:
    """Task: find equal ids in one partition; drop all but the latest row of each, or count what cannot be dropped."""
    folder = Path(job["spill"])
    partition = Partition.load_repeated(folder, int(job["partition"]))
    n_inputs = int(job["n_inputs"])
    ranks = None if job["ranks"] is None else np.fromfile(job["ranks"], dtype=np.uint32)
    refused, dropped = 0, []
    examples: list[list[int]] = []
    for start, end in partition.groups():
        group = [int(place) for place in partition.places[start:end]]
        if ranks is None or any(source_of(place) >= n_inputs for place in group):
            refused += end - start - 1
            if len(examples) < _EXAMPLES:
                examples.append(group[:2])
            continue
        latest = max(group, key=lambda place: (ranks[source_of(place)], row_of(place)))
        dropped += [place for place in group if place != latest]
    if dropped:
        Drops.add(folder, job["bucket_starts"], np.array(dropped, dtype=np.uint64))
    return {"refused": refused, "examples": examples, "dropped": len(dropped)}


def _duplicate_error(
    config: MergeConfig, listing: Listing, old: list[PlannedInput], count: int, examples: list[list[int]]
) -> DamageError:
    def name(place: int) -> str:
        source = source_of(place)
        known = os.fsdecode(bytes(listing.names[source])) if source < len(listing) else old[source - len(listing)].name
        return f"{known} row {row_of(place)}"

    shown = "; ".join(" and ".join(name(place) for place in pair) for pair in examples[:_EXAMPLES])
    advice = "merge with --on-duplicate latest to keep the latest row of each"
    if config.on_duplicate == "latest":
        advice = "finished files are never rewritten; merge everything into an empty --target"
    return DamageError(f"{count} rows have an id that another row has too, for example {shown}: {advice}")
