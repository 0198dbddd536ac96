"""Batches that are looked into: each is in a conversation until all that can be found out about its texts is known.

What is asked, and what follows from the answers, stands in `isolation`. Here conversations are begun, with what is
known of our server at that moment, and batches are held back that must not be sent as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from gpu_clients.batches.batch import Batch, Suspicion
from gpu_clients.batches.lane import Lane
from gpu_clients.diagnosis.bisection import Finding, Laboratory, Search, interrogate, isolate, isolate_rows
from gpu_clients.errors import Failure, FailureKind
from gpu_clients.servers.canary import Canary
from gpu_clients.servers.side_requests import Dialogues
from gpu_clients.settings import ClientSettings
from gpu_clients.vectors.decode import Matrix

ROUNDS_WHEN_UNSTEADY = 4
SUSPICIOUS_RETURNS = 2
"""A batch that was given back so often after it had failed is not sent again as it is."""


def laboratory_of(lane: Lane, settings: ClientSettings, others: Sequence[int], canary: Canary | None) -> Laboratory:
    """Where a search is made that begins now.

    Args:
        others: Servers that may give a second opinion, best first.
    """
    return Laboratory(
        own=lane.index,
        others=others,
        canary=canary,
        max_input_length=lane.facts.max_input_length if lane.facts else None,
        dim=settings.dim,
        rounds=ROUNDS_WHEN_UNSTEADY if lane.is_unsteady else 1,
        last_answer_s=lambda: lane.last_answer_s,
    )


class Searches:
    """Takes batches apart.

    Args:
        laboratory: Where that is done.
        found: Called at the end with the batch, `Lane.doubts` as it was at the beginning, and the finding.
    """

    def __init__(
        self,
        lane: Lane,
        dialogues: Dialogues,
        laboratory: Callable[[], Laboratory],
        *,
        found: Callable[[Batch, int, Finding], None],
    ) -> None:
        self._lane = lane
        self._dialogues = dialogues
        self._laboratory = laboratory
        self._found = found
        self._refused_bytes: int | None = None  # a body of that size was refused as too large; the smallest of them

    def holds_back(self, batch: Batch) -> bool:
        """Whether a batch must not be sent as it is; its search has begun then."""
        case = batch.case
        if case.suspicion is not Suspicion.NONE:
            self._begin(batch, interrogate(batch.texts(), case, self._laboratory()))
            return True
        if case.returns >= SUSPICIOUS_RETURNS:
            detail = f"it was given back {case.returns} times after it had failed"
            self.isolate(batch, Failure(kind=FailureKind.UNAVAILABLE, detail=detail))
            return True
        refused = self._refused_bytes
        if refused is not None and batch.header.body_bytes >= refused and batch.n_texts > 1:
            self.isolate(batch, Failure(kind=FailureKind.PAYLOAD, detail="larger than the server's payload limit"))
            return True
        return False

    def isolate(self, batch: Batch, failure: Failure) -> None:
        """A batch failed: find the texts that are to blame."""
        if failure.kind is FailureKind.PAYLOAD:
            self._note_refused_size(batch)
        self._begin(batch, isolate(batch.texts(), failure, self._laboratory()))

    def isolate_rows(self, batch: Batch, matrix: Matrix, rows: list[int]) -> None:
        """Some rows of an answer are no vectors: ask for their texts again.

        Args:
            matrix: float32 (n_texts, dim); may be a view, it is copied.
            rows: The rows that are none.
        """
        self._begin(batch, isolate_rows(batch.texts(), matrix.copy(), rows, self._laboratory()))

    def _begin(self, batch: Batch, search: Search) -> None:
        self._dialogues.start(search, partial(self._ended, batch, self._lane.doubts), time.monotonic())

    def _ended(self, batch: Batch, doubts: int, finding: Finding) -> None:
        if finding.too_large and finding.complete and not finding.rejected:
            self._note_refused_size(batch)
        self._found(batch, doubts, finding)

    def _note_refused_size(self, batch: Batch) -> None:
        n_bytes = batch.header.body_bytes
        self._refused_bytes = min(n_bytes, self._refused_bytes or n_bytes)
