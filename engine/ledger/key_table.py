"""A table of digests that grows on disk and not in memory: which keys were seen, with a small number for each.

    file      regions, one a partition, each open-addressed:  [15 bytes digest | 1 byte number] ...
    memory    where each partition's region begins, how long it is, and how full

A digest is BLAKE2b-120 of a key; two of a billion keys collide with a chance of 1 in 10^18. The file has no name, so
nothing is left of it after a kill; it is made anew from what it indexes. A region that is two thirds full is copied
into one four times as long at the file's end, which takes milliseconds: there are many partitions.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from engine.errors import SinkError

_DIGEST_BYTES = 15
_SLOT_BYTES = 16
_PARTITIONS = 1024
_FIRST_SLOTS = 64
_EMPTY = bytes(_SLOT_BYTES)


def digest_of(key: bytes) -> bytes:
    """What stands for a key in the table."""
    return hashlib.blake2b(key, digest_size=_DIGEST_BYTES).digest()


class KeyTable:
    """Numbers from 1 to 255 by digest, in an unnamed file; memory stays the same whatever it holds."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: Where the file lies.

        Raises:
            SinkError: the folder cannot be written.
        """
        self._folder = folder
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by `close`
        except OSError as error:
            raise self._refused(error) from error
        self._fd = self._file.fileno()
        self._starts = [0] * _PARTITIONS
        self._slots = [0] * _PARTITIONS
        self._used = [0] * _PARTITIONS
        self._end = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def get(self, digest: bytes) -> int:
        """The number of a digest, 0 when it is not there."""
        partition = self._partition(digest)
        if not self._slots[partition]:
            return 0
        return self._find(partition, digest)[1]

    def put(self, digest: bytes, number: int) -> None:
        """Set the number of a digest, whether it is there or not.

        Raises:
            SinkError: the device is full or failing.
        """
        partition = self._partition(digest)
        try:
            if self._used[partition] * 3 >= self._slots[partition] * 2:
                self._grow(partition)
            at, old = self._find(partition, digest)
            os.pwrite(self._fd, digest + bytes((number,)), at)
        except OSError as error:
            raise self._refused(error) from error
        if not old:
            self._used[partition] += 1
            self._count += 1

    def change(self, digest: bytes, old: int, new: int) -> int:
        """Set the number of a digest to `new` if it is `old`; what it was, 0 when the digest is not there.

        Raises:
            SinkError: the device is full or failing.
        """
        partition = self._partition(digest)
        if not self._slots[partition]:
            return 0
        at, number = self._find(partition, digest)
        if number == old:
            try:
                os.pwrite(self._fd, digest + bytes((new,)), at)
            except OSError as error:
                raise self._refused(error) from error
        return number

    def close(self) -> None:
        """Close the file, which ends it."""
        self._file.close()

    @staticmethod
    def _partition(digest: bytes) -> int:
        return (digest[0] << 8 | digest[1]) % _PARTITIONS

    def _find(self, partition: int, digest: bytes) -> tuple[int, int]:
        """Where in the file a digest stands, or would; and its number, 0 when it is not there."""
        start, mask = self._starts[partition], self._slots[partition] - 1
        slot = _home(digest) & mask
        while True:
            at = start + slot * _SLOT_BYTES
            found = os.pread(self._fd, _SLOT_BYTES, at)
            if found == _EMPTY:
                return at, 0
            if found[:_DIGEST_BYTES] == digest:
                return at, found[_DIGEST_BYTES]
            slot = (slot + 1) & mask

    def _grow(self, partition: int) -> None:
        n_slots = self._slots[partition]
        old = os.pread(self._fd, n_slots * _SLOT_BYTES, self._starts[partition]) if n_slots else b""
        wider = max(_FIRST_SLOTS, n_slots * 4)
        region = bytearray(wider * _SLOT_BYTES)
        for at in range(0, len(old), _SLOT_BYTES):
            entry = old[at : at + _SLOT_BYTES]
            if entry == _EMPTY:
                continue
            slot = _home(entry) & (wider - 1)
            while region[slot * _SLOT_BYTES + _DIGEST_BYTES]:
                slot = (slot + 1) & (wider - 1)
            region[slot * _SLOT_BYTES : (slot + 1) * _SLOT_BYTES] = entry
        written = 0
        while written < len(region):
            written += os.pwrite(self._fd, memoryview(region)[written:], self._end + written)
        self._starts[partition], self._slots[partition] = self._end, wider
        self._end += len(region)

    def _refused(self, error: OSError) -> SinkError:
        return SinkError(
            f"cannot write the index of the quarantine into {self._folder} ({error.strerror}): free space on "
            "--hot-dir, then run the same command again"
        )


def _home(digest: bytes) -> int:
    return int.from_bytes(digest[2:8], "little")
