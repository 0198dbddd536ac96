"""The marking thread: marks the documents of committed shards in MongoDB, one shard at a time, behind the commits."""

from __future__ import annotations

import os
import queue
import threading
from dataclasses import dataclass

from engine.ledger.log import Record
from engine.ledger.recovery import mark_shard
from engine.ports import DocumentMarker, Shards
from engine.telemetry.metrics import Stopwatch


@dataclass(frozen=True, slots=True)
class MarkResult:
    """The result of marking the documents of one shard.

    Attributes:
        commit: The shard's COMMIT record.
        marked: Its MARKED record, not yet in the ledger; None when an error kept its documents from being marked.
        error: That error.
    """

    commit: Record
    marked: Record | None
    error: BaseException | None


class MarkingThread:
    """Marks committed shards in commit order; the supervisor's loop collects the results.

    Attributes:
        wake_fd: Readable when results wait.
        has_failed: Whether an error was collected; none of the shards behind it will be marked.
    """

    def __init__(self, shards: Shards, marker: DocumentMarker, watch: Stopwatch) -> None:
        """
        Args:
            watch: Times the marks of each shard.
        """
        self._watch = watch
        self._shards = shards
        self._marker = marker
        self._todo: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[MarkResult] = queue.SimpleQueue()
        self.wake_fd, self._notify_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._pending = 0
        self.has_failed = False
        self._failed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="marking", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Shards that were submitted and not collected yet."""
        return self._pending

    def submit(self, commit: Record) -> None:
        """Mark the documents of a shard whose COMMIT is durable."""
        self._pending += 1
        self._todo.put(commit)

    def collect(self) -> list[MarkResult]:
        """Results since the last call."""
        try:
            while os.read(self.wake_fd, 64):
                pass
        except BlockingIOError:
            pass
        results = []
        while not self._done.empty():
            results.append(self._done.get())
        self._pending -= len(results)
        self.has_failed = self.has_failed or any(result.error is not None for result in results)
        return results

    def stop(self, timeout_s: float) -> bool:
        """Let the shard at hand be finished, take up no other; True once the thread has ended. May be called again."""
        self._failed.set()
        self._todo.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (commit := self._todo.get()) is not None:
            if self._failed.is_set():
                continue
            try:
                with self._watch:
                    marked = mark_shard(self._shards, self._marker, commit, ours_before=False)
                result = MarkResult(commit, marked, None)
            except BaseException as error:  # noqa: BLE001 - carried to the supervisor, which decides
                self._failed.set()
                result = MarkResult(commit, None, error)
            self._done.put(result)
            os.write(self._notify_fd, b"1")
