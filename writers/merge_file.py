"""The file of an output while it is written: bytes may be filled in behind the end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from engine import durable


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

    def write(self, data: Any, /) -> int:
        """Write all of a buffer."""
        view = memoryview(data).cast("B")
        durable.write_all(self.fd, view)
        self._position += len(view)
        self.size_bytes = max(self.size_bytes, self._position)
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
