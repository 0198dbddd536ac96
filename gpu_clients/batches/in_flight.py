"""The batches that a client has taken and not settled: sent to its server, or waiting to be sent again."""

from __future__ import annotations

import dataclasses
import heapq
import time

from engine.supervision.worker import StageContext
from gpu_clients.batches.batch import Batch, Suspicion
from gpu_clients.batches.counters import Counters


class InFlight:
    """The batches that are sent, or wait to be sent again; those that are bisected or counted belong to a side request.

    Attributes:
        sent: Sent, and neither answered nor given back.
    """

    def __init__(self, context: StageContext, counters: Counters) -> None:
        self.sent: set[Batch] = set()
        self._context = context
        self._counters = counters
        self._retries: list[tuple[float, int, Batch]] = []  # a heap by due time

    def take(self) -> Batch | None:
        """Take the next batch from the ring; None when it is empty."""
        context = self._context
        number = context.documents_ready.take()
        if number is None:
            return None
        batch = Batch(number, context.documents.slot(number), context.generation)
        self._counters.taken_rows += batch.n_rows
        return batch

    def give_back(self, batch: Batch) -> None:
        """Put a batch into the ring for another client."""
        self._counters.taken_rows -= batch.n_rows
        self._context.documents_ready.put(batch.number)

    def retry_after(self, pause_s: float, batch: Batch) -> None:
        """Keep a batch to be sent again after a while."""
        heapq.heappush(self._retries, (time.monotonic() + pause_s, batch.number, batch))

    def due_retry(self, now_s: float) -> Batch | None:
        """The batch whose time to be sent again has come first; it stays until `pop_retry`."""
        return self._retries[0][2] if self._retries and self._retries[0][0] <= now_s else None

    def pop_retry(self) -> None:
        """Forget the batch that `due_retry` gave; it is sent again now."""
        heapq.heappop(self._retries)

    def give_back_all(self, *, died: bool) -> None:
        """Give back everything: the server is out.

        Args:
            died: Whether it has ended, so that what it had, or had when a connection was lost, may be the reason.
        """
        if died:
            for batch in (*self.sent, *(batch for _, _, batch in self._retries if batch.lost)):
                _suspect(batch)
        for batch in self.sent:
            batch.note_return()
            self.give_back(batch)
        self.sent.clear()
        self.give_back_retries()

    def give_back_retries(self) -> None:
        """Give back what waits to be sent again."""
        for _, _, batch in self._retries:
            batch.note_return()
            self.give_back(batch)
        self._retries.clear()


def _suspect(batch: Batch) -> None:
    """Note that a server died while the batch was with it."""
    history = batch.history
    if history.suspicion is Suspicion.NONE:
        batch.history = dataclasses.replace(history, suspicion=Suspicion.NEARBY)
