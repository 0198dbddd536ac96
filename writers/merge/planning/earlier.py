"""What earlier merges of a target were made of, so that the next one leaves it out, and refuses what has changed.

A name alone does not tell: an older pipeline that starts again writes other rows under names it has used before. A file
is the one that was merged when size and time of modification agree; when only the time differs (a copy, a restored
file), its SHA-256 against the one in the output's lineage decides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow.parquet as pq

from engine.errors import ConfigError, DamageError
from writers.files.hashed_file import size_and_sha256
from writers.merge.ledger import MergeState, PlanFile, PlanState, sources_list
from writers.merge.planning.listing import Listing, Names
from writers.parquet.opening import UNREADABLE, unreadable
from writers.shards import schema

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Earlier:
    """All inputs of finished plans.

    Attributes:
        names: Sorted.
        sizes, mtimes: What they had, by name.
        plans, groups: Where they went, by name.
    """

    names: Names
    sizes: Numbers
    mtimes: Numbers
    plans: Numbers
    groups: Numbers

    def __len__(self) -> int:
        return len(self.names)


def earlier_inputs(target: Path, state: MergeState) -> Earlier:
    """What finished plans of a target name as their inputs."""
    names, numbers = [], []
    for plan in state.plans.values():
        if not plan.done:
            continue
        file = PlanFile(target, plan.record)
        for group in range(plan.n_groups):
            inputs = file.group(group)
            names.append(np.array([os.fsencode(item.name) for item in inputs], dtype=np.bytes_))
            rows = [(item.bytes, item.mtime_ns, plan.number, group) for item in inputs]
            numbers.append(np.array(rows, dtype=np.int64).reshape(-1, 4))
    if not names:
        nothing = np.empty(0, dtype=np.int64)
        return Earlier(np.empty(0, dtype=np.bytes_), nothing, nothing, nothing, nothing)
    all_names, table = np.concatenate(names), np.concatenate(numbers)
    order = np.argsort(all_names, kind="stable")
    return Earlier(all_names[order], *(table[order, side] for side in range(4)))


def without_earlier(source: Path, target: Path, state: MergeState, listing: Listing) -> tuple[Listing, int]:
    """Leave out what is merged; also says how many these are.

    Raises:
        ConfigError: a file under a merged name holds something else now.
        DamageError: what was merged cannot be looked up.
    """
    earlier = earlier_inputs(target, state)
    if not len(earlier) or not len(listing):
        return listing, 0
    width = max(earlier.names.dtype.itemsize, listing.names.dtype.itemsize)
    mine, theirs = listing.names.astype(f"S{width}"), earlier.names.astype(f"S{width}")
    at = np.minimum(np.searchsorted(theirs, mine), len(theirs) - 1)
    merged = theirs[at] == mine
    changed = np.flatnonzero(merged & (earlier.sizes[at] != listing.sizes))
    if len(changed):
        raise _changed(os.fsdecode(bytes(listing.names[changed[0]])))
    touched = np.flatnonzero(merged & (earlier.mtimes[at] != listing.mtimes))
    recorded = _Recorded(target, state)
    for number in touched[np.lexsort((earlier.groups[at[touched]], earlier.plans[at[touched]]))]:
        name = os.fsdecode(bytes(listing.names[number]))
        entry = int(at[number])
        if _sha256(source / name, name) != recorded.sha256(int(earlier.plans[entry]), int(earlier.groups[entry]), name):
            raise _changed(name)
    return listing.select(~merged), int(merged.sum())


def _changed(name: str) -> ConfigError:
    return ConfigError(
        f"{name} was merged and holds something else now: give new content a new name, or merge into an empty --target"
    )


def _sha256(path: Path, name: str) -> str:
    try:
        return size_and_sha256(path)[1]
    except OSError as error:
        raise unreadable(name, error) from error


class _Recorded:
    """SHA-256 of inputs as the lineage of outputs tells them; holds those of one group at a time."""

    def __init__(self, target: Path, state: MergeState) -> None:
        self._target = target
        self._state = state
        self._held: tuple[int, int] | None = None
        self._sha256s: dict[str, str] = {}

    def sha256(self, plan: int, group: int, name: str) -> str:
        """What the file had when it was merged; empty when no lineage names it.

        Raises:
            DamageError: the lineage cannot be read.
        """
        wanted = self._state.plans[plan]
        key = (plan, -1 if wanted.sorted else group)
        if self._held != key:
            self._sha256s = dict(self._lineage(wanted, group))
            self._held = key
        return self._sha256s.get(name, "")

    def _lineage(self, plan: PlanState, group: int) -> Iterator[list[str]]:
        path = self._target / (sources_list(plan.number) if plan.sorted else str(plan.merged[group]["file"]))
        try:
            if plan.sorted:
                with path.open("rb") as stream:
                    yield from map(orjson.loads, stream)
            else:
                yield from orjson.loads(pq.read_metadata(path).metadata[schema.KEY_LINEAGE])["files"]
        except (*UNREADABLE, KeyError) as error:
            raise DamageError(
                f"{path} cannot be read ({error}), which tells what was merged before: restore it from a copy"
            ) from error
