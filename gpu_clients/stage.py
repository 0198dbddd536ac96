"""A GPU client: pulls batches while its server has room, and hands vectors to the writer.

One thread, one poller. The usual way of a batch costs no more than it must: its slot's bytes are sent as they lie,
the answer is decoded straight into a vector slot. Whatever is out of the ordinary leaves that way:

    fails through the server's fault      a pause, then again; a few in a row take the server out (`breaker`)
    server out                            its batches go back into the ring, a probe lets it back in (`rejoin`)
    429                                   the window shrinks, the whole server cools down; nothing counts against it
    fails through a document's fault      the batch is taken apart (`bisection`), the document goes into quarantine
    no empty vector slot                  the answer waits in its connection, and nothing new is sent
    the server's vectors are wrong        it is taken out, its rows in hand are embedded anew, others refused: `proof`

Guarantee: every batch taken is at any moment in exactly one place: in flight or waiting for a retry (`in_flight`),
parked (`delivery`), in a side request (`side_requests`), or handed on (vectors to the writer, documents to quarantine)
or back. So `taken_rows` is always the rows delivered, those in quarantine, and those in these places.
"""

from __future__ import annotations

import random
import time
from functools import partial

from engine.ledger import durable
from engine.supervision.worker import StageContext
from gpu_clients.batches.batch import Batch
from gpu_clients.batches.counters import Counters
from gpu_clients.batches.failure_policy import FailurePolicy
from gpu_clients.batches.in_flight import InFlight
from gpu_clients.batches.lane import Lane
from gpu_clients.batches.peers import Peers
from gpu_clients.batches.rejoin import Rejoin
from gpu_clients.batches.reports import NO_ANSWER_AT_START, Reports
from gpu_clients.delivery.delivery import Delivery
from gpu_clients.diagnosis.bisections import Bisections, context_of
from gpu_clients.diagnosis.canary_check import check_canary
from gpu_clients.diagnosis.canary_schedule import CanarySchedule, canary_every_s
from gpu_clients.diagnosis.finding import Finding
from gpu_clients.diagnosis.own_requests import OwnServerRequests
from gpu_clients.diagnosis.proof import Proof, UnprovenRows
from gpu_clients.errors import Action, Failure, FailureKind
from gpu_clients.http.client import HttpClient
from gpu_clients.http.polling import EXCLUSIVE, READ, Poller
from gpu_clients.servers.canary import Arrangement, Canary
from gpu_clients.servers.requester import Completion
from gpu_clients.servers.side_requests import SideRequest, SideRequests, reply_of
from gpu_clients.servers.tokenizer import TokenCounter
from gpu_clients.settings import ClientSettings

TICK_S = 0.05
STOP_PATIENCE_S = 30.0
TAIL_PATIENCE_S = 1.0
"""At the tail, an overloaded server's batches wait no longer than that for it."""
HEDGE_AFTER_S = 0.25
"""At the tail, a request younger than that (and than the median latency) is not worth a copy."""


def run(context: StageContext) -> None:
    """Entry point of a client process; see `engine.supervision.worker.Stage`."""
    ClientStage(context, ClientSettings.from_dict(context.settings)).run()


