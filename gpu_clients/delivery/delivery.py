"""From an answer to a filled vector slot: decode, check, look for cut texts, hand over to the writer.

An answer is decoded straight into the memory of an empty vector slot. When there is none it waits *in its connection*
(parked), so waiting takes no memory beyond the window's, and the stage sends nothing new meanwhile.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque

import numpy as np

from engine.ledger import durable
from engine.supervision.worker import StageContext
from gpu_clients.batches.batch import Batch
from gpu_clients.batches.counters import Counters
from gpu_clients.batches.failure_policy import FailurePolicy
from gpu_clients.batches.in_flight import InFlight
from gpu_clients.batches.lane import Lane
from gpu_clients.delivery.quarantine import quarantine_messages
from gpu_clients.delivery.vector_slots import VectorSlots
from gpu_clients.diagnosis.finding import Finding
from gpu_clients.diagnosis.proof import UnprovenRows
from gpu_clients.errors import Failure, FailureKind
from gpu_clients.http.answers import BadAnswer
from gpu_clients.http.polling import READ, Poller
from gpu_clients.servers.requester import Completion
from gpu_clients.servers.side_requests import SideRequests
from gpu_clients.servers.tokenizer import find_truncated
from gpu_clients.settings import ClientSettings
from gpu_clients.vectors.decode import Matrix
from gpu_clients.vectors.soundness import repeated_rows, share_one_vector
from gpu_clients.vectors.truncation import Suspects, Truncation


class Delivery:
    """Takes answers and findings, and hands rows to the writer and rejected documents to quarantine.

    Args:
        policy: Gets the batches whose answer cannot be used, and those with rows that are no vectors.
        in_flight: Gets back the batches that have to be embedded anew by another server.
        unproven: Where rows handed over are counted.
    """

    def __init__(
        self,
        context: StageContext,
        settings: ClientSettings,
        *,
        poller: Poller,
        lane: Lane,
        side_requests: SideRequests,
        counters: Counters,
        policy: FailurePolicy,
        in_flight: InFlight,
        unproven: UnprovenRows,
    ) -> None:
        self._context = context
        self._settings = settings
        self._poller = poller
        self._lane = lane
        self._side_requests = side_requests
        self._counters = counters
        self._policy = policy
        self._in_flight = in_flight
        self._rows_of = unproven.rows_of
        self._slots = VectorSlots(context, settings.id_type, counters)
        self._parked: deque[Completion | tuple[Batch, Finding]] = deque()
        self._has_warned = False
        self._scratch: Matrix = np.empty((0, settings.dim), dtype=np.float32)

    @property
    def parked(self) -> bool:
        """Whether something waits for an empty vector slot."""
        return bool(self._parked)

    def take(self, completion: Completion, batch: Batch) -> None:
        """Take a batch's answer."""
        if self._parked or not self._slots.has_slot():
            self._park(completion)
        else:
            self._deliver(completion, batch)

    def take_finding(self, batch: Batch, finding: Finding, drifts: int) -> None:
        """Take a batch that was bisected; unless every text has a vector or a rejection, it is given back.

        Args:
            drifts: Those of our server (`Lane.drifts`) when that began; its vectors may not be believed any more.
        """
        if not finding.complete or drifts != self._lane.drifts:
            if finding.history is not None:
                batch.history = dataclasses.replace(finding.history, returns=batch.history.returns)
            batch.note_return()
            self._in_flight.give_back(batch)
            return
        if not finding.truncation_known and not self._clears(batch, None):
            suspects = self._lane.truncation.suspects(batch.texts())
            if suspects.cut or suspects.unsure:
                self._count(batch, finding, suspects)
                return
        if self._parked or not self._slots.has_slot():
            self._park((batch, finding))
        else:
            self._deliver_finding(batch, finding)

    def unpark(self) -> None:
        """Deliver what has waited for an empty vector slot, as far as there are some now."""
        while self._parked and self._slots.has_slot():
            item = self._parked.popleft()
            if not self._parked:
                self._poller.forget(self._context.vectors_free.read_fd)
            if isinstance(item, Completion):
                assert isinstance(item.tag, Batch)
                self._deliver(item, item.tag)
            else:
                self._deliver_finding(*item)

    def take_back(self) -> None:
        """Give back what waits for an empty vector slot: the server's vectors are not believed any more."""
        if self._parked:
            self._poller.forget(self._context.vectors_free.read_fd)
        while self._parked:
            item = self._parked.popleft()
            if isinstance(item, Completion):
                item.release()
                assert isinstance(item.tag, Batch)
                self._in_flight.give_back(item.tag)
            else:
                self._in_flight.give_back(item[0])

    def _park(self, item: Completion | tuple[Batch, Finding]) -> None:
        if not self._parked:
            self._poller.watch(self._context.vectors_free.read_fd, READ, lambda _events: None)
        self._parked.append(item)

    def _deliver(self, completion: Completion, batch: Batch) -> None:
        fanout = batch.fanout()
        matrix = self._slots.matrix(batch.n_rows) if fanout is None else self._scratch_matrix(batch.n_texts)
        times = completion.times()
        try:
            unsound = completion.decode_into(matrix)
        except BadAnswer as error:
            self._policy.failed(batch, Failure(kind=error.kind, detail=str(error), status=200))
            return
        finally:
            completion.release()
        if unsound:
            self._policy.unsound(batch, matrix, unsound)
            return
        if repeated_rows(matrix) and share_one_vector(matrix, batch.texts()):
            failure = Failure(kind=FailureKind.MALFORMED, detail="one vector for most different texts")
            self._policy.failed(batch, failure)
            return
        tokens = times.tokens if times.tokens is not None else completion.tokens
        self._lane.answered(completion, times)
        self._counters.add_answer(completion, times, tokens, batch.header.estimated_tokens)
        if not self._clears(batch, tokens) and self._waits_for_count(batch, matrix, tokens):
            return
        if fanout is not None:
            np.take(matrix, fanout, axis=0, out=self._slots.matrix(batch.n_rows))
            self._counters.saved_by_dedup += batch.n_rows - batch.n_texts
        durable.point("client.answered")
        self._slots.publish(batch)
        self._rows_of[self._lane.index] += batch.n_rows
        self._context.documents_free.put(batch.number)

    def _deliver_finding(self, batch: Batch, finding: Finding) -> None:
        """Deliver the rows that have vectors, put the others into quarantine."""
        owners = batch.text_of_row()
        keep = [row for row, text in enumerate(owners) if text not in finding.rejected]
        cut = set(finding.truncated)
        truncated = [row for row in keep if owners[row] in cut] if cut else []
        for entries in quarantine_messages(
            batch, finding.rejected, self._settings.id_type, keep_text=self._settings.keep_text
        ):
            self._context.tell("quarantine", entries=entries)
            self._counters.quarantined += len(entries)
        if keep:
            self._slots.matrix(len(keep))[:] = finding.matrix[[owners[row] for row in keep]]
            self._slots.publish(batch, keep=keep if len(keep) < batch.n_rows else None, truncated=truncated)
            self._rows_of.update(dict.fromkeys(finding.servers, len(keep)))
            self._counters.truncated += len(truncated)
            self._counters.saved_by_dedup += len(keep) - len({owners[row] for row in keep})
        else:
            self._context.tell("void", sequence=batch.header.sequence)
        self._context.documents_free.put(batch.number)

    def _clears(self, batch: Batch, tokens: int | None) -> bool:
        return self._lane.truncation.clears(batch.header.body_bytes, batch.n_texts, tokens)

    def _waits_for_count(self, batch: Batch, matrix: Matrix, tokens: int | None) -> bool:
        """Look closer at a batch that may hold cut texts; True when it is delivered later, after a count."""
        judge = self._lane.truncation
        suspects = judge.suspects(batch.texts())
        if not suspects.cut and not suspects.unsure:
            judge.learn(batch.header.body_bytes, tokens or 0)
            return False
        self._count(batch, Finding(matrix.copy(), {self._lane.index}, complete=True), suspects)
        return True

    def _count(self, batch: Batch, finding: Finding, suspects: Suspects) -> None:
        """Have the tokens of the suspects counted, then deliver."""
        drifts = self._lane.drifts

        def counted(truncation: Truncation) -> None:
            finding.truncated, finding.truncation_known = sorted({*finding.truncated, *truncation.cut}), True
            if truncation.n_estimated and judge.can_count and not self._has_warned:
                self._has_warned = True
                self._context.log("warning", "truncation_estimated", url=self._lane.address.url, why="no /tokenize")
            self.take_finding(batch, finding, drifts)

        judge = self._lane.truncation
        count = find_truncated(batch.texts(), suspects, judge)
        self._side_requests.start(count, counted, time.monotonic())

    def _scratch_matrix(self, n_texts: int) -> Matrix:
        if len(self._scratch) < n_texts:
            self._scratch = np.empty((n_texts, self._settings.dim), dtype=np.float32)
        return self._scratch[:n_texts]
