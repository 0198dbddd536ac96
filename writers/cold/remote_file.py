"""An object as a file to read from: by ranges, the next fetched while the last is used, two in memory at most."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor

from writers.cold.object_store import Absent, ObjectStore
from writers.cold.patience import repeated

BLOCK_BYTES = 4 << 20
"""What is asked for at once: a request costs a store some ten milliseconds, whatever its size."""


class RemoteFile:
    """A file that pyarrow takes as a source (`pyarrow.PythonFile`).

    Attributes:
        size_bytes: Size of the object when it was opened.
        e_tag: What the store told its version apart by then.
    """

    def __init__(self, store: ObjectStore, name: str, budget_s: float, *, read_ahead: bool = True) -> None:
        """
        Args:
            budget_s: Seconds that a range may be waited for.
            read_ahead: Whether to fetch the next block meanwhile, when reading goes on where it was.

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
        self._start, self._block = 0, memoryview(b"")
        self._ahead: tuple[int, Future[memoryview]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead") if read_ahead else None

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
        at = offset - self._start
        if at < 0 or at + count > len(self._block):
            goes_on = at == len(self._block) or 0 <= at < len(self._block)
            self._fetch(offset, count, goes_on=goes_on)
            at = offset - self._start
        return self._block[at : at + count]

    def _fetch(self, offset: int, count: int, *, goes_on: bool) -> None:
        """Have the block in memory that holds these bytes."""
        held = memoryview(b"")
        if goes_on and self._ahead is not None and self._ahead[0] == self._start + len(self._block):
            held = self._block[offset - self._start :]
            start, future = self._ahead
            self._ahead = None
            fresh = future.result()
            self._start, self._block = offset, _joined(held, fresh)
            if count > len(self._block):
                rest = self._range(start + len(fresh), count - len(self._block))
                self._block = _joined(self._block, rest)
        else:
            self._ahead = None  # what is still on its way is thrown away
            self._start, self._block = (
                offset,
                self._range(offset, max(count, min(BLOCK_BYTES, self.size_bytes - offset))),
            )
        end = self._start + len(self._block)
        if goes_on and self._thread is not None and end < self.size_bytes:
            length = min(BLOCK_BYTES, self.size_bytes - end)
            self._ahead = end, self._thread.submit(self._range, end, length)

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
        self._block = memoryview(b"")
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


def _joined(one: memoryview, other: memoryview) -> memoryview:
    if not len(one):
        return other
    return memoryview(bytes(one) + bytes(other))
