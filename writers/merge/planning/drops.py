"""Rows that a merge leaves out because a later row has their id: found in any order, needed in the order of inputs.

A row is one word: number of the input (32 bits), number of the row (32 bits). Words are collected in buckets of
consecutive inputs with about four million rows each, sorted a bucket at a time, and kept as one sorted file beside
the plan, in which the worker of a group finds its rows by bisection.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import DamageError
from engine.ledger.log import Record
from writers.files.hashed_file import size_and_sha256
from writers.merge.ledger import write_durable_lines
from writers.proof.id_spill import Places

_BUCKET_ROWS = 4_000_000


@dataclass(slots=True)
class Drops:
    """Rows to leave out, while they are being found.

    Attributes:
        folder: Where the buckets lie.
        input_rows: Rows of each input.
        rows: How many are to be left out.
        bucket_starts: Number of the first input of each bucket.
    """

    folder: Path
    input_rows: npt.NDArray[np.int64]
    rows: int = 0
    bucket_starts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        buckets = (np.cumsum(self.input_rows) - self.input_rows) // _BUCKET_ROWS
        self.bucket_starts = [int(first) for first in np.unique(buckets, return_index=True)[1]]

    @staticmethod
    def add(folder: Path, bucket_starts: list[int], places: Places) -> None:
        """Put rows into their buckets; several processes may do so at the same time."""
        numbers = np.searchsorted(np.array(bucket_starts), (places >> np.uint64(32)).astype(np.int64), side="right")
        for number in np.unique(numbers):
            path = folder / f"{int(number) - 1:06d}.drops"
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
            try:
                view = places[numbers == number].data.cast("B")
                while len(view):
                    view = view[os.write(fd, view) :]
            finally:
                os.close(fd)


def write_drops(path: Path, drops: Drops) -> Record:
    """Write the sorted file, durable; returns what the PLAN record says of it."""

    def sorted_buckets() -> list[Path]:
        return sorted(drops.folder.glob("*.drops"))

    digest = write_durable_lines(
        path, (np.sort(np.fromfile(file, dtype=np.uint64)).tobytes() for file in sorted_buckets())
    )
    return {"file": path.name, "sha256": digest, "rows": drops.rows}


def check_drops(folder: Path, facts: Record) -> None:
    """Compare the sorted file with what the PLAN record says of it.

    Raises:
        DamageError: it is missing or differs.
    """
    path = folder / str(facts["file"])
    try:
        _, sha256 = size_and_sha256(path)
    except OSError as error:
        raise DamageError(f"{path} cannot be read ({error.strerror}): restore it from a copy") from error
    if sha256 != facts["sha256"]:
        raise DamageError(f"{path} is not what was written: restore it from a copy")


def dropped_rows(path: Path, number: int) -> npt.NDArray[np.int64]:
    """Numbers of the rows of one input that are left out, ascending."""
    words = np.memmap(path, dtype=np.uint64, mode="r")
    low, high = np.searchsorted(words, np.array([number << 32, (number + 1) << 32], dtype=np.uint64))
    return (np.array(words[low:high]) & np.uint64(0xFFFFFFFF)).astype(np.int64)
