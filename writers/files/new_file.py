"""A new file as pyarrow's writer wants its sink: every write whole, through the durable calls of the engine."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

from engine.ledger import durable


class NewFile:
    """A file that is created and written from its beginning to its end.

    Attributes:
        fd: The open descriptor, -1 after `discard`; the caller fsyncs it.
        size_bytes: How many bytes were written.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            FileExistsError: something of that name is there already.
            OSError: it cannot be created.
        """
        self.fd = durable.create_exclusive(path)
        self.size_bytes = 0
        self.closed = False

    def write(self, data: Any) -> int:
        """Write all of a buffer; a short write is continued, never ignored (pyarrow would take it for success)."""
        view = memoryview(data).cast("B")
        if self.fd >= 0:
            durable.write_all(self.fd, view)
            self.size_bytes += len(view)
        return len(view)

    def discard(self) -> None:
        """Close the descriptor of a file that goes; what is written later is thrown away.

        pyarrow's writer writes a footer when it is let go, by then perhaps into another file with that descriptor.
        """
        fd, self.fd = self.fd, -1
        with contextlib.suppress(OSError):  # an error of close changes nothing for a file that goes
            os.close(fd)

    def tell(self) -> int:
        """The position, which is the size."""
        return self.size_bytes

    def flush(self) -> None:
        """Nothing is buffered here."""

    def close(self) -> None:
        """pyarrow calls this; the descriptor stays open for fsync."""

    def readable(self) -> bool:
        """Not readable."""
        return False

    def writable(self) -> bool:
        """Writable."""
        return True

    def seekable(self) -> bool:
        """Not seekable."""
        return False


class HashedNewFile(NewFile):
    """A new file that hashes what is written to it.

    Attributes:
        sha256: The running digest of all bytes so far.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        """Write all of a buffer, and hash it."""
        count = super().write(data)
        self.sha256.update(data)
        return count
