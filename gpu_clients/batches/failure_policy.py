"""What is done about a batch whose request failed.

    Action          what becomes of the batch                 of the server
    RETRY           sent again after a pause; when it fails   a few failures in a row without an answer, or silence
                    again and again, it is bisected           for as long as a request may take: out; a few bad
                                                              answers in a row: out if the canary fails too
    BACK_OFF        sent again after the cool-down; when      the window shrinks, all of it cools down; nothing but
                    others pass meanwhile, it is bisected     that for long: out
    DIVIDE          bisected                                  -
    SUSPECT_SERVER  bisected                                  -

A bisection begins with the canary wherever the server may be at fault. When that fails as well the server is out and
nothing is held against the batch. So no answer whatever keeps a batch going round: it is settled, or its server is out.

Which failure asks for which stands in `errors`. When the server is out already, batches that would be sent again go
back into the ring.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from gpu_clients.batches.batch import Batch
from gpu_clients.batches.counters import Counters
from gpu_clients.batches.in_flight import InFlight
from gpu_clients.batches.lane import Lane
from gpu_clients.batches.retry import backoff_s, overload_pause_s
from gpu_clients.errors import Action, Failure, FailureKind
from gpu_clients.vectors.decode import Matrix

_BAD_ANSWERS = (FailureKind.UNAVAILABLE, FailureKind.MALFORMED, FailureKind.OVERSIZED, FailureKind.OTHER_DIMENSION)
_GATEWAY_TIMEOUT = 504  # the server behind it does not answer, so it would not answer a canary soon either
SUSPICIOUS_ATTEMPTS = 3
"""Failures of one batch, while the server answers others, after which it is bisected."""
OVERLOADED_ANSWERS = 6
OVERLOADED_ALONE_S = 3.0
"""So often and for so long a batch is refused as too much for now, while other requests pass: then it is bisected."""
SWAMPED_S = 20.0
"""A server that answers 429 and nothing else for so long is out: somebody else has its permits, for good perhaps."""


class FailurePolicy:
    """Decides what becomes of a batch that failed on our server.

    Args:
        bisect: Called with a batch, and how it failed, to find the texts that are to blame.
        recheck_rows: Called with a batch, its matrix and the rows of it that are no vectors, to ask for those again.
        check_server: Called when bad answers came in a row, to have the server asked for the canary soon.
        take_out: Called with the failure when the server is to be taken out, and its batches with it.
        several: Called with the reason when unlike backends answer behind its URL; the run cannot go on with it.
    """

    def __init__(
        self,
        lane: Lane,
        in_flight: InFlight,
        counters: Counters,
        rng: random.Random,
        *,
        bisect: Callable[[Batch, Failure], None],
        recheck_rows: Callable[[Batch, Matrix, list[int]], None],
        check_server: Callable[[], None],
        take_out: Callable[[Failure], None],
        several: Callable[[str], None],
    ) -> None:
        self._lane = lane
        self._in_flight = in_flight
        self._bisect = bisect
        self._recheck_rows = recheck_rows
        self._check_server = check_server
        self._counters = counters
        self._rng = rng
        self._take_out = take_out
        self._several = several

    def failed(self, batch: Batch, failure: Failure) -> None:
        """A batch's request failed: do what its kind asks for."""
        lane, in_flight = self._lane, self._in_flight
        self._counters.add_failure(lane.address.url, failure)
        lane.failed(failure)
        batch.attempts += 1
        if failure.kind is FailureKind.BACKEND or failure.action in (Action.RETRY, Action.SUSPECT_SERVER):
            lane.troubled()
        batch.lost = batch.lost or failure.kind is FailureKind.LOST
        if failure.action is Action.BACK_OFF:
            batch.attempts -= 1
            pause_s = self.overloaded(failure)
            if not lane.breaker.is_ok:
                batch.note_return()
                in_flight.give_back(batch)
            elif self._is_overloaded_alone(batch):
                self._bisect(batch, failure)
            else:
                in_flight.retry_after(pause_s, batch)
        elif failure.action is Action.DIVIDE:
            self._bisect(batch, failure)
        elif not lane.breaker.is_ok:
            batch.note_return()
            in_flight.give_back(batch)
        elif failure.action is Action.SUSPECT_SERVER:
            self._bisect(batch, failure)
        elif self._is_silent(batch, failure) or self._is_enough(failure):
            in_flight.sent.add(batch)  # it goes back with the others
            self._take_out(failure)
        elif batch.attempts >= SUSPICIOUS_ATTEMPTS:
            self._bisect(batch, failure)
        else:
            in_flight.retry_after(backoff_s(batch.attempts, self._rng), batch)

    def unsound(self, batch: Batch, matrix: Matrix, rows: list[int]) -> None:
        """Some rows are no vectors: the texts are asked for again alone; most of them: the server is at fault."""
        detail = f"{len(rows)} of {len(matrix)} vectors are not sound"
        if 2 * len(rows) > len(matrix) and len(matrix) > 1:
            self.failed(batch, Failure(kind=FailureKind.MALFORMED, detail=detail))
            return
        self._counters.add_failure(self._lane.address.url, Failure(kind=FailureKind.UNSOUND, detail=detail))
        self._lane.troubled()
        self._recheck_rows(batch, matrix, rows)

    def overloaded(self, failure: Failure) -> float:
        """Shrink the window and let the whole server cool down; returns for how long."""
        lane = self._lane
        self._counters.rejected_429 += 1
        lane.admission.overloaded()
        pause_s = overload_pause_s(lane.admission.overloaded_in_a_row, failure.retry_after, self._rng)
        lane.overloaded(pause_s)
        return pause_s

    def advance(self) -> None:
        """Have the server taken out when it is swamped, and for good when several answer behind its URL."""
        breaker, why = self._lane.breaker, self._lane.unlike.why
        if breaker.is_ok and why is not None:
            self._take_out(Failure(kind=FailureKind.OTHER_DIMENSION, detail=why))
            breaker.bar(why)
            self._several(why)
        if self._lane.breaker.is_ok and self._lane.is_overloaded_for(SWAMPED_S):
            self._take_out(Failure(kind=FailureKind.OVERLOADED, detail="it answers nothing but HTTP 429"))

    def _is_enough(self, failure: Failure) -> bool:
        """Whether it has failed often enough to be taken out; one that answers is asked for the canary first."""
        if not self._lane.breaker.failed():
            return False
        if failure.kind not in _BAD_ANSWERS or failure.status == _GATEWAY_TIMEOUT:
            return True
        self._check_server()
        return False

    def _is_overloaded_alone(self, batch: Batch) -> bool:
        """Note that a batch was answered "overloaded"; tells whether that goes on while other requests pass."""
        now_s = time.monotonic()
        batch.overloaded_s = batch.overloaded_s or now_s
        batch.n_overloaded += 1
        lasts = batch.n_overloaded >= OVERLOADED_ANSWERS and now_s - batch.overloaded_s >= OVERLOADED_ALONE_S
        return lasts and self._lane.last_answer_s > batch.overloaded_s

    def _is_silent(self, batch: Batch, failure: Failure) -> bool:
        """Whether the server has not answered anything in all the time that a request may take."""
        return failure.kind is FailureKind.TIMEOUT and self._lane.last_answer_s < batch.sent_s
