"""What is done about a batch whose request failed.

    Remedy      what becomes of the batch                     of the server
    RETRY       sent again after a pause; when it fails       a few failures in a row without an answer, or silence for
                again and again, it is searched               as long as a request may take: out; a few bad answers in
                                                              a row: searched
    BACK_OFF    sent again after the cool-down; when other    the window shrinks, all of it cools down; nothing but
                requests pass meanwhile, it is searched       that for long: out
    DIVIDE      searched                                      -
    EXCLUDE     searched                                      -

A search begins with the canary wherever the server may be at fault. When that fails as well the server is out and
nothing is held against the batch. So no answer whatever keeps a batch going round: it is settled, or its server is out.

Which failure asks for which stands in `errors`. When the server is out already, batches that would be sent again go
back into the ring.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from gpu_clients.batches.batch import Batch
from gpu_clients.batches.counters import Figures
from gpu_clients.batches.in_flight import Hands
from gpu_clients.batches.lane import Lane
from gpu_clients.batches.retry import backoff_s, overload_pause_s
from gpu_clients.diagnosis.bisections import Searches
from gpu_clients.errors import Failure, FailureKind, Remedy
from gpu_clients.vectors.decode import Matrix

_BAD_ANSWERS = (FailureKind.UNAVAILABLE, FailureKind.MALFORMED, FailureKind.OVERSIZED)
SUSPICIOUS_ATTEMPTS = 3
"""Failures of one batch, while the server answers others, after which the batch itself is looked into."""
OVERLOADED_ANSWERS = 6
OVERLOADED_ALONE_S = 3.0
"""So often and for so long a batch is refused as too much for now, while other requests pass: then it is searched."""
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
        if failure.kind is FailureKind.BACKEND or failure.remedy in (Remedy.RETRY, Remedy.EXCLUDE):
            lane.troubled()
        batch.lost = batch.lost or failure.kind is FailureKind.LOST
        if failure.remedy is Remedy.BACK_OFF:
            batch.attempts -= 1
            pause_s = self.overloaded(failure)
            if not lane.breaker.is_ok:
                batch.note_return()
                hands.give_back(batch)
            elif self._is_overload_for_it_alone(batch):
                self._searches.isolate(batch, failure)
            else:
                hands.retry_after(pause_s, batch)
        elif failure.remedy is Remedy.DIVIDE:
            self._searches.isolate(batch, failure)
        elif not lane.breaker.is_ok:
            batch.note_return()
            hands.give_back(batch)
        elif failure.remedy is Remedy.EXCLUDE:
            self._searches.isolate(batch, failure)
        elif self._is_silent(batch, failure):
            self._take_out_with(batch, failure)
        elif lane.breaker.failed():
            if failure.kind in _BAD_ANSWERS:
                self._searches.isolate(batch, failure)  # it answers, so the canary tells whose fault that is
            else:
                self._take_out_with(batch, failure)
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

    def _take_out_with(self, batch: Batch, failure: Failure) -> None:
        self._hands.in_flight.add(batch)  # it goes back with the others
        self._take_out(failure)

    def _is_overload_for_it_alone(self, batch: Batch) -> bool:
        """Note that a batch was answered "overloaded"; tells whether that goes on while other requests pass."""
        now_s = time.monotonic()
        batch.overloaded_s = batch.overloaded_s or now_s
        batch.n_overloaded += 1
        lasts = batch.n_overloaded >= OVERLOADED_ANSWERS and now_s - batch.overloaded_s >= OVERLOADED_ALONE_S
        return lasts and self._lane.last_answer_s > batch.overloaded_s

    def _is_silent(self, batch: Batch, failure: Failure) -> bool:
        """Whether the server has not answered anything in all the time that a request may take."""
        return failure.kind is FailureKind.TIMEOUT and self._lane.last_answer_s < batch.sent_s
