"""An object as a file to read from: by ranges, the next is fetched while the last is used, few are in memory."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor

from writers.cold.object_store import Absent, ObjectStore
from writers.cold.patience import repeated

BLOCK_BYTES = 4 << 20
"""What is asked for at once: a request costs a store some ten milliseconds, whatever its size."""
_MAX_BLOCKS = 3
"""Columns of a row group lie far apart, and pyarrow reads them in turn."""


class RemoteFile:
    """A file that pyarrow takes as a source (`pyarrow.PythonFile`).

    Attributes:
        size_bytes: Size of the object when it was opened.
        e_tag: What the store told its version apart by then.
    """

    def __init__(self, store: ObjectStore, name: str, budget_s: float) -> None:
        """
        Args:
            budget_s: Seconds that a range may be waited for.

        Raises:
            FileNotFoundError: there is no such object.
            SinkError: the store does not answer within the budget.
        """
        self._store, self._name, self._budget_s = store, name, budget_s
        try:
            stored = repeated(lambda: store.head(name), store.where(name), budget_s)
        except Absent as error:
            raise FileNotFoundError(2, "no such object", store.where(name)) from error
        self.size_bytes, self.e_tag = stored.size_bytes, stored.e_tag
        self.closed = False
        self._position = 0
        self._blocks: dict[int, memoryview] = {}  # the one that was used last is the last
        self._ahead: tuple[int, Future[memoryview]] | None = None
        self._thread: ThreadPoolExecutor | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte, counted from the start, from here or from the end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size_bytes}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """The byte that is read next."""
        return self._position

    def read(self, count: int = -1) -> bytes:
        """Read that many bytes, fewer at the end.

        Raises:
            OSError: the object changed or has gone.
            SinkError: the store does not answer within the budget.
        """
        data = self.read_at(self._position, self.size_bytes - self._position if count < 0 else count)
        self._position += len(data)
        return bytes(data)

    def read_at(self, offset: int, count: int) -> memoryview:
        """Some bytes from a place, fewer at the end; valid as long as the caller keeps them."""
        count = max(0, min(count, self.size_bytes - offset))
        if count > _MAX_BLOCKS * BLOCK_BYTES:
            return self._range(offset, count)
        first, last = offset // BLOCK_BYTES, max(offset, offset + count - 1) // BLOCK_BYTES
        if first == last:
            at = offset - first * BLOCK_BYTES
            return self._block(first)[at : at + count]
        data = bytearray(count)
        done = 0
        for number in range(first, last + 1):
            at = offset + done - number * BLOCK_BYTES
            piece = self._block(number)[at : at + count - done]
            data[done : done + len(piece)] = piece
            done += len(piece)
        return memoryview(data)

    def _block(self, number: int) -> memoryview:
        """A block; the next one is fetched meanwhile when the one before was used too."""
        block = self._blocks.pop(number, None)
        if block is None:
            ahead, self._ahead = self._ahead, None
            block = ahead[1].result() if ahead is not None and ahead[0] == number else self._fetch(number)
            if number - 1 in self._blocks and (number + 1) * BLOCK_BYTES < self.size_bytes:
                self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
                self._ahead = number + 1, self._thread.submit(self._fetch, number + 1)
        self._blocks[number] = block
        if len(self._blocks) > _MAX_BLOCKS:
            del self._blocks[next(iter(self._blocks))]
        return block

    def _fetch(self, number: int) -> memoryview:
        start = number * BLOCK_BYTES
        return self._range(start, min(BLOCK_BYTES, self.size_bytes - start))

    def _range(self, start: int, length: int) -> memoryview:
        if not length:
            return memoryview(b"")
        try:
            return repeated(
                lambda: self._store.get_range(self._name, start, length), self._store.where(self._name), self._budget_s
            )
        except Absent as error:
            raise FileNotFoundError(2, "no such object any more", self._store.where(self._name)) from error

    def close(self) -> None:
        """Close it; once more does nothing."""
        self.closed = True
        self._blocks.clear()
        self._ahead = None
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def readable(self) -> bool:
        """Readable."""
        return True

    def writable(self) -> bool:
        """Not writable."""
        return False

    def seekable(self) -> bool:
        """Seekable."""
        return True
