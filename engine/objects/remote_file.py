"""An object as a file to read from: by ranges, the next is fetched while the last is used, few are in memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from engine.errors import ConfigError
from engine.objects.object_store import Absent, Changed, ObjectStore, Stored, Trouble
from engine.objects.patience import COLD_ENDS, Ends, repeated

T = TypeVar("T")
BLOCK_BYTES = 4 << 20
"""What is asked for at once: a request costs a store some ten milliseconds, whatever its size."""
MAX_BLOCKS = 3
"""Columns of a row group lie far apart, and pyarrow reads them in turn."""


class RemoteFile:
    """A file that pyarrow takes as a source (`pyarrow.PythonFile`).

    Attributes:
        size_bytes: Size of the object when it was opened.
        e_tag: What the store told its version apart by then.
    """

    def __init__(
        self,
        store: ObjectStore,
        name: str,
        budget_s: float,
        *,
        tell: Callable[[str, str], None] | None = None,
        ends: Ends = COLD_ENDS,
        version: Stored | None = None,
        block_bytes: int = BLOCK_BYTES,
        max_blocks: int = MAX_BLOCKS,
    ) -> None:
        """
        Args:
            budget_s: Seconds that a range may be waited for.
            tell, ends: See `engine.objects.patience.Patience`.
            version: The object as it has been looked at, and as every range of it has to be; None to look now, and to
                take what is there.
            block_bytes: What is asked for at once.
            max_blocks: How many of those are kept; as many again may be on their way.

        Raises:
            FileNotFoundError: there is no such object.
            SinkError: the store does not answer within the budget; or what `ends` says instead.
        """
        self._store, self._name, self._version = store, name, version
        self._budget_s, self._tell, self._ends = budget_s, tell, ends
        stored = version or self._patiently(lambda: store.head(name))
        self.size_bytes, self.e_tag = stored.size_bytes, stored.e_tag
        self.closed = False
        self._block_bytes, self._max_blocks = block_bytes, max_blocks
        self._position = 0
        self._blocks: dict[int, memoryview] = {}  # the one that was used last is the last
        self._ahead: dict[int, Future[memoryview]] = {}

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
            FileNotFoundError: the object has gone.
            ConfigError: it is another version than the one that was told.
            SinkError: the store does not answer within the budget; or what `ends` says instead.
        """
        data = self.read_at(self._position, self.size_bytes - self._position if count < 0 else count)
        self._position += len(data)
        return bytes(data)

    def read_at(self, offset: int, count: int) -> memoryview:
        """Some bytes from a place, fewer at the end; valid as long as the caller keeps them."""
        count = max(0, min(count, self.size_bytes - offset))
        size = self._block_bytes
        if count > MAX_BLOCKS * size:
            return self.read_range(offset, count)
        first, last = offset // size, max(offset, offset + count - 1) // size
        if first == last:
            at = offset - first * size
            return self._block(first)[at : at + count]
        data = bytearray(count)
        done = 0
        for number in range(first, last + 1):
            at = offset + done - number * size
            piece = self._block(number)[at : at + count - done]
            data[done : done + len(piece)] = piece
            done += len(piece)
        return memoryview(data)

    def _block(self, number: int) -> memoryview:
        """A block; the next one is fetched meanwhile when the one before was used too."""
        block = self._blocks.pop(number, None)
        if block is None:
            block = self._fetched(number)
            if number - 1 in self._blocks and (number + 1) * self._block_bytes < self.size_bytes:
                self._fetch_ahead(number + 1)
        self._blocks[number] = block
        if len(self._blocks) > self._max_blocks:
            del self._blocks[next(iter(self._blocks))]
        return block

    def _fetched(self, number: int) -> memoryview:
        ahead = self._ahead.pop(number, None)
        if ahead is not None:
            try:
                return ahead.result()
            except Trouble:
                pass  # tried once, without patience
        return self.read_range(*self._place(number))

    def _fetch_ahead(self, number: int) -> None:
        """Fetch a block in a thread that nobody waits for at the end of the process."""
        if number in self._blocks or number in self._ahead:
            return
        if len(self._ahead) >= self._max_blocks:
            del self._ahead[next(iter(self._ahead))]
        future: Future[memoryview] = Future()
        self._ahead[number] = future

        def work() -> None:
            try:
                future.set_result(self._store.get_range(self._name, *self._place(number), self._version))
            except BaseException as error:  # noqa: BLE001 - whoever asks for the block gets it
                future.set_exception(error)

        threading.Thread(target=work, name="read-ahead", daemon=True).start()

    def _place(self, number: int) -> tuple[int, int]:
        start = number * self._block_bytes
        return start, min(self._block_bytes, self.size_bytes - start)

    def read_range(self, start: int, length: int) -> memoryview:
        """Some bytes from a place, all of which have to be there, by one request."""
        if not length:
            return memoryview(b"")
        return self._patiently(lambda: self._store.get_range(self._name, start, length, self._version))

    def _patiently(self, act: Callable[[], T]) -> T:
        where = self._store.where(self._name)
        for is_last in (False, True):  # a difference counts when two looks agree on it: one answer may be wrong
            try:
                return repeated(act, where, self._budget_s, self._tell, self._ends)
            except Absent as error:
                if is_last or self._version is None:
                    raise FileNotFoundError(2, "no such object", where) from error
            except Changed as error:
                if is_last:
                    raise ConfigError(
                        f"{where} was replaced while it was read ({error}): put it back as it was, put what is new "
                        "under a new name, then run the same command again"
                    ) from error
        raise AssertionError("one of two tries returned or raised")

    def close(self) -> None:
        """Close it; once more does nothing."""
        self.closed = True
        self._blocks.clear()
        self._ahead.clear()

    def readable(self) -> bool:
        """Readable."""
        return True

    def writable(self) -> bool:
        """Not writable."""
        return False

    def seekable(self) -> bool:
        """Seekable."""
        return True
