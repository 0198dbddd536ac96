"""The commits of a run: COMMIT for a sealed shard, the marks that follow it, MARKED, and what the reader may forget."""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable
from typing import Any

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


class Commits:
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
        tell_reader: Callable[[dict[str, Any]], None],
    ) -> None:
        """
        Args:
            marker: None when documents are not marked (`--no-mark`).
            tell_reader: Sends a command to the reader of the generation that lives, if any.
        """
        self._ledger = ledger
        self._shards = shards
        self._marker = marker
        self._quarantine = quarantine
        self._tally = tally
        self._tell_reader = tell_reader
        self._marking: MarkingThread | None = None
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.committed_rows = 0
        self._ranges_to_mark: dict[str, Ranges] = {}
        self._unmarked_rows = 0
        self._is_paused = False
        self._settled: list[tuple[int, int]] = []
        self._settled_to = -1

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

    def commit(self, facts: ShardFacts, ranges: Ranges) -> None:
        """The commit point: after this append the shard counts, before it nothing of it does.

        Args:
            ranges: First and last number of the batches in it.

        Raises:
            SinkError: the record is not durable.
        """
        self._quarantine.sync()
        durable.point("commit.before")
        self._ledger.append(commit_record(facts))
        durable.point("commit.after")
        self._tally.add_shard(facts)
        self.committed_rows += facts.rows
        _log.info("shard_committed shard=%s rows=%d bytes=%d", facts.shard, facts.rows, facts.bytes)
        if self._marking is None:
            self._shards.release(facts.file)
            self.settle(ranges)
            return
        self._ranges_to_mark[facts.shard] = ranges
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
            self.settle(self._ranges_to_mark.pop(result.commit["shard"], []))
            self._unmarked_rows -= result.commit["rows"]
            self._tally.marked_rows += result.commit["rows"]
            if self._is_paused and self._unmarked_rows < MAX_UNMARKED_ROWS // 2:
                self._pause(False)
        return failure

    def settle(self, ranges: Ranges) -> None:
        """Tell the reader up to which batch all are settled; these need no longer be kept from being read twice."""
        for low, high in ranges:
            heapq.heappush(self._settled, (low, high))
        before = self._settled_to
        while self._settled and self._settled[0][0] <= self._settled_to + 1:
            self._settled_to = max(self._settled_to, heapq.heappop(self._settled)[1])
        if self._settled_to > before:
            self._tell_reader({"do": "settled", "sequence": self._settled_to})

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
        self._tell_reader({"do": "pause" if is_paused else "resume"})
        _log.info("reader_%s unmarked_rows=%d", "paused" if is_paused else "resumed", self._unmarked_rows)
