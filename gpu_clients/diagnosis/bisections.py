"""The bisections that are going on: each has a batch until every text of it has a vector or a rejection.

What is asked, and what follows from the answers, stands in `bisection`. Here bisections are begun, with what is
known of our server at that moment, and batches are held back that must not be sent as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from gpu_clients.batches.batch import Batch, Suspicion
from gpu_clients.batches.lane import Lane
from gpu_clients.diagnosis.bisection import Bisection, bisect, embed_suspect, recheck_rows
from gpu_clients.diagnosis.canary_check import BisectionContext
from gpu_clients.diagnosis.finding import Finding
from gpu_clients.errors import Failure, FailureKind
from gpu_clients.servers.canary import Canary
from gpu_clients.servers.side_requests import SideRequests
from gpu_clients.settings import ClientSettings
from gpu_clients.vectors.decode import Matrix

ROUNDS_WHEN_UNSTEADY = 4
SUSPICIOUS_RETURNS = 2
"""A batch that was given back so often after it had failed is not sent again as it is."""


def context_of(lane: Lane, settings: ClientSettings, others: Sequence[int], canary: Canary | None) -> BisectionContext:
    """What a bisection, or a canary check, that begins now has to know.

    Args:
        others: Servers that may give a second opinion, best first.
    """
    return BisectionContext(
        own=lane.index,
        others=others,
        canary=canary,
        max_input_length=lane.facts.canary_limit if lane.facts else None,
        dim=settings.dim,
        most_texts=min((known.most_texts for known in settings.facts if known and known.most_texts), default=None),
        short_is_steady=lane.facts is not None and lane.facts.short_is_steady,
        cuts=settings.truncate,
        rounds=ROUNDS_WHEN_UNSTEADY if lane.is_unsteady else 1,
        last_answer_s=lambda: lane.last_answer_s,
    )


class Bisections:
    """Begins bisections, and knows which batches are not to be sent as they are.

    Args:
        context: What a bisection that begins now has to know.
        found: Called at the end with the batch, `Lane.drifts` as it was at the beginning, and the finding.
    """

    def __init__(
        self,
        lane: Lane,
        side_requests: SideRequests,
        context: Callable[[], BisectionContext],
        *,
        found: Callable[[Batch, int, Finding], None],
    ) -> None:
        self._lane = lane
        self._side_requests = side_requests
        self._context = context
        self._found = found
        self._refused_bytes: int | None = None  # a body of that size was refused as too large; the smallest of them

    def holds_back(self, batch: Batch) -> bool:
        """Whether a batch must not be sent as it is; its bisection has begun then."""
        history = batch.history
        if history.suspicion is not Suspicion.NONE:
            self._begin(batch, embed_suspect(batch.texts(), history, self._context()))
            return True
        if history.returns >= SUSPICIOUS_RETURNS:
            detail = f"it was given back {history.returns} times after it had failed"
            self.bisect(batch, Failure(kind=FailureKind.UNAVAILABLE, detail=detail))
            return True
        refused = self._refused_bytes
        if refused is not None and batch.header.body_bytes >= refused and batch.n_texts > 1:
            self.bisect(batch, Failure(kind=FailureKind.PAYLOAD, detail="larger than the server's payload limit"))
            return True
        return False

    def bisect(self, batch: Batch, failure: Failure) -> None:
        """A batch failed: find the texts that are to blame."""
        if failure.kind is FailureKind.PAYLOAD:
            self._note_refused_size(batch)
        self._begin(batch, bisect(batch.texts(), failure, self._context()))

    def recheck_rows(self, batch: Batch, matrix: Matrix, rows: list[int]) -> None:
        """Some rows of an answer are no vectors: ask for their texts again.

        Args:
            matrix: float32 (n_texts, dim); may be a view, it is copied.
            rows: The rows that are none.
        """
        self._begin(batch, recheck_rows(batch.texts(), matrix.copy(), rows, self._context()))

    def _begin(self, batch: Batch, bisection: Bisection) -> None:
        self._side_requests.start(bisection, partial(self._ended, batch, self._lane.drifts), time.monotonic())

    def _ended(self, batch: Batch, drifts: int, finding: Finding) -> None:
        if finding.too_large and finding.complete and not finding.rejected:
            self._note_refused_size(batch)
        self._found(batch, drifts, finding)

    def _note_refused_size(self, batch: Batch) -> None:
        n_bytes = batch.header.body_bytes
        self._refused_bytes = min(n_bytes, self._refused_bytes or n_bytes)
