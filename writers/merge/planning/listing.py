"""Which files a merge is about: the committed shards of a ledger, or every Parquet file below a folder.

A folder may hold a million files, so names live in fixed-width arrays, not in a list of Python objects, and lists of
inputs pass from process to process through files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from engine.errors import ConfigError, DamageError
from engine.ledger.log import RunState
from writers.merge.ledger import PlannedInput
from writers.merge.start import parquet_files
from writers.parquet.access import FileAccess
from writers.parquet.merge_schema import MergeSchema

CHUNK_INPUTS = 1000
_BATCH = 20_000

Names = npt.NDArray[np.bytes_]


@dataclass(frozen=True, slots=True)
class Listing:
    """Inputs in merge order.

    Attributes:
        names: Paths below the source folder, bytes as the file system has them.
        sizes: Bytes.
        mtimes: Time of modification in ns, 0 where a ledger vouches for the content.
        commits: COMMIT records, in the same order, when a ledger says what there is.
    """

    names: Names
    sizes: npt.NDArray[np.int64]
    mtimes: npt.NDArray[np.int64]
    commits: list[dict[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def select(self, keep: npt.NDArray[np.bool_]) -> Listing:
        """Some of the inputs, in the same order."""
        commits = None
        if self.commits is not None:
            commits = [commit for commit, kept in zip(self.commits, keep, strict=True) if kept]
        return Listing(self.names[keep], self.sizes[keep], self.mtimes[keep], commits)

    def planned(self, number: int, rows: int) -> PlannedInput:
        """One input as a plan names it."""
        name, size = os.fsdecode(bytes(self.names[number])), int(self.sizes[number])
        if self.commits is None:
            return PlannedInput(name, size, int(self.mtimes[number]), rows)
        commit = self.commits[number]
        return PlannedInput(name, size, 0, rows, commit["sha256"], commit["id_digest"])

    def lines(self) -> Iterator[bytes]:
        """The inputs as JSON, a chunk a line; rows are what the ledger says, or -1 when nobody knows yet."""
        for start in range(0, len(self), CHUNK_INPUTS):
            numbers = range(start, min(start + CHUNK_INPUTS, len(self)))
            rows = [-1 if self.commits is None else int(self.commits[number]["rows"]) for number in numbers]
            yield orjson.dumps([tuple(self.planned(*pair)) for pair in zip(numbers, rows, strict=True)]) + b"\n"


def list_committed(source: Path, access: FileAccess, state: RunState, done: Names) -> tuple[Listing, int]:
    """The committed shards that are not merged yet, in commit order; and how many are.

    Raises:
        DamageError: a shard is missing or has another size.
    """
    done_names = set(done.tolist())
    objects = None if access.is_local else access.sizes(source)
    commits, merged = [], 0
    for commit in state.commits.values():
        if commit["file"].encode() in done_names:
            merged += 1
            continue
        path = access.path(source, commit["file"])
        try:
            size = Path(path).stat().st_size if objects is None else _size_of(commit["file"], objects)
        except OSError as error:
            raise DamageError(
                f"the committed shard {path} is missing ({error.strerror}): restore it from a copy"
            ) from error
        if size != commit["bytes"]:
            raise DamageError(
                f"the committed shard {path} has {size} bytes, its ledger says {commit['bytes']}: "
                "restore it from a copy"
            )
        commits.append(commit)
    names = np.array([commit["file"].encode() for commit in commits], dtype=np.bytes_)
    sizes = np.array([commit["bytes"] for commit in commits], dtype=np.int64)
    return Listing(names, sizes, np.zeros(len(commits), dtype=np.int64), commits), merged


def _size_of(file: str, objects: dict[str, int]) -> int:
    if file not in objects:
        raise FileNotFoundError(2, "no such object", file)
    return objects[file]


def folder_keys(names: Iterable[str], schema: MergeSchema) -> list[str]:
    """Columns that only folders called `key=value` hold, as Hive, Spark and pyarrow write them.

    Args:
        names: Paths of inputs below their source folder.
        schema: Says which columns are carried.
    """
    folders = {name.rpartition("/")[0] for name in names if "=" in name}
    keys = {part.partition("=")[0] for folder in folders for part in folder.split("/") if "=" in part}
    return sorted(keys - {schema.vector_source, *(source for source, _ in schema.sources)})


def list_folder(source: Path, target: Path) -> Listing:
    """Every Parquet file below a folder, by name; hidden files and folders, `_` files and the target are left out.

    Raises:
        ConfigError: the folder cannot be listed.
    """
    skipped = target.resolve()
    parts: list[tuple[Names, npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
    batch: list[tuple[bytes, int, int]] = []

    def pack() -> None:
        if batch:
            names = np.array([item[0] for item in batch], dtype=np.bytes_)
            numbers = np.array([item[1:] for item in batch], dtype=np.int64)
            parts.append((names, numbers[:, 0].copy(), numbers[:, 1].copy()))
            batch.clear()

    try:
        for item in parquet_files(source, skipped):
            batch.append(item)
            if len(batch) >= _BATCH:
                pack()
    except OSError as error:
        raise ConfigError(f"cannot list {error.filename} ({error.strerror}): name a readable --source") from error
    pack()
    if not parts:
        empty = np.empty(0, dtype=np.int64)
        return Listing(np.empty(0, dtype=np.bytes_), empty, empty)
    names, sizes, mtimes = (np.concatenate([part[side] for part in parts]) for side in range(3))
    parts.clear()
    order = np.argsort(names, kind="stable")
    return Listing(names[order], sizes[order], mtimes[order])
