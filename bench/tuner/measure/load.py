"""The load: a closed loop of requests on a whole fleet, a fixed number in flight at each server, as in `engine run`.

All servers pull from one cycle of requests, so a fast one takes more of them. One thread and one poller drive them all:
decoding included that costs some 6 us a document, so 100,000 documents/s. Vectors as JSON numbers cost 100 us; a run
reads them in a process for each server, here one answer in `FLOATS_DECODED_EVERY` is read. Whether the client was quick
enough is measured (`cpu_s`), not believed.

Going from one operating point to the next does not empty the servers: requests of the former point run out while those
of the next come in, never more texts at a time than the next point has.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from bench.tuner.texts.corpus import Cycle
from engine.errors import ConfigError, ServersUnavailable
from gpu_clients.errors import Action, Failure, FailureKind
from gpu_clients.http.address import Address
from gpu_clients.http.answers import BadAnswer
from gpu_clients.http.client import HttpClient
from gpu_clients.http.polling import Poller
from gpu_clients.servers.doctor import Fleet
from gpu_clients.servers.requester import Completion, Requester
from gpu_clients.servers.routes import choose_route
from gpu_clients.settings import ClientSettings
from gpu_clients.vectors.decode import AnswerForm

REQUEST_TIMEOUT_S = 120.0
FLOATS_DECODED_EVERY = 8
_DEADLINE_EVERY_S = 0.2
_PAUSE_S = 0.1
_MAX_FAILURES_IN_A_ROW = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """One request that came to an end.

    Attributes:
        point: Number of the operating point that it was sent for.
        server: Number of the server.
        request: Its place in the cycle.
        n_texts: Texts of it.
        finished_s: When it ended, on the load's clock.
        latency_s: From the first byte out to the last byte in.
        tokens: Tokens that the server counted, None when it does not say, or the answer was not read.
        queue_s, inference_s, tokenization_s: The server's account, means over the texts; 0 when it does not say.
        total_s: From the request's arrival at the server to its answer; 0 when it does not say.
        error: Class of the failure, None for vectors.
    """

    point: int
    server: int
    request: int
    n_texts: int
    finished_s: float
    latency_s: float
    tokens: int | None = None
    queue_s: float = 0.0
    inference_s: float = 0.0
    tokenization_s: float = 0.0
    total_s: float = 0.0
    error: str | None = None


class Load(Protocol):
    """What a measurement drives: real servers, or a model of them in its own time."""

    @property
    def n_servers(self) -> int:
        """Servers under load."""

    @property
    def leftover(self) -> int:
        """Requests of earlier points that are still in flight."""

    def now_s(self) -> float:
        """The load's clock."""

    def cpu_s(self) -> float:
        """CPU seconds that the client has used."""

    def begin(self, cycle: Cycle, concurrency: int) -> int:
        """Go on with another operating point; returns its number."""

    def step(self, timeout_s: float) -> list[Answer]:
        """Keep the loop going for at most `timeout_s`; returns what has ended."""


@dataclass(slots=True)
class _Lane:
    """One server under load: its requester, and what is in flight for the current point."""

    url: str
    requester: Requester
    own: int = 0  # requests of the current point in flight
    resume_s: float = 0.0
    failures_in_a_row: int = 0
    n_answers: int = 0


@dataclass(slots=True)
class _Sending:
    """The operating point that requests are sent for now."""

    cycle: Cycle
    concurrency: int
    number: int
    next_request: int


