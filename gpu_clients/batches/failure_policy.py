"""What is done about a batch whose request failed.

    Remedy      what becomes of the batch                     of the server
    RETRY       sent again after a pause; when it fails       a few failures in a row, or silence for as long as a
                again and again, it is searched               request may take: out
    BACK_OFF    sent again after the cool-down                the window shrinks, all of it cools down; nothing but
                                                              that for long: out
    DIVIDE      searched                                      -
    EXCLUDE     goes back with the others                     out

Which failure asks for which stands in `errors`. When the server is out already, batches that would be sent again go
back into the ring.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from gpu_clients.batches.batch import Batch
from gpu_clients.batches.counters import Figures
from gpu_clients.batches.in_flight import Hands
from gpu_clients.batches.lane import Lane
from gpu_clients.batches.retry import backoff_s, overload_pause_s
from gpu_clients.diagnosis.bisections import Searches
from gpu_clients.errors import Failure, FailureKind, Remedy
from gpu_clients.vectors.decode import Matrix

SUSPICIOUS_ATTEMPTS = 3
"""Failures of one batch, while the server answers others, after which the batch itself is looked into."""
SWAMPED_S = 20.0
"""A server that answers 429 and nothing else for so long is out: somebody else has its permits, for good perhaps."""


class Remedies:
    """Passes on every batch that failed on our server.

    Args:
        take_out: Called with the failure when the server is to be taken out, and its batches with it.
    """

    def __init__(
        self,
        lane: Lane,
        hands: Hands,
        searches: Searches,
        figures: Figures,
        rng: random.Random,
        *,
        take_out: Callable[[Failure], None],
    ) -> None:
        self._lane = lane
        self._hands = hands
        self._searches = searches
        self._figures = figures
        self._rng = rng
        self._take_out = take_out

    def failed(self, batch: Batch, failure: Failure) -> None:
        """A batch's request failed: do what its kind asks for."""
        lane, hands = self._lane, self._hands
        self._figures.add_failure(lane.address.url, failure)
        batch.attempts += 1
        if failure.kind is FailureKind.BACKEND or failure.remedy is Remedy.RETRY:
            lane.troubled()
        batch.lost = batch.lost or failure.kind is FailureKind.LOST
        if failure.remedy is Remedy.BACK_OFF:
            batch.attempts -= 1
            pause_s = self.overloaded(failure)
            if not lane.breaker.is_ok:
                hands.give_back(batch)
            else:
                hands.retry_after(pause_s, batch)
        elif failure.remedy is Remedy.DIVIDE:
            self._searches.isolate(batch, failure)
        elif not lane.breaker.is_ok:
            hands.give_back(batch)
        elif failure.remedy is Remedy.EXCLUDE or self._is_silent(batch, failure) or lane.breaker.failed():
            hands.in_flight.add(batch)  # it goes back with the others
            self._take_out(failure)
        elif batch.attempts >= SUSPICIOUS_ATTEMPTS:
            self._searches.isolate(batch, failure)
        else:
            hands.retry_after(backoff_s(batch.attempts, self._rng), batch)

    def unsound(self, batch: Batch, matrix: Matrix, rows: list[int]) -> None:
        """Some rows are no vectors: the texts are asked for again alone; most of them: the server is at fault."""
        detail = f"{len(rows)} of {len(matrix)} vectors are not sound"
        if 2 * len(rows) > len(matrix) and len(matrix) > 1:
            self.failed(batch, Failure(kind=FailureKind.MALFORMED, detail=detail))
            return
        self._figures.add_failure(self._lane.address.url, Failure(kind=FailureKind.UNSOUND, detail=detail))
        self._lane.troubled()
        self._searches.isolate_rows(batch, matrix, rows)

    def overloaded(self, failure: Failure) -> float:
        """Shrink the window and let the whole server cool down; returns for how long."""
        lane = self._lane
        self._figures.rejected_429 += 1
        lane.admission.overloaded()
        pause_s = overload_pause_s(lane.admission.overloaded_in_a_row, failure.retry_after, self._rng)
        lane.overloaded(pause_s)
        return pause_s

    def advance(self) -> None:
        """Have the server taken out when it is swamped."""
        if self._lane.breaker.is_ok and self._lane.is_overloaded_for(SWAMPED_S):
            self._take_out(Failure(kind=FailureKind.OVERLOADED, detail="it answers nothing but HTTP 429"))

    def _is_silent(self, batch: Batch, failure: Failure) -> bool:
        """Whether the server has not answered anything in all the time that a request may take."""
        return failure.kind is FailureKind.TIMEOUT and self._lane.last_answer_s < batch.sent_s
