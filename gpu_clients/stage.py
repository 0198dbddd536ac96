"""A GPU client: pulls batches while its server has room, and hands vectors to the writer.

One thread, one poller. The usual way of a batch costs no more than it must: its slot's bytes are sent as they lie,
the answer is decoded straight into a vector slot. Whatever is out of the ordinary leaves that way:

    fails through the server's fault      a pause, then again; a few in a row take the server out (`breaker`)
    server out                            its batches go back into the ring, a probe with the canary lets it back in
    429                                   the window shrinks, the whole server cools down; nothing counts against it
    fails through a document's fault      the batch is taken apart (`isolation`), the document goes into quarantine
    no empty vector slot                  the answer waits in its connection, and nothing new is sent

Guarantee: every batch taken is at any moment in exactly one place: in flight, waiting for a retry, parked, in a
conversation, or handed on (vectors to the writer, documents to quarantine) or back. `taken_rows` = rows delivered +
quarantined + in those places.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import deque
from functools import partial

import numpy as np

from engine.records import Quarantined
from engine.worker import Heartbeat, StageContext
from gpu_clients.answers import BadAnswer
from gpu_clients.batches import Batch, id_texts
from gpu_clients.breaker import BreakerState
from gpu_clients.canary import Canary
from gpu_clients.delivery import Delivery
from gpu_clients.dialogues import Ask, Dialogues, Talk, failed_reply, reply_of
from gpu_clients.errors import Failure, FailureKind, Remedy
from gpu_clients.figures import Figures
from gpu_clients.http import EXCLUSIVE, READ, Poller
from gpu_clients.isolation import Finding, Laboratory, Rejection, isolate, isolate_rows
from gpu_clients.lane import Lane
from gpu_clients.probe import Examination, ProbeFailed, ServerProbe
from gpu_clients.requester import Completion
from gpu_clients.retry import backoff_s, overload_pause_s
from gpu_clients.settings import ClientSettings
from gpu_clients.soundness import MIN_COSINE, repeated_rows, share_one_vector

TICK_S = 0.05
SUSPICIOUS_ATTEMPTS = 3
"""Failures of one batch, while the server answers others, after which the batch itself is looked into."""
STOP_PATIENCE_S = 30.0
OPINION_TIMEOUT_S = 60.0
_QUARANTINE_TEXT_BYTES = 32 << 10
_QUARANTINE_MESSAGE_BYTES = 96 << 10


def run(context: StageContext) -> None:
    """Entry point of a client process; see `engine.worker.Stage`."""
    ClientStage(context, ClientSettings.from_dict(context.settings)).run()


class ClientStage:
    """The state of a client process."""

    def __init__(self, context: StageContext, settings: ClientSettings) -> None:
        self._context = context
        self._settings = settings
        self._rng = random.Random()
        self._poller = Poller()
        self._lane = Lane(settings, settings.index, self._poller, self._rng)
        self._opinions: dict[int, Lane] = {}
        self._dialogues = Dialogues(settings.index, self._ask_elsewhere)
        self._silence: Talk | None = None  # a talk that wants nothing else in flight has its request out
        self._delivery = Delivery(context, settings.id_type)
        self._figures = Figures()
        self._heartbeat = Heartbeat()
        self._canary = Canary.decode(settings.canary) if settings.canary else None
        self._in_flight: set[Batch] = set()
        self._asked: set[Talk] = set()  # talks whose request to our server is in flight
        self._retries: list[tuple[float, int, Batch]] = []  # a heap by due time
        self._parked: deque[Completion | tuple[Batch, Finding]] = deque()
        self._probe: ServerProbe | None = None
        self._commands_wait = True
        self._documents_wait = True
        self._starving = False
        self._stopping_s: float | None = None
        self._stopped = False
        self._leaving = False
        self._tail = False
        self._tick_s = 0.0
        self._scratch = np.empty((0, 0), dtype=np.float32)
        self._poller.watch(context.channel.fd, READ, self._on_command_waiting)

    # -- the loop --------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until told to exit."""
        if self._lane.requester is None:
            self._lane.breaker.trip("it did not answer at the start")
        while not self._leaving:
            if self._commands_wait:
                self._obey()
            now_s = time.monotonic()
            if now_s >= self._tick_s:
                self._tick(now_s)
                self._tick_s = now_s + TICK_S
            self._unpark()
            self._send_what_fits()
            self._wait()
            self._take_completions()

    def _wait(self) -> None:
        began_s = time.monotonic()
        self._poller.run(TICK_S)
        waited_s = time.monotonic() - began_s
        if self._parked:
            self._figures.vector_wait_s += waited_s
        elif self._starving:
            self._figures.ring_wait_s += waited_s

    def _tick(self, now_s: float) -> None:
        """What has to be looked at every so often."""
        lane = self._lane
        if lane.requester is not None:
            lane.requester.http.check_deadlines()
        for other in self._opinions.values():
            if other.requester is not None:
                other.requester.http.check_deadlines()
        self._dialogues.wake(now_s)
        self._probe_if_due(now_s)
        # a wake-up may have gone to another client that had less room than documents came
        self._documents_wait = True
        if self._stopping_s is not None:
            self._finish_stopping(now_s)
        if self._heartbeat.due():
            self._report()

    def _on_command_waiting(self, _events: int) -> None:
        self._commands_wait = True

    def _on_document_waiting(self, _events: int) -> None:
        self._documents_wait = True
        self._poller.forget(self._context.documents_ready.read_fd)

    def _obey(self) -> None:
        self._commands_wait = False
        for command in self._context.poll_commands():
            order = command["do"]
            if order == "exit":
                self._leaving = True
            elif order == "stop":
                self._stopping_s = time.monotonic() + STOP_PATIENCE_S
            elif order == "tail":
                self._tail = True

    # -- out -------------------------------------------------------------------------------------------

    def _send_what_fits(self) -> None:
        """Send conversations' requests, due retries and new batches, in that order, while there is room."""
        lane = self._lane
        now_s = time.monotonic()
        if not lane.breaker.is_ok:
            self._refuse_conversations()
            return
        if now_s < lane.resume_s or self._silence is not None or self._parked:
            return
        if not self._send_conversations():
            return
        while self._retries and self._retries[0][0] <= now_s:
            batch = self._retries[0][2]
            if not lane.admission.admits(lane.in_flight_texts, batch.n_texts):
                return
            # waiting out an overload is no retry: the window and the cool-down bound it
            if batch.attempts and not lane.budget.spend(now_s):
                break
            heapq.heappop(self._retries)
            self._figures.retries += 1
            self._send(batch)
        if self._stopping_s is None:
            self._send_new()

    def _send_conversations(self) -> bool:
        """Send what conversations want of our server; False when nothing else may be sent meanwhile."""
        waiting, lane = self._dialogues.waiting, self._lane
        assert lane.requester is not None
        while waiting:
            talk = waiting[0]
            ask = talk.ask
            assert ask is not None
            if ask.solo and lane.in_flight:
                return False
            if not lane.admission.admits(lane.in_flight_texts, ask.n_texts):
                return False
            waiting.popleft()
            self._asked.add(talk)
            lane.requester.submit([ask.body], ask.n_texts, timeout_s=lane.timeout_s, tag=talk)
            if ask.solo:
                self._silence = talk
                return False
        return True

    def _refuse_conversations(self) -> None:
        """Our server is out: whoever waits for it is told so."""
        out = failed_reply(Failure(kind=FailureKind.OUT, detail=f"the server is out: {self._lane.breaker.reason}"))
        now_s = time.monotonic()
        while self._asked or self._dialogues.waiting:
            talk = self._asked.pop() if self._asked else self._dialogues.waiting.popleft()
            self._dialogues.reply(talk, out, now_s)

    def _send_new(self) -> None:
        lane, context = self._lane, self._context
        usual = self._settings.batch_size
        while lane.admission.admits(lane.in_flight_texts, usual):
            number = context.documents_ready.take() if self._documents_wait else None
            if number is None:
                self._starve()
                return
            self._starving = False
            batch = Batch(number, context.documents.slot(number), context.generation)
            self._figures.taken_rows += batch.n_rows
            if lane.max_body_bytes is not None and batch.header.body_bytes >= lane.max_body_bytes:
                self._isolate(batch, Failure(kind=FailureKind.PAYLOAD, detail="larger than the server's payload limit"))
                return
            self._send(batch)
        self._starving = False

    def _starve(self) -> None:
        """There is room but no document: be woken by the next one, one client for each."""
        self._starving = True
        self._documents_wait = False
        fd = self._context.documents_ready.read_fd
        if not self._poller.watches(fd):
            self._poller.watch(fd, READ | EXCLUSIVE, self._on_document_waiting)

    def _send(self, batch: Batch) -> None:
        lane = self._lane
        assert lane.requester is not None
        self._in_flight.add(batch)
        self._figures.requests += 1
        lane.requester.submit([batch.body()], batch.n_texts, timeout_s=lane.timeout_s, tag=batch)

    # -- in --------------------------------------------------------------------------------------------

    def _take_completions(self) -> None:
        requester = self._lane.requester
        if requester is not None and requester.http.finished:
            for completion in requester.completions():
                if type(completion.tag) is Batch:
                    self._take_batch(completion, completion.tag)
                else:
                    assert isinstance(completion.tag, Talk)
                    self._take_reply(completion, completion.tag)
        for other in self._opinions.values():
            if other.requester is not None and other.requester.http.finished:
                for completion in other.requester.completions():
                    assert isinstance(completion.tag, Talk)
                    self._dialogues.reply(completion.tag, reply_of(completion, self._settings.dim), time.monotonic())

    def _take_batch(self, completion: Completion, batch: Batch) -> None:
        if batch not in self._in_flight:
            completion.release()  # given back while this answer waited to be looked at
            return
        self._in_flight.discard(batch)
        if completion.failure is not None:
            self._failed(batch, completion.failure)
        elif self._parked or not self._delivery.has_slot():
            self._park(completion)
        else:
            self._deliver(completion, batch)

    def _park(self, item: Completion | tuple[Batch, Finding]) -> None:
        """Keep what has vectors until there is an empty vector slot."""
        if not self._parked:
            self._poller.watch(self._context.vectors_free.read_fd, READ, lambda _events: None)
        self._parked.append(item)

    def _unpark(self) -> None:
        """Deliver what has waited for an empty vector slot."""
        while self._parked and self._delivery.has_slot():
            item = self._parked.popleft()
            if not self._parked:
                self._poller.forget(self._context.vectors_free.read_fd)
            if isinstance(item, Completion):
                assert isinstance(item.tag, Batch)
                self._deliver(item, item.tag)
            else:
                self._deliver_finding(*item)

    def _deliver(self, completion: Completion, batch: Batch) -> None:
        """Decode an answer into the vector slot at hand and pass it on."""
        fanout = batch.fanout()
        matrix = self._delivery.matrix(batch.n_rows) if fanout is None else self._scratch_matrix(batch.n_texts)
        times = completion.times()
        try:
            unsound = completion.decode_into(matrix)
        except BadAnswer as error:
            completion.release()
            self._failed(batch, Failure(kind=error.kind, detail=str(error), status=200))
            return
        completion.release()
        if unsound:
            self._unsound(batch, matrix, unsound)
            return
        if repeated_rows(matrix) and share_one_vector(matrix, batch.texts()):
            self._failed(batch, Failure(kind=FailureKind.MALFORMED, detail="one vector for most different texts"))
            return
        if fanout is not None:
            np.take(matrix, fanout, axis=0, out=self._delivery.matrix(batch.n_rows))
            self._figures.saved_by_dedup += batch.n_rows - batch.n_texts
        self._lane.answered(completion, times)
        figures = self._figures
        tokens = times.tokens if times.tokens is not None else completion.tokens
        figures.add_answer(completion, tokens, batch.header.estimated_tokens)
        figures.queue_s += times.queue_s
        figures.inference_s += times.inference_s
        figures.tokenization_s += times.tokenization_s
        self._delivery.publish(batch)
        self._context.documents_free.put(batch.number)

    def _scratch_matrix(self, n_texts: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        if len(self._scratch) < n_texts:
            self._scratch = np.empty((n_texts, self._settings.dim), dtype=np.float32)
        return self._scratch[:n_texts]

    # -- what goes wrong -------------------------------------------------------------------------------

    def _failed(self, batch: Batch, failure: Failure) -> None:
        """A batch's request failed: do what its kind asks for."""
        self._count(failure)
        batch.attempts += 1
        if failure.remedy is Remedy.BACK_OFF:
            batch.attempts -= 1
            self._overloaded(failure)
            self._retry_after(0.0, batch)
        elif failure.remedy is Remedy.EXCLUDE:
            self._give_back(batch)
            self._trip(failure)
        elif failure.remedy is Remedy.DIVIDE:
            if failure.kind is FailureKind.PAYLOAD:
                self._learn_payload_limit(batch)
            self._isolate(batch, failure)
        elif self._lane.breaker.is_ok and self._lane.breaker.failed():
            self._give_back(batch)
            self._trip(failure)
        elif not self._lane.breaker.is_ok:
            self._give_back(batch)
        elif batch.attempts >= SUSPICIOUS_ATTEMPTS:
            self._isolate(batch, failure)
        else:
            self._retry_after(backoff_s(batch.attempts, self._rng), batch)

    def _retry_after(self, pause_s: float, batch: Batch) -> None:
        heapq.heappush(self._retries, (time.monotonic() + pause_s, batch.number, batch))

    def _count(self, failure: Failure) -> None:
        self._figures.errors[failure.kind.value] += 1
        self._figures.last_error = f"{self._lane.address.url}: {failure.kind.value}: {failure.detail}"

    def _overloaded(self, failure: Failure) -> None:
        lane = self._lane
        self._figures.rejected_429 += 1
        lane.admission.overloaded()
        pause_s = overload_pause_s(lane.admission.overloaded_in_a_row, failure.retry_after, self._rng)
        lane.resume_s = max(lane.resume_s, time.monotonic() + pause_s)

    def _learn_payload_limit(self, batch: Batch) -> None:
        known = self._lane.max_body_bytes
        self._lane.max_body_bytes = min(batch.header.body_bytes, known or batch.header.body_bytes)

    def _unsound(
        self, batch: Batch, matrix: np.ndarray[tuple[int, ...], np.dtype[np.float32]], rows: list[int]
    ) -> None:
        """Some rows are no vectors: the texts are asked for again alone; most of them: the server is at fault."""
        failure = Failure(kind=FailureKind.UNSOUND, detail=f"{len(rows)} of {len(matrix)} vectors are not sound")
        if 2 * len(rows) > len(matrix) and len(matrix) > 1:
            self._failed(batch, Failure(kind=FailureKind.MALFORMED, detail=failure.detail))
            return
        self._count(failure)
        search = isolate_rows(batch.texts(), matrix.copy(), rows, self._laboratory())
        self._dialogues.start(search, partial(self._isolated, batch), batch, time.monotonic())

    def _isolate(self, batch: Batch, failure: Failure) -> None:
        search = isolate(batch.texts(), failure, self._laboratory())
        self._dialogues.start(search, partial(self._isolated, batch), batch, time.monotonic())

    def _laboratory(self) -> Laboratory:
        settings, lane = self._settings, self._lane
        n = len(settings.urls)
        others = [(settings.index + step) % n for step in range(1, n)]
        return Laboratory(
            own=settings.index,
            others=[server for server in others if settings.facts_of(server) is not None],
            canary=self._canary,
            max_input_length=lane.facts.max_input_length if lane.facts else None,
            dim=settings.dim,
        )

    def _isolated(self, batch: Batch, finding: Finding) -> None:
        """A batch has been taken apart: deliver what has vectors, put the rest into quarantine."""
        if finding.sick is not None:
            self._give_back(batch)
            if self._lane.breaker.is_ok:
                self._count(finding.sick)
                self._trip(finding.sick)
            return
        if self._parked or not self._delivery.has_slot():
            self._park((batch, finding))
        else:
            self._deliver_finding(batch, finding)

    def _deliver_finding(self, batch: Batch, finding: Finding) -> None:
        fanout = batch.fanout()
        text_of_row = list(range(batch.n_rows)) if fanout is None else fanout.tolist()
        keep = [row for row, text in enumerate(text_of_row) if text not in finding.rejected]
        if finding.rejected:
            self._quarantine(batch, finding.rejected, text_of_row)
        if keep:
            self._delivery.matrix(len(keep))[:] = finding.matrix[[text_of_row[row] for row in keep]]
            self._delivery.publish(batch, keep=keep if len(keep) < batch.n_rows else None)
        self._context.documents_free.put(batch.number)

    def _quarantine(self, batch: Batch, rejected: dict[int, Rejection], text_of_row: list[int]) -> None:
        rows = [row for row, text in enumerate(text_of_row) if text in rejected]
        texts = batch.texts()
        ids = id_texts(self._settings.id_type, batch.meta(), batch.n_rows, rows)
        entries: list[dict[str, object]] = []
        size_bytes = 0
        for row, identity in zip(rows, ids, strict=True):
            rejection = rejected[text_of_row[row]]
            text = texts[text_of_row[row]].encode()[:_QUARANTINE_TEXT_BYTES].decode("utf-8", "ignore")
            entry = Quarantined(
                id=identity,
                reason=rejection.failure.reason,
                detail=rejection.detail,
                attempts=rejection.attempts,
                text=text if self._settings.keep_text else None,
            )
            # JSON escapes can double a text's size
            size_bytes += 2 * len(entry.text or "") + len(identity) + len(entry.detail) + 200
            if entries and (size_bytes > _QUARANTINE_MESSAGE_BYTES or len(entries) >= 50):
                self._context.tell("quarantine", entries=entries)
                entries, size_bytes = [], 0
            entries.append({name: getattr(entry, name) for name in entry.__slots__})
        self._context.tell("quarantine", entries=entries)
        self._figures.quarantined += len(rows)

    # -- conversations ---------------------------------------------------------------------------------

    def _take_reply(self, completion: Completion, talk: Talk) -> None:
        if talk not in self._asked:
            completion.release()  # it has been told already that the server is out
            return
        self._asked.discard(talk)
        if self._silence is talk:
            self._silence = None
        if completion.failure is not None and completion.failure.remedy is Remedy.BACK_OFF:
            self._overloaded(completion.failure)
        self._dialogues.reply(talk, reply_of(completion, self._settings.dim), time.monotonic())

    def _ask_elsewhere(self, talk: Talk, ask: Ask) -> None:
        """Ask another server of the fleet for a second opinion."""
        lane = self._opinions.get(ask.server)
        if lane is None:
            lane = self._opinions[ask.server] = Lane(self._settings, ask.server, self._poller, self._rng)
        assert lane.requester is not None  # only servers with known facts are asked
        lane.requester.submit([ask.body], ask.n_texts, timeout_s=OPINION_TIMEOUT_S, tag=talk)

    # -- out and back ----------------------------------------------------------------------------------

    def _trip(self, failure: Failure) -> None:
        """Take our server out: everything goes back into the ring for the others."""
        lane = self._lane
        if not lane.breaker.is_ok:
            return
        lane.breaker.trip(failure.detail)
        if lane.requester is not None:
            lane.requester.abandon()
        for batch in self._in_flight:
            self._give_back(batch)
        self._in_flight.clear()
        self._give_back_retries()
        self._context.tell("server_out", url=lane.address.url, reason=failure.detail)
        self._silence = None
        self._refuse_conversations()
        self._report()

    def _give_back_retries(self) -> None:
        for _, _, batch in self._retries:
            self._give_back(batch)
        self._retries.clear()

    def _give_back(self, batch: Batch) -> None:
        self._figures.taken_rows -= batch.n_rows
        self._context.documents_ready.put(batch.number)

    def _probe_if_due(self, now_s: float) -> None:
        lane = self._lane
        if self._probe is not None:
            if self._probe.advance():
                probe, self._probe = self._probe, None
                probe.close()
                self._take_probe(probe.outcome)
        elif lane.breaker.probe_due(now_s):
            lane.breaker.probe_begins()
            self._probe = lane.probe()

    def _take_probe(self, outcome: Examination | ProbeFailed | None) -> None:
        lane = self._lane
        why = self._unfit(outcome)
        if why is not None:
            lane.breaker.probe_failed(why)
            self._figures.last_error = f"{lane.address.url}: {why}"
            return
        assert isinstance(outcome, Examination)
        lane.meet(outcome.facts)
        lane.breaker.probe_passed()
        self._context.tell("server_back", url=lane.address.url)
        self._report()

    def _unfit(self, outcome: Examination | ProbeFailed | None) -> str | None:
        """Why a server that was examined may not work in this run; None when it may."""
        if not isinstance(outcome, Examination):
            return str(outcome)
        known = next((facts for facts in self._settings.facts if facts is not None), None)
        differences = known.differences(outcome.facts) if known is not None else []
        if outcome.dim != self._settings.dim:
            differences.append(f"dimension {outcome.dim} is not {self._settings.dim}")
        elif self._canary is not None:
            cosine = self._canary.agrees_with(outcome.canary)
            if not cosine >= MIN_COSINE:
                differences.append(f"vectors of the canary texts (cosine {cosine:.4f})")
        return f"it came back as another server: {', '.join(differences)}" if differences else None

    # -- the supervisor --------------------------------------------------------------------------------

    def _finish_stopping(self, now_s: float) -> None:
        """After a stop command: done when nothing is in hand; what takes too long is given back."""
        assert self._stopping_s is not None
        self._give_back_retries()
        if now_s >= self._stopping_s and self._lane.breaker.is_ok:
            late = Failure(kind=FailureKind.TIMEOUT, detail="not finished in time after the stop command")
            if self._in_flight or self._dialogues.n_open:
                self._trip(late)
        if not (self._in_flight or self._parked or self._dialogues.n_open or self._stopped):
            self._stopped = True
            self._report()
            self._context.tell("stopped", rows=self._delivery.rows, taken_rows=self._figures.taken_rows)

    def _state(self) -> str:
        if self._stopped:
            return "stopped"
        state = self._lane.breaker.state
        if state is not BreakerState.OK:
            return str(state.value)
        return "idle" if self._starving and not self._lane.in_flight else "ok"

    def _report(self) -> None:
        lane = self._lane
        self._context.tell(
            "client",
            rows=self._delivery.rows,
            state=self._state(),
            in_flight=lane.in_flight,
            window=lane.admission.window_requests,
            **self._figures.as_facts(),
        )
