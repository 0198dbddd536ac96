"""The page fetcher: a thread that fetches pages ahead, and waits for the source so that the reader never does.

At most three pages exist at a time: one that is being put into batches, one that waits, one that is being fetched.
Each is bounded by the rows asked for, which shrink as documents grow, and by the source's own limit (MongoDB ends an
answer at 16 MiB).
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from engine.ledger import durable
from engine.telemetry.metrics import Stopwatch
from readers.batching.ports import Document, DocumentQueue, DocumentSource, Page

T = TypeVar("T")

TARGET_PAGE_BYTES = 4 << 20
FIRST_PAGE_ROWS = 256
_END = None


class PageSize:
    """How many rows to ask for: grows from a small first page, shrinks with the size of documents.

    The fetching thread asks, the reader tells what came; a number read a moment too late does no harm.
    """

    def __init__(self, max_rows: int, first_rows: int = FIRST_PAGE_ROWS) -> None:
        self._max_rows = max_rows
        self._grown_rows = min(first_rows, max_rows)
        self._bytes_per_row = 0.0

    def next_rows(self) -> int:
        """Rows of the next page."""
        rows = self._grown_rows
        self._grown_rows = min(self._max_rows, rows * 2)
        if self._bytes_per_row > 0:
            rows = min(rows, int(TARGET_PAGE_BYTES / self._bytes_per_row) + 1)
        return rows

    def observe(self, n_rows: int, size_bytes: int) -> None:
        """Note what a page held; a growth counts at once, a fall by halves."""
        seen = size_bytes / n_rows
        self._bytes_per_row = seen if seen > self._bytes_per_row else (self._bytes_per_row + seen) / 2


@dataclass(frozen=True, slots=True)
class _Failure:
    error: BaseException


class PageFetcher:
    """One pass over a source, fetched by a thread of its own.

    Attributes:
        wake_fd: Readable when a page, the end or an error waits.
    """

    def __init__(self, source: DocumentSource, size: PageSize, watch: Stopwatch | None = None) -> None:
        """Start fetching.

        Args:
            watch: Times the reading of pages.
        """
        self._source = source
        self._size = size
        self._outage = source.outage
        self._watch = Stopwatch() if watch is None else watch
        self._pages: queue.Queue[list[Document] | _Failure | None] = queue.Queue(maxsize=1)
        self._stopping = threading.Event()
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._work, name="fetch", daemon=True)
        self._thread.start()

    @property
    def is_waiting_for_source(self) -> bool:
        """Whether the source is away."""
        return self._outage.going_on

    @property
    def last_error(self) -> str | None:
        """What the last failed query said, or None."""
        return self._outage.last_error

    def poll(self) -> list[Document] | None:
        """The next page, an empty list at the end of the pass, None when nothing is there yet.

        Raises:
            ConfigError, SourceError: reading cannot go on.
        """
        try:
            found = self._pages.get_nowait()
        except queue.Empty:
            return None
        if isinstance(found, _Failure):
            raise found.error
        return [] if found is _END else found

    def clear_wake(self) -> None:
        """Forget the wake-ups so far; call it before `poll`, then nothing is missed."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wake_fd)

    def stop(self, timeout_s: float = 0.5) -> None:
        """Fetch no more; a query under way is left to itself when it outlasts `timeout_s`."""
        self._stopping.set()
        while self._thread.is_alive() and timeout_s > 0:
            with contextlib.suppress(queue.Empty):
                self._pages.get_nowait()  # make room, the thread may be waiting to put
            self._thread.join(0.02)
            timeout_s -= 0.02
        if not self._thread.is_alive():
            os.close(self.wake_fd)

    def _work(self) -> None:
        try:
            documents = self._retried(self._source.open)
            position = documents.start() if documents is not None else None
            while documents is not None and position is not None:
                page = self._read(documents, position)
                if page is None:
                    return
                position = page.position
                if page.documents:
                    durable.point("reader.page")
                    self._put(page.documents)
            self._put(_END)
        except BaseException as error:  # noqa: BLE001 - carried to the reader's thread, which ends with it
            self._put(_Failure(error))

    def _put(self, found: list[Document] | _Failure | None) -> None:
        while not self._stopping.is_set():
            try:
                self._pages.put(found, timeout=0.1)
            except queue.Full:
                continue
            os.eventfd_write(self.wake_fd, 1)
            return

    def _read(self, documents: DocumentQueue, position: Any) -> Page | None:
        n_rows = self._size.next_rows()

        def read() -> Page:
            with self._watch:
                return documents.read(position, n_rows)

        return self._retried(read)

    def _retried(self, call: Callable[[], T]) -> T | None:
        """Call until it works; None once the reader has stopped."""
        while not self._stopping.is_set():
            try:
                found = call()
            except self._source.passing as error:
                self._stopping.wait(self._outage.pause_s(error))
                continue
            self._outage.over()
            return found
        return None