class ClientStage:
    """The state of a client process."""

    def __init__(self, context: StageContext, settings: ClientSettings) -> None:
        self._context = context
        self._settings = settings
        self._poller = poller = Poller()
        rng = random.Random()
        canary = Canary.decode(settings.canary) if settings.canary else None
        self._lane = lane = Lane(settings, settings.index, poller, rng)
        self._peers = Peers(settings, poller, rng)
        self._token_counter = TokenCounter(HttpClient(lane.address, poller, settings.access(settings.index)))
        self._side_requests = SideRequests(settings.index, self._peers.ask, self._token_counter.count)
        self._counters = Counters()
        self._reports = Reports(context, settings.urls, lane=lane, counters=self._counters, peers=self._peers)
        refuse_own_rows = partial(self._refuse_rows_of, settings.index)
        self._rejoin = Rejoin(settings, lane, canary, drifted=refuse_own_rows, several=self._reports.several_backends)
        self._in_flight = InFlight(context, self._counters)
        self._bisection_context = partial(context_of, lane, settings, self._peers.known, canary)
        self._bisections = Bisections(lane, self._side_requests, self._bisection_context, found=self._found)
        self._unproven = UnprovenRows()
        self._canary_schedule = CanarySchedule(
            self._unproven,
            self._side_requests,
            self._bisection_context,
            every_s=canary_every_s(settings),
            failed=partial(self._canary_failed, settings.index),
            cleared=lane.breaker.cleared,
            sick=self._server_is_sick,
        )
        self._policy = FailurePolicy(
            lane,
            self._in_flight,
            self._counters,
            rng,
            bisect=self._bisections.bisect,
            recheck_rows=self._bisections.recheck_rows,
            check_server=self._canary_schedule.ask_soon,
            take_out=self._trip,
            several=self._reports.several_backends,
        )
        self._own_requests = OwnServerRequests(self._side_requests, lane, settings.dim, self._policy.overloaded)
        self._delivery = Delivery(
            context,
            settings,
            poller=poller,
            lane=lane,
            side_requests=self._side_requests,
            counters=self._counters,
            policy=self._policy,
            in_flight=self._in_flight,
            unproven=self._unproven,
        )
        self._proof = Proof(
            self._unproven,
            self._side_requests,
            self._bisection_context,
            patience_s=lambda: lane.patience_s,
            told=self._proved,
            failed=self._canary_failed,
        )
        self._commands_wait = True
        self._stop_by_s: float | None = None
        self._stopped = False
        self._leaving = False
        self._tail = False
        self._documents_wait = True
        self._starving = False
        self._tick_s = 0.0
        poller.watch(context.channel.fd, READ, self._on_command)

    # -- the loop --------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until told to exit."""
        if self._lane.requester is None:
            self._lane.breaker.trip(NO_ANSWER_AT_START)
        while not self._leaving:
            if self._commands_wait:
                self._follow_commands()
            now_s = time.monotonic()
            if now_s >= self._tick_s:
                self._tick_s = now_s + TICK_S
                self._tick(now_s)
            self._delivery.unpark()
            self._send_what_fits()
            self._wait()
            self._take_completions()

    def _wait(self) -> None:
        began_s = time.monotonic()
        self._poller.run(TICK_S)
        waits = (self._delivery.parked, self._starving and self._lane.breaker.is_ok, not self._tail)
        self._counters.add_wait(time.monotonic() - began_s, *waits, in_flight=self._lane.in_flight)

    def _tick(self, now_s: float) -> None:
        """What has to be looked at every so often."""
        if self._lane.requester is not None:
            self._lane.requester.http.check_deadlines()
        self._peers.check_deadlines()
        self._token_counter.check_deadlines()
        self._side_requests.wake(now_s)
        if self._rejoin.advance(now_s):
            self._starving = False  # whether it is has yet to be seen
            self._report()
            self._reports.server_back()
        self._reports.say_why_out()
        self._policy.advance()
        if self._lane.breaker.is_ok and self._stop_by_s is None:
            self._canary_schedule.advance(now_s)
        self._proof.advance(now_s)
        if self._tail and self._in_flight.sent and not self._context.documents_ready.waiting():
            self._peers.hedge(
                self._in_flight.sent,
                older_than_s=max(HEDGE_AFTER_S, self._lane.admission.median_s() or 0.0),
                n_requests=self._counters.requests,
                check_canary=self._check_canary,
            )
        if self._tail and self._lane.is_overloaded_for(TAIL_PATIENCE_S):
            self._in_flight.give_back_retries()  # others have nothing to do
        if self._stop_by_s is not None:
            self._finish_stopping(now_s, self._stop_by_s)
        # a wake-up may have gone to another client that had less room than documents came
        self._documents_wait = True
        if self._reports.are_due(tail=self._tail):
            self._report()

    def _on_command(self, _events: int) -> None:
        self._commands_wait = True

    def _on_document(self, _events: int) -> None:
        self._documents_wait = True
        self._poller.forget(self._context.documents_ready.read_fd)

    def _follow_commands(self) -> None:
        self._commands_wait = False
        for command in self._context.poll_commands():
            order = command["do"]
            if order == "exit":
                self._leaving = True
            elif order == "stop":
                self._stop_by_s = time.monotonic() + STOP_PATIENCE_S
            elif order == "tail":
                self._tail = True
            elif order == "prove":
                self._proof.ask(command["number"])
            elif order == "suspect":
                self._suspect(for_good=command["for_good"])

    def _suspect(self, *, for_good: bool) -> None:
        """Our server has drifted in this run: it works only once it has given the right canary, or not at all."""
        if self._lane.breaker.is_ok:
            self._trip(Failure(kind=FailureKind.DRIFTED, detail="its vectors were wrong"))
        if for_good:
            self._lane.breaker.bar("its vectors turned wrong again and again")

    # -- out -------------------------------------------------------------------------------------------

    def _send_what_fits(self) -> None:
        """Send side requests, due retries and new batches, in that order, while there is room."""
        lane = self._lane
        if not lane.breaker.is_ok:
            self._own_requests.refuse()
            return
        now_s = time.monotonic()
        if now_s < lane.resume_s or self._own_requests.quiet:
            return
        # side requests go on while answers wait for the writer: it may be waiting for the proof that we are asked for
        if not self._own_requests.send() or self._delivery.parked:
            return
        if self._send_retries(now_s) and self._stop_by_s is None:
            self._send_new()

    def _send_retries(self, now_s: float) -> bool:
        """Send the retries that are due; False when there is no room for more."""
        lane = self._lane
        while (batch := self._in_flight.due_retry(now_s)) is not None:
            if not lane.admission.admits(lane.in_flight_texts, batch.n_texts):
                return False
            # waiting out an overload is no retry: the window and the cool-down bound it
            if batch.attempts and not lane.budget.spend(now_s):
                break
            self._in_flight.pop_retry()
            self._counters.retries += batch.sent_s > 0.0
            self._send(batch)
        return True

    def _send_new(self) -> None:
        lane = self._lane
        for _ in range(lane.admission.room_requests(lane.in_flight_texts, lane.in_flight, self._own_requests.n_out)):
            batch = self._in_flight.take() if self._documents_wait else None
            if batch is None:
                self._starve()
                return
            if lane.admission.exceeds(lane.in_flight_texts, batch.n_texts):
                self._in_flight.retry_after(0.0, batch)  # larger than those before it
                break
            if not self._bisections.holds_back(batch):
                self._send(batch)
        lane.admission.used_up()

    def _starve(self) -> None:
        """There is room but no document: be woken by the next one, one client for each."""
        self._starving = True
        self._documents_wait = False
        fd = self._context.documents_ready.read_fd
        if not self._poller.watches(fd):
            self._poller.watch(fd, READ | EXCLUSIVE, self._on_document)

    def _send(self, batch: Batch) -> None:
        lane = self._lane
        assert lane.requester is not None
        self._starving = False
        self._in_flight.sent.add(batch)
        self._counters.requests += 1
        batch.sent_s = time.monotonic()
        batch.exchange = lane.requester.submit([batch.body()], batch.n_texts, timeout_s=lane.timeout_s, tag=batch)
        durable.point("client.sent")

    # -- in --------------------------------------------------------------------------------------------

    def _take_completions(self) -> None:
        requester = self._lane.requester
        if requester is not None and requester.http.finished:
            for completion in requester.completions():
                if type(completion.tag) is Batch:
                    self._take_batch(completion, completion.tag)
                else:
                    assert isinstance(completion.tag, SideRequest)
                    self._own_requests.take(completion, completion.tag)
        for batch, completion, server in self._peers.take(self._side_requests):
            self._take_hedge(completion, batch, server)
        self._token_counter.take(self._side_requests)

    def _take_batch(self, completion: Completion, batch: Batch) -> None:
        if batch not in self._in_flight.sent:
            completion.release()  # given back while this answer waited to be looked at
            return
        self._in_flight.sent.discard(batch)
        self._peers.forget(batch)
        if completion.failure is not None:
            self._policy.failed(batch, completion.failure)
        else:
            self._delivery.take(completion, batch)

    def _take_hedge(self, completion: Completion, batch: Batch, server: int) -> None:
        """Another server has answered a copy: when it is sound, our own server's work on it is cancelled."""
        reply = reply_of(completion, self._settings.dim)
        if batch not in self._in_flight.sent or not reply.sound:
            return
        assert self._lane.requester is not None and batch.exchange is not None
        self._lane.requester.cancel(batch.exchange)
        self._in_flight.sent.discard(batch)
        self._found(batch, self._lane.drifts, Finding(reply.matrix, {server}, complete=True))

    # -- side requests ---------------------------------------------------------------------------------

    def _found(self, batch: Batch, drifts: int, finding: Finding) -> None:
        """All that can be found out about a batch is known, and maybe that our server is at fault."""
        self._delivery.take_finding(batch, finding, drifts)
        if finding.sick is not None:
            self._server_is_sick(finding.sick)

    def _check_canary(self, server: int) -> None:
        """Ask another server for the canary before it gets a hedge."""
        check = check_canary(server, Arrangement.MIXED, self._bisection_context())
        self._side_requests.start(check, partial(self._peers.canary_answered, server), time.monotonic())

    def _canary_failed(self, server: int, failure: Failure) -> None:
        """A canary came back wrong, or not at all; in the second case our server's batches have the same trouble."""
        if server == self._lane.index:
            if failure.action is Action.SUSPECT_SERVER:
                self._server_is_sick(failure)
        elif failure.kind is FailureKind.DRIFTED:
            self._refuse_rows_of(server)

    def _proved(self, number: int, doubtful_rows: int) -> None:
        self._counters.doubtful_rows += doubtful_rows
        self._report()
        durable.point("client.before_proof")
        self._context.tell("proof", number=number)

    # -- out of service --------------------------------------------------------------------------------

    def _server_is_sick(self, failure: Failure) -> None:
        """A side request has shown that our server is at fault; overload is waited out, within bounds of its own."""
        if self._lane.breaker.is_ok and failure.action is not Action.BACK_OFF:
            self._counters.add_failure(self._lane.address.url, failure)
            self._trip(failure)

    def _trip(self, failure: Failure) -> None:
        """Take our server out: everything goes back into the ring for the others."""
        lane, in_flight = self._lane, self._in_flight
        lane.breaker.trip(failure.detail)
        if lane.requester is not None:
            lane.requester.abandon()
        for batch in in_flight.sent:
            self._peers.forget(batch)
        in_flight.give_back_all(died=failure.kind in (FailureKind.LOST, FailureKind.REFUSED))
        if failure.kind is FailureKind.DRIFTED:
            lane.drifted()
            self._delivery.take_back()
        else:
            self._own_requests.refuse()  # what they held is handed back before it is reported
        self._report()
        self._reports.server_out(failure.detail)
        if failure.kind is FailureKind.DRIFTED:
            self._refuse_rows_of(lane.index)  # before looks end with the requests, and a proof is given
            self._own_requests.refuse()

    def _refuse_rows_of(self, server: int) -> None:
        """A server's vectors are wrong: the rows of it that are open must not be committed."""
        rows = self._unproven.refuse(server)
        if rows:
            self._reports.drifted(server, rows)

    # -- the supervisor --------------------------------------------------------------------------------

    @property
    def _n_checking(self) -> int:
        """Side requests that nobody waits for."""
        return self._canary_schedule.n_out + self._peers.n_checking + self._proof.n_out

    def _finish_stopping(self, now_s: float, by_s: float) -> None:
        """After a stop command: done when nothing is in hand; what takes too long is given back."""
        self._in_flight.give_back_retries()
        asking = self._side_requests.n_open > self._n_checking
        if now_s >= by_s and self._lane.breaker.is_ok and (self._in_flight.sent or asking):
            self._trip(Failure(kind=FailureKind.TIMEOUT, detail="not finished in time after the stop command"))
            asking = self._side_requests.n_open > self._n_checking
        if not (self._in_flight.sent or self._delivery.parked or asking or self._stopped):
            self._stopped = True
            self._report()
            self._context.tell("stopped", rows=self._counters.rows, taken_rows=self._counters.taken_rows)

    def _report(self) -> None:
        is_idle = self._starving and self._side_requests.n_open <= self._n_checking
        self._reports.tell(starving=is_idle, stopped=self._stopped)