@dataclass(slots=True)
class FleetLoad:
    """The load on real servers; use it as a context manager."""

    fleet: Fleet
    settings: ClientSettings
    _poller: Poller = field(default_factory=Poller)
    _lanes: list[_Lane] = field(default_factory=list)
    _sending: _Sending | None = None
    _number: int = 0
    _deadlines_due_s: float = 0.0
    _scratch: np.ndarray = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))

    def __post_init__(self) -> None:
        for index, report in enumerate(self.fleet.servers):
            if report.facts is None:
                continue
            http = HttpClient(Address.parse(report.url), self._poller, self.settings.access(index))
            route = choose_route(report.facts, self.settings.options)
            requester = Requester(http, route, dim=self.fleet.dim, normalized=self.settings.normalize)
            self._lanes.append(_Lane(report.url, requester))

    def __enter__(self) -> FleetLoad:
        return self

    def __exit__(self, *_: object) -> None:
        for lane in self._lanes:
            lane.requester.abandon()
        self._poller.close()

    @property
    def n_servers(self) -> int:
        return len(self._lanes)

    @property
    def leftover(self) -> int:
        return sum(lane.requester.in_flight - lane.own for lane in self._lanes)

    def now_s(self) -> float:
        return time.monotonic()

    def cpu_s(self) -> float:
        return time.process_time()

    def begin(self, cycle: Cycle, concurrency: int) -> int:
        self._number += 1
        first = cycle.first_request(concurrency * self.n_servers)
        self._sending = _Sending(cycle, concurrency, self._number, first)
        for lane in self._lanes:
            lane.own = 0
        if len(self._scratch) < cycle.batch_size:
            self._scratch = np.empty((cycle.batch_size, self.fleet.dim), dtype=np.float32)
        return self._number

    def step(self, timeout_s: float) -> list[Answer]:
        """Keep the loop going.

        Raises:
            ServersUnavailable: a server stopped answering; a point of the rest would say nothing about the fleet.
            ConfigError: a server wants another key, or something else answers.
        """
        self._send_what_fits()
        self._poller.run(timeout_s)
        now_s = time.monotonic()
        if now_s >= self._deadlines_due_s:
            self._deadlines_due_s = now_s + _DEADLINE_EVERY_S
            for lane in self._lanes:
                lane.requester.http.check_deadlines()
        answers = []
        for number, lane in enumerate(self._lanes):
            for completion in lane.requester.completions():
                answers.append(self._answer(number, lane, completion))
        if answers:
            self._send_what_fits()
        return answers

    def _send_what_fits(self) -> None:
        """One request for each server in turn, so that all of them get like shares of every length."""
        sending = self._sending
        assert sending is not None, "begin() comes first"
        now_s = time.monotonic()
        room_texts = sending.concurrency * sending.cycle.batch_size
        waiting = [lane for lane in self._lanes if now_s >= lane.resume_s]
        while waiting:
            still = []
            for lane in waiting:
                request = sending.cycle.requests[sending.next_request]
                in_flight = lane.requester.in_flight_texts
                if lane.own >= sending.concurrency or (in_flight and in_flight + request.n_texts > room_texts):
                    continue
                lane.requester.submit(
                    [request.body],
                    request.n_texts,
                    timeout_s=REQUEST_TIMEOUT_S,
                    tag=(sending.number, sending.next_request, time.monotonic()),
                )
                lane.own += 1
                sending.next_request = (sending.next_request + 1) % len(sending.cycle.requests)
                still.append(lane)
            waiting = still

    def _answer(self, number: int, lane: _Lane, completion: Completion) -> Answer:
        assert self._sending is not None
        assert isinstance(completion.tag, tuple)
        point, request, sent_s = completion.tag
        lane.own -= point == self._sending.number
        failure = completion.failure
        times = completion.times()
        tokens = times.tokens
        if failure is None:
            every = 1 if lane.requester.route.form is AnswerForm.BASE64 else FLOATS_DECODED_EVERY
            if lane.n_answers % every == 0:
                failure = self._decode(completion)
                tokens = completion.tokens if tokens is None else tokens
            lane.n_answers += 1
        completion.release()
        self._take_note(lane, failure)
        return Answer(
            point=point,
            server=number,
            request=request,
            n_texts=completion.n_texts,
            finished_s=sent_s + completion.latency_s,
            latency_s=completion.latency_s,
            tokens=tokens,
            queue_s=_uncut(times.queue_s),
            inference_s=_uncut(times.inference_s),
            tokenization_s=_uncut(times.tokenization_s),
            total_s=_uncut(times.total_s),
            error=failure.kind.value if failure else None,
        )

    def _decode(self, completion: Completion) -> Failure | None:
        """Read the vectors, as a run does: that is part of what the client costs."""
        if completion.n_texts > len(self._scratch):
            self._scratch = np.empty((completion.n_texts, self.fleet.dim), dtype=np.float32)
        try:
            unsound = completion.decode_into(self._scratch[: completion.n_texts])
        except BadAnswer as error:
            return Failure(kind=error.kind, detail=str(error))
        if unsound:
            return Failure(kind=FailureKind.UNSOUND, detail=f"{len(unsound)} vectors are not sound")
        return None

    def _take_note(self, lane: _Lane, failure: Failure | None) -> None:
        if failure is None:
            lane.failures_in_a_row = 0
            return
        lane.resume_s = time.monotonic() + _PAUSE_S
        if failure.action is Action.SUSPECT_SERVER:
            raise ConfigError(f"{lane.url} cannot be used any more: {failure.detail}")
        if failure.action is Action.RETRY:
            lane.failures_in_a_row += 1
            if lane.failures_in_a_row >= _MAX_FAILURES_IN_A_ROW:
                raise ServersUnavailable(
                    f"{lane.url} stopped answering while it was measured ({failure.detail}); what the others can do "
                    "says nothing about the fleet: start it again, or leave it out of --tei-urls"
                )


def _uncut(seconds: float) -> float:
    """What a header of whole milliseconds, cut off, stands for on average."""
    return seconds + 0.0005 if seconds else 0.0
