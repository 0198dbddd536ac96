"""Files and their SHA-256: hashed in file order while they are read, so that what is decoded is what was hashed."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

_READ_BYTES = 1 << 20


class HashedFile:
    """A file to read from, which pyarrow takes as a source (`pyarrow.PythonFile`).

    Attributes:
        size_bytes: Size of the file.
        mtime_ns: When it was last written.
        hashing: Whether bytes are hashed as they are read. Until it is set nothing is, so that a look at the footer,
            which stands at the end, does not read all the rest.
    """

    def __init__(self, path: str | Path) -> None:
        """
        Raises:
            OSError: it cannot be opened.
        """
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        stat = os.fstat(self._fd)
        self._begin(stat.st_size, stat.st_mtime_ns)

    def _begin(self, size_bytes: int, mtime_ns: int) -> None:
        self.size_bytes, self.mtime_ns = size_bytes, mtime_ns
        self.closed = self.hashing = False
        self._sha256 = hashlib.sha256()
        self._hashed = 0  # bytes from the start that went through the hash
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte, counted from the start or (`SEEK_END`) from the end."""
        self._position = offset + (self.size_bytes if whence == os.SEEK_END else 0)
        return self._position

    def tell(self) -> int:
        """The byte that is read next."""
        return self._position

    def read(self, count: int) -> bytes:
        """Read that many bytes, fewer at the end; what lies before them and was never read is hashed first."""
        start = self._position
        if self.hashing:
            self._hash_up_to(start)
        data = self._read(start, count)
        self._position = end = start + len(data)
        if self.hashing and start <= self._hashed < end:
            self._sha256.update(data if start == self._hashed else memoryview(data)[self._hashed - start :])
            self._hashed = end
        return data

    def read_whole(self, into: memoryview) -> memoryview:
        """All bytes, not hashed; `into` has to hold them."""
        done = 0
        while done < self.size_bytes and (count := os.preadv(self._fd, [into[done : self.size_bytes]], done)):
            done += count
        return into[:done]

    def hexdigest(self) -> str:
        """The SHA-256 of the whole file; reads what has not been read."""
        self._hash_up_to(self.size_bytes)
        return self._sha256.hexdigest()

    def close(self) -> None:
        """Close the file; once more does nothing."""
        if not self.closed:
            self.closed = True
            os.close(self._fd)

    def _hash_up_to(self, end: int) -> None:
        while self._hashed < end and (data := self._read(self._hashed, min(_READ_BYTES, end - self._hashed))):
            self._sha256.update(data)
            self._hashed += len(data)

    def _read(self, offset: int, count: int) -> bytes:
        data = os.pread(self._fd, count, offset)
        while len(data) < count and (more := os.pread(self._fd, count - len(data), offset + len(data))):
            data += more
        return data


def size_and_sha256(path: str | Path) -> tuple[int, str]:
    """Size and SHA-256 of a file.

    Raises:
        OSError: it cannot be read.
    """
    with contextlib.closing(HashedFile(path)) as file:
        return file.size_bytes, file.hexdigest()
