"""Finding equal ids among any number of rows, with bounded memory: partitions of 128-bit keys on disk.

Every id becomes a key of 128 bits (`writers.proof.digests.id_keys`: exact for int64 and object ids, BLAKE2b for
strings) and goes, with the place of its row, into one of up to 512 partitions by the key's highest bits: 24 bytes a
row, 9.6 GB at 400 million rows. Equal ids meet in one partition, which is loaded alone (19 MB at 400 million rows),
sorted by its keys, and compared with its neighbours. Partitions are independent, so the cores share them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import SinkError
from writers.proof.digests import Words

ROW_BYTES = 24
_PARTITION_BYTES = 16 << 20
_MAX_PARTITIONS = 512
_BUFFER_BYTES = 12 << 20
_ROW_BITS = np.uint64(32)

Places = npt.NDArray[np.uint64]


def partitions_for(n_rows: int) -> int:
    """How many partitions (a power of two) keep each of them small."""
    count = 1
    while count < _MAX_PARTITIONS and n_rows * ROW_BYTES > count * _PARTITION_BYTES:
        count *= 2
    return count


def places(source: int, first_row: int, n_rows: int) -> Places:
    """The places of consecutive rows: number of the source (32 bits), number of the row in it (32 bits)."""
    return (np.uint64(source) << _ROW_BITS) + np.arange(first_row, first_row + n_rows, dtype=np.uint64)


def places_of(starts: Sequence[tuple[int, int, int]]) -> Places:
    """The places of the rows of several sources, at once: `places` of each of the starts, one behind the other."""
    sources, first_rows, counts = np.array(starts, dtype=np.int64).reshape(-1, 3).T
    ends = np.cumsum(counts)
    shifts = np.repeat(first_rows - (ends - counts), counts)
    rows = np.arange(len(shifts)) + shifts
    found: Places = (np.repeat(sources.astype(np.uint64), counts) << _ROW_BITS) + rows.astype(np.uint64)
    return found


def source_of(place: int) -> int:
    """The source's number."""
    return int(place) >> 32


def row_of(place: int) -> int:
    """The row's number in its source."""
    return int(place) & 0xFFFFFFFF


class IdSpill:
    """Collects keys and places of one process in its partition files."""

    def __init__(self, folder: Path, n_partitions: int) -> None:
        self._folder = folder
        self._shift = np.uint64(64 - (n_partitions - 1).bit_length())
        self._n_partitions = n_partitions
        self._pieces: list[Words] = []
        self._rows = 0

    def add(self, keys: Words, at: Places) -> None:
        """Take in keys (n_rows, 2) and places (n_rows)."""
        self._pieces.append(np.column_stack((keys, at)))
        self._rows += len(at)
        if self._rows * ROW_BYTES >= _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is buffered.

        Raises:
            SinkError: the device refused.
        """
        if not self._rows:
            return
        rows = np.concatenate(self._pieces)
        self._pieces, self._rows = [], 0
        try:
            if self._n_partitions == 1:
                self._write(0, rows)
                return
            numbers = (rows[:, 0] >> self._shift).astype(np.int64)
            order = np.argsort(numbers, kind="stable")
            rows, numbers = rows[order], numbers[order]
            bounds = np.searchsorted(numbers, np.arange(self._n_partitions + 1))
            for number in np.unique(numbers):
                self._write(int(number), rows[bounds[number] : bounds[number + 1]])
        except OSError as error:
            raise SinkError(
                f"cannot write temporary files to {self._folder} ({error.strerror}): free space, "
                "or name another --temp-dir"
            ) from error

    def _write(self, number: int, rows: Words) -> None:
        """Append to one partition; opened each time, because 512 handles a process are more than some limits allow."""
        path = self._folder / _file_name(f"{number:04d}", os.getpid())
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            view = np.ascontiguousarray(rows).data.cast("B")
            while len(view):
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Partition:
    """All rows of one partition, sorted by key.

    Attributes:
        keys: (n_rows, 2).
        places: (n_rows), ascending among equal keys.
    """

    keys: Words
    places: Places

    @classmethod
    def load(cls, folder: Path, number: int) -> Partition:
        """Read and sort a partition from the files of all processes."""
        return cls._sorted(_read(folder, number))

    @classmethod
    def load_repeated(cls, folder: Path, number: int) -> Partition:
        """The same without the rows whose key's first word is there once: no other row can have their key.

        Where all ids differ, that is nearly all of them, and one sort of single words has shown it.
        """
        rows = _read(folder, number)
        words = np.sort(rows[:, 0])
        repeated = words[1:][words[1:] == words[:-1]]
        return cls._sorted(rows[np.isin(rows[:, 0], repeated)] if len(repeated) else rows[:0])

    @classmethod
    def _sorted(cls, rows: Words) -> Partition:
        order = np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))
        return cls(rows[order, :2], rows[order, 2])

    def groups(self) -> list[tuple[int, int]]:
        """Runs of equal keys longer than one, as (first, behind the last)."""
        same = (self.keys[1:] == self.keys[:-1]).all(axis=1)
        if not same.any():
            return []
        edges = np.flatnonzero(np.diff(np.concatenate(([False], same, [False])).astype(np.int8)))
        return [(int(start), int(end) + 1) for start, end in edges.reshape(-1, 2)]


def forget(folder: Path, process: int, first: int, end: int) -> None:
    """Take back what a process that is no more has collected of the sources from `first` to before `end`.

    Raises:
        OSError: the device refused.
    """
    for path in folder.glob(_file_name("*", process)):
        rows = np.fromfile(path, dtype=np.uint64).reshape(-1, 3)
        sources = rows[:, 2] >> _ROW_BITS
        rows[(sources < first) | (sources >= end)].tofile(path)


def _file_name(number: str, process: int | str) -> str:
    return f"{number}.{process}.keys"


def _read(folder: Path, number: int) -> Words:
    files = sorted(folder.glob(_file_name(f"{number:04d}", "*")))
    rows = np.concatenate([np.fromfile(path, dtype=np.uint64) for path in files] or [np.empty(0, dtype=np.uint64)])
    return rows.reshape(-1, 3)


def remove_spill(folder: Path) -> None:
    """Delete the partition files and the folder."""
    if not folder.exists():
        return
    for path in folder.iterdir():
        path.unlink(missing_ok=True)
    folder.rmdir()
