"""The file of an output while it is written: bytes may be filled in behind the end, and go to the device early.

Without that the last fsync finds the whole file in memory, and its worker waits for a device that has been idle.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from engine.ledger import durable

_WRITE_OUT_BYTES = 16 << 20
_SYNC_FILE_RANGE_WRITE = 2


class MergeFile:
    """A new file that can be written anywhere.

    Attributes:
        fd: The open descriptor; the caller fsyncs and closes it.
        size_bytes: Its size: the end of what was written last, at the highest place.
    """

    def __init__(self, path: Path) -> None:
        self.fd = durable.create_exclusive(path)
        self.size_bytes = 0
        self._position = 0
        self._begun = 0  # bytes that are on their way to the device, or there

    def write(self, data: Any, /) -> int:
        """Write all of a buffer."""
        view = memoryview(data).cast("B")
        durable.write_all(self.fd, view)
        self._position += len(view)
        self.size_bytes = max(self.size_bytes, self._position)
        if self.size_bytes - self._begun >= 2 * _WRITE_OUT_BYTES:
            self._write_out(self._begun, _WRITE_OUT_BYTES)  # not the last ones, which may still be filled in
            self._begun += _WRITE_OUT_BYTES
        return len(view)

    def seek(self, offset: int, /) -> int:
        """Go to a byte."""
        self._position = os.lseek(self.fd, offset, os.SEEK_SET)
        return self._position

    def read(self, count: int, /) -> bytes:
        """Read bytes that have been written."""
        parts = []
        while count and (data := os.read(self.fd, count)):
            parts.append(data)
            count -= len(data)
            self._position += len(data)
        return b"".join(parts)

    def _write_out(self, offset: int, count: int) -> None:
        """Let the device begin; whether it has ended, and well, is for fsync to say."""
        if _sync_file_range is not None:
            _sync_file_range(self.fd, ctypes.c_int64(offset), ctypes.c_int64(count), _SYNC_FILE_RANGE_WRITE)


_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
