"""Done ids: those of committed documents, for runs that mark nothing (`--no-mark`); from the shards, asked by page.

One sorted array of fixed-width keys: 8 bytes an id for int64 (exact), 16 bytes for any other type (BLAKE2b-128 of
the id as the id column holds it; two of a billion ids collide with a chance of 1 in 10^21). Memory and disk are
bounded by that: 600 million int64 ids take 4.8 GB of a file that the kernel maps and may drop again.

Only this mode imports numpy into the reader's process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ConfigError
from engine.memory.ids import IdType

Keys = npt.NDArray[Any]
Ids = Sequence[int] | Sequence[str] | Sequence[bytes]
"""Ids as the id column holds them: int64, text, or 12 bytes."""

_MAGIC = b"engine done ids 1 "
_HEADER_BYTES = 32
_MAX_RUNS = 12


def build(path: Path, id_type: IdType, portions: Iterable[Ids]) -> int:
    """Write the file that `DoneIds` reads; it is a temporary that every start makes anew.

    Args:
        path: The file; replaced.
        id_type: Type of the id column.
        portions: All ids, in any order and in portions of any size; one portion at a time is held in memory.

    Returns:
        How many ids were written.

    Raises:
        OSError: the device is full or failing.
    """
    n_ids = 0
    with path.open("wb") as stream:
        stream.write(_header(id_type))
        for portion in portions:
            stream.write(_keys(id_type, portion).tobytes())
            n_ids += len(portion)
    if n_ids:
        keys = np.memmap(path, dtype=_dtype(id_type), mode="r+", offset=_HEADER_BYTES)
        keys.sort()
        keys.flush()
    return n_ids


class DoneIds:
    """Looks up which ids are done, and takes in more while the run goes on."""

    def __init__(self, path: Path | None, id_type: IdType) -> None:
        """Map a file of `build`, or begin with none.

        Raises:
            ConfigError: the file cannot be read or is of another id type.
        """
        self._id_type = id_type
        self._runs: list[Keys] = []
        if path is not None:
            self.add_file(path)

    def add_file(self, path: Path) -> None:
        """Map a further file of `build`.

        Raises:
            ConfigError: the file cannot be read or is of another id type.
        """
        id_type = self._id_type
        try:
            with path.open("rb") as stream:
                header = stream.read(_HEADER_BYTES)
        except OSError as error:
            raise ConfigError(f"the list of done ids {path} cannot be read ({error.strerror})") from error
        if header != _header(id_type):
            raise ConfigError(f"{path} is not a list of done ids of the type {id_type.value}; let the run make it anew")
        if path.stat().st_size > _HEADER_BYTES:
            self._runs.append(np.memmap(path, dtype=_dtype(id_type), mode="r", offset=_HEADER_BYTES))

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def contains(self, ids: Ids) -> list[bool]:
        """For each id, whether it is done."""
        wanted = _keys(self._id_type, ids)
        found = np.zeros(len(wanted), dtype=bool)
        order = np.argsort(wanted)  # neighbours then touch neighbouring pages of the file
        ordered = wanted[order]
        for run in self._runs:
            at = np.minimum(np.searchsorted(run, ordered), len(run) - 1)
            found[order] |= run[at] == ordered
        hits: list[bool] = found.tolist()
        return hits

    def add(self, ids: Ids) -> None:
        """Take in ids that are done now."""
        if not ids:
            return
        self._runs.append(np.sort(_keys(self._id_type, ids)))
        if len(self._runs) > _MAX_RUNS:
            base = [run for run in self._runs if isinstance(run, np.memmap)]
            added = [run for run in self._runs if not isinstance(run, np.memmap)]
            self._runs = [*base, *_merged(added)]


def _merged(runs: list[Keys]) -> list[Keys]:
    """Merge small runs with each other, so that each id is copied a few times only (sizes grow geometrically)."""
    runs = sorted(runs, key=len)
    while len(runs) > 1 and len(runs[0]) * 4 >= len(runs[1]):
        joined = np.concatenate(runs[:2])
        joined.sort()
        runs = sorted([joined, *runs[2:]], key=len)
    if len(runs) > _MAX_RUNS // 2:
        joined = np.concatenate(runs)
        joined.sort()
        runs = [joined]
    return runs


def _dtype(id_type: IdType) -> str:
    return "<i8" if id_type is IdType.INT64 else "S16"


def _keys(id_type: IdType, ids: Ids) -> Keys:
    if id_type is IdType.INT64:
        return np.array(ids, dtype="<i8")
    digest = hashlib.blake2b
    joined = b"".join(
        digest(value.encode() if isinstance(value, str) else bytes(value), digest_size=16).digest() for value in ids
    )
    return np.frombuffer(joined, dtype="S16")


def _header(id_type: IdType) -> bytes:
    return (_MAGIC + id_type.value.encode()).ljust(_HEADER_BYTES)
