"""The commits of a run: COMMIT for a sealed shard, the marks that follow it, MARKED, and what readers may forget."""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from engine.errors import SourceError
from engine.ledger import durable
from engine.ledger.log import Ledger, Record, RunState
from engine.ledger.marking import MarkingThread
from engine.ledger.quarantine import Quarantine
from engine.ledger.recovery import commit_record
from engine.ports import DocumentMarker, Shards
from engine.records import ShardFacts
from engine.telemetry.tally import Tally

_log = logging.getLogger("engine.supervisor")

MAX_UNMARKED_ROWS = 1_000_000
"""Committed rows that may wait for their marks before the reader is held: about 100 MiB of ids in its memory."""
GRACE_S = 60.0
"""How long the end of a run waits for the marks of the shard at hand."""
_LOOK_EVERY_S = 0.25

Ranges = list[list[int]]
"""First and last number of the batches in a shard."""
ReceiptT = TypeVar("ReceiptT")


class Settling:
    """Tells a reader up to which batch all are settled; these need no longer be kept from being read twice.

    Attributes:
        settled_to: Number of that batch, -1 before the first.
    """

    def __init__(self, tell_reader: Callable[[dict[str, Any]], None]) -> None:
        self._tell_reader = tell_reader
        self._settled: list[tuple[int, int]] = []
        self.settled_to = -1

    def settle(self, ranges: Ranges) -> None:
        """Note batches that are settled, and tell the reader when it helps."""
        for low, high in ranges:
            heapq.heappush(self._settled, (low, high))
        before = self.settled_to
        while self._settled and self._settled[0][0] <= self.settled_to + 1:
            self.settled_to = max(self.settled_to, heapq.heappop(self._settled)[1])
        if self.settled_to > before:
            self._tell_reader({"do": "settled", "sequence": self.settled_to})


class Commits(Generic[ReceiptT]):
    """Commits shards and has them marked; in the supervisor's thread, but for the marks themselves.

    Attributes:
        committed_rows: Rows committed since `begin`.
    """

    def __init__(
        self,
        ledger: Ledger[RunState],
        shards: Shards,
        marker: DocumentMarker | None,
        quarantine: Quarantine,
        tally: Tally,
        settled: Callable[[ReceiptT], None],
        tell_readers: Callable[[dict[str, Any]], None],
    ) -> None:
        """
        Args:
            marker: None when documents are not marked (`--no-mark`).
            settled: Told of a shard that is marked (or, without marks, committed): what came with it to `commit`.
            tell_readers: Sends a command to every reader that lives.
        """
        self._ledger = ledger
        self._shards = shards
        self._marker = marker
        self._quarantine = quarantine
        self._tally = tally
        self._on_settled = settled
        self._tell_readers = tell_readers
        self._marking: MarkingThread | None = None
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.committed_rows = 0
        self._receipts: dict[str, ReceiptT] = {}
        self._unmarked_rows = 0
        self._is_paused = False

    @property
    def wake_fd(self) -> int | None:
        """Readable when marks have been set, None when none are."""
        return None if self._marking is None else self._marking.wake_fd

    @property
    def unmarked_rows(self) -> int:
        """Rows of this generation that are committed and wait for their marks."""
        return self._unmarked_rows

    @property
    def is_marking(self) -> bool:
        """Whether documents are marked in this run."""
        return self._marker is not None

    @property
    def is_over(self) -> bool:
        """Whether every committed shard is marked, or never will be by this run."""
        return self._marking is None or self._marking.pending == 0 or self._marking.has_failed

    def begin(self) -> None:
        """Begin a generation: its batches are numbered from 0."""
        self._begin_anew()
        if self._marker is not None and self._marking is None:
            self._marking = MarkingThread(self._shards, self._marker, self._tally.marking)

    def commit(self, facts: ShardFacts, receipt: ReceiptT, *, token: str | None = None) -> None:
        """The commit point: after this append the shard counts, before it nothing of it does.

        Args:
            receipt: Given back when its documents are settled.
            token: Under which a node wrote it (`engine.leases`).

        Raises:
            SinkError: the record is not durable.
        """
        self._quarantine.sync()
        durable.point("commit.before")
        self._ledger.append(commit_record(facts) if token is None else {**commit_record(facts), "token": token})
        durable.point("commit.after")
        self._tally.add_shard(facts)
        self.committed_rows += facts.rows
        _log.info("shard_committed shard=%s rows=%d bytes=%d", facts.shard, facts.rows, facts.bytes)
        if self._marking is None:
            self._shards.release(facts.file)
            self._on_settled(receipt)
            return
        self._receipts[facts.shard] = receipt
        self._unmarked_rows += facts.rows
        self._marking.submit(self._ledger.state.commits[facts.shard])
        if self._unmarked_rows > MAX_UNMARKED_ROWS and not self._is_paused:
            self._pause(True)

    def collect(self) -> SourceError | None:
        """Take in the marks that were set since the last call.

        Returns:
            What kept documents from being marked, when MongoDB is away: the next start marks them.

        Raises:
            EngineError: whatever else kept them from it.
        """
        failure = None
        for result in self._marking.collect() if self._marking is not None else ():
            if result.error is not None:
                if not isinstance(result.error, SourceError):
                    raise result.error
                failure = result.error
                continue
            assert result.marked is not None  # no error
            durable.point("marked.before")
            self._record(result.marked)
            durable.point("marked.after")
            self._shards.release(result.commit["file"])
            if result.commit["shard"] in self._receipts:
                self._on_settled(self._receipts.pop(result.commit["shard"]))
            self._unmarked_rows -= result.commit["rows"]
            self._tally.marked_rows += result.commit["rows"]
            if self._is_paused and self._unmarked_rows < MAX_UNMARKED_ROWS // 2:
                self._pause(False)
        return failure

    def end(self, *, is_enough: Callable[[], bool]) -> None:
        """Wait, for a while, for the marks of the shard at hand; the next start does the rest.

        Args:
            is_enough: Asked now and then; True ends the wait.
        """
        marking, self._marking = self._marking, None
        if marking is None:
            return
        deadline = time.monotonic() + GRACE_S
        while not marking.stop(_LOOK_EVERY_S) and time.monotonic() < deadline:
            if is_enough():
                break
        for result in marking.collect():
            if result.marked is not None:
                self._record(result.marked)
                self._shards.release(result.commit["file"])

    def _record(self, marked: Record) -> None:
        """Append a shard's MARKED record and count what was gone."""
        self._ledger.append({**marked, "epoch": self._ledger.state.epoch})
        self._tally.gone += marked["gone"]

    def _pause(self, is_paused: bool) -> None:
        """Hold the reader while marking is far behind: what is read and not marked is kept in its memory (G5)."""
        self._is_paused = is_paused
        self._tell_readers({"do": "pause" if is_paused else "resume"})
        _log.info("reader_%s unmarked_rows=%d", "paused" if is_paused else "resumed", self._unmarked_rows)
