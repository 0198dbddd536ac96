"""Clients and their windows against modelled servers in virtual time: no socket, no process, no noise of this machine.

The window is the one of a run (`gpu_clients.batches.admission`), the servers are the stand-in's GPU; between them stand
the rules by which a client sends, and the canaries that it asks for. What a window brings is a matter of arithmetic
then, and so is what any fixed number of requests would have brought.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.measure.load.virtual_time import Clock
from bench.standin import StandinConfig
from bench.standin.backends.capacity import max_input_tokens
from bench.standin.backends.gpu_model import GpuModel, Ticket
from bench.standin.backends.tokens import n_tokens
from gpu_clients.batches.admission import Admission, GpuBatch
from gpu_clients.diagnosis.canary_schedule import FIRST_S, LOOKS
from gpu_clients.servers.canary import canary_texts
from gpu_clients.servers.requester import ServerTimes
from gpu_clients.settings import DEFAULT_MAX_CONCURRENCY

FIRST_CHECKS = 3
"""Canaries that are asked for one after the other at the start."""
_SILENT = ServerTimes(0.0, 0.0, 0.0, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What is between the clients and their servers.

    Attributes:
        away_s: What an answer's way to the client and the next request's way back take together, about.
        canary_every_s: Seconds between two canaries, None for none at all.
        accounts: Whether servers say where a request's time went, and what their GPU batches hold.
        slower_from_s, slower: From then on every server takes so many times as long.
    """

    away_s: float = 0.003
    canary_every_s: float | None = 20.0
    accounts: bool = True
    slower_from_s: float | None = None
    slower: float = 1.0


@dataclass(frozen=True, slots=True)
class Used:
    """What a stretch of virtual time has brought.

    Attributes:
        tokens_per_s: What all servers embedded together, canaries left out.
        p95_s: 95th percentile of the latency of all requests.
        refused: Requests beyond the permits of a server.
        windows: Mean window of each server, in requests.
    """

    tokens_per_s: float
    p95_s: float
    refused: int
    windows: list[float]


@dataclass(slots=True)
class _Request:
    tokens: Sequence[int]
    is_canary: bool = False
    is_look: bool = False
    sent_s: float = 0.0
    in_flight_texts: int = 0


@dataclass(slots=True)
class _Ring:
    """Batches that never run out; after the last one the first comes again."""

    requests: Sequence[Sequence[int]]
    taken: int = 0

    def take(self) -> Sequence[int]:
        request = self.requests[self.taken % len(self.requests)]
        self.taken += 1
        return request


@dataclass(slots=True)
class _Counts:
    tokens: int = 0
    refused: int = 0
    latencies: list[float] = field(default_factory=list)
    windows: list[int] = field(default_factory=list)


class _Client:
    """One client, its server, and what is on its way between them."""

    def __init__(
        self, config: StandinConfig, index: int, admission: Admission, clock: Clock, ring: _Ring, way: Way
    ) -> None:
        self.counts = _Counts()
        self._admission = admission
        self._clock = clock
        self._ring = ring
        self._way = way
        self._gpu = GpuModel(
            config.gpu,
            max_batch_tokens=config.max_batch_tokens,
            max_batch_requests=config.max_batch_requests,
            speed=config.gpu_speed_of(index),
        )
        self._permits = config.max_concurrent_requests
        self._canary = [n_tokens(text) for text in canary_texts(max_input_tokens(config))]
        self._rng = random.Random(index)
        self._alarm_s: float | None = None
        self._in_flight = self._in_flight_texts = self._beside = self._n_checks = 0
        self._canaries: deque[_Request] = deque()
        if way.canary_every_s is not None:
            clock.at(FIRST_S, self._check)

    def send(self) -> None:
        """As `gpu_clients.stage` does it: canaries first, then as many batches as there is room for."""
        admission = self._admission
        while self._canaries:
            if not admission.admits(self._in_flight_texts, len(self._canaries[0].tokens)):
                return
            self._beside += 1
            self._post(self._canaries.popleft())
        for _ in range(admission.room_requests(self._in_flight_texts, self._in_flight, self._beside)):
            self._post(_Request(self._ring.take()))
        admission.used_up()

    def slow_down(self) -> None:
        self._gpu.slow_factor = self._way.slower

    def _check(self) -> None:
        """Ask for the canary, and for its short text a few times beside it."""
        short, _, long = self._canary
        texts = ([long], [long, long], self._canary)[self._n_checks % 3]
        self._n_checks += 1
        self._canaries.append(_Request(texts, is_canary=True))
        self._canaries += [_Request([short], is_look=True) for _ in range(LOOKS)]
        self.send()

    def _post(self, request: _Request) -> None:
        self._in_flight += 1
        self._in_flight_texts += len(request.tokens)
        self.counts.refused += self._in_flight_texts > self._permits
        request.sent_s, request.in_flight_texts = self._clock.now, self._in_flight_texts
        self._clock.at(self._half_way_s(), self._arrive, request)

    def _half_way_s(self) -> float:
        return self._way.away_s / 2 * self._rng.uniform(0.5, 1.5)

    def _arrive(self, request: _Request) -> None:
        self._gpu.submit(Ticket(request, len(request.tokens), self._clock.now), list(request.tokens))
        self._advance()

    def _advance(self) -> None:
        for ticket in self._gpu.advance(self._clock.now):
            self._clock.at(ticket.done_s - self._clock.now + self._half_way_s(), self._come, ticket)
        due_s = self._gpu.next_event_s()
        if due_s is not None and due_s != self._alarm_s:
            self._alarm_s = due_s
            self._clock.at(due_s - self._clock.now, self._ring_alarm, due_s)

    def _ring_alarm(self, due_s: float) -> None:
        if due_s == self._alarm_s:
            self._alarm_s = None
            self._clock.now = max(self._clock.now, due_s)  # a difference and a sum may fall short of it
            self._advance()

    def _come(self, ticket: Ticket) -> None:
        request = ticket.owner
        assert isinstance(request, _Request)
        self._in_flight -= 1
        self._in_flight_texts -= len(request.tokens)
        if request.is_canary:
            assert self._way.canary_every_s is not None
            self._clock.at(self._way.canary_every_s if self._n_checks >= FIRST_CHECKS else 0.0, self._check)
        if request.is_canary or request.is_look:
            self._beside -= 1
            self._admission.passed()
        else:
            self._answered(request, ticket)
        self.send()

    def _answered(self, request: _Request, ticket: Ticket) -> None:
        counts, n_texts, now_s = self.counts, len(request.tokens), self._clock.now
        tokens = sum(request.tokens)
        counts.tokens += tokens
        counts.latencies.append(now_s - request.sent_s)
        times = _SILENT
        if self._way.accounts:  # whole milliseconds, cut off
            queue_s, inference_s = (
                int(1000 * s / n_texts) / 1000 for s in (ticket.queue_sum_s, ticket.inference_sum_s)
            )
            times = ServerTimes(queue_s, inference_s, 0.0, tokens)
        self._admission.answered(n_texts, now_s - request.sent_s, times, now_s, request.in_flight_texts)
        counts.windows.append(self._admission.window_requests)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelledClients:
    """One client for each port of a configuration; all take from one ring that is never empty.

    Attributes:
        config: The servers.
        requests: Tokens of every text of every batch.
        batch_texts: Texts of a usual one.
        concurrency: A fixed number of requests in flight, or None to adapt.
        target_p95_s: Bound on the 95th percentile of latency when adapting, or None.
        way: What is between the clients and their servers.
    """

    config: StandinConfig
    requests: Sequence[Sequence[int]]
    batch_texts: int = 32
    concurrency: int | None = None
    target_p95_s: float | None = None
    way: Way = field(default_factory=Way)

    def run(self, *, warm_up_s: float, seconds: float, requests: int = 0) -> Used:
        """Let them work, and tell what came after the warm-up.

        Args:
            warm_up_s: So long nothing counts.
            seconds: So long they are looked at, at least; and on until all batches have been sent equally often, as
                there is more in some than in others.
            requests: So many they send meanwhile, at least.
        """
        clock, ring = Clock(), _Ring(self.requests)
        clients = [self._client(index, clock, ring) for index in range(len(self.config.ports))]
        for client in clients:
            client.send()
            if self.way.slower_from_s is not None:
                clock.at(self.way.slower_from_s, client.slow_down)
        while clock.now < warm_up_s:
            clock.step()
        for client in clients:
            client.counts = _Counts()
        began_s, before = clock.now, ring.taken
        while (
            clock.now < began_s + seconds
            or ring.taken < before + requests
            or (ring.taken - before) % len(self.requests)
        ):
            clock.step()
        counts = [client.counts for client in clients]
        latencies = sorted(latency for count in counts for latency in count.latencies)
        return Used(
            tokens_per_s=sum(count.tokens for count in counts) / (clock.now - began_s),
            p95_s=latencies[int(0.95 * len(latencies))],
            refused=sum(count.refused for count in counts),
            windows=[sum(count.windows) / max(1, len(count.windows)) for count in counts],
        )

    def _client(self, index: int, clock: Clock, ring: _Ring) -> _Client:
        config = self.config
        admission = Admission(
            batch_texts=self.batch_texts,
            permits=config.max_concurrent_requests,
            concurrency=self.concurrency,
            max_concurrency=DEFAULT_MAX_CONCURRENCY,
            target_p95_s=self.target_p95_s,
            gpu_batch=GpuBatch(config.max_batch_tokens, config.max_batch_requests) if self.way.accounts else None,
            clock=lambda: clock.now,
        )
        return _Client(config, index, admission, clock, ring, self.way)


def best_fixed(
    clients: ModelledClients, numbers: Sequence[int], *, warm_up_s: float, seconds: float, requests: int = 0
) -> tuple[int, Used] | None:
    """The fixed number of requests that brings most within the clients' target, and what; None when none holds it."""
    batch, permits = clients.batch_texts, clients.config.max_concurrent_requests
    target_s = math.inf if clients.target_p95_s is None else clients.target_p95_s
    found: tuple[int, Used] | None = None
    for number in numbers:
        if number > 1 and number * batch > permits:
            continue
        used = dataclasses.replace(clients, concurrency=number).run(
            warm_up_s=warm_up_s, seconds=seconds, requests=requests
        )
        if used.p95_s <= target_s and (found is None or used.tokens_per_s > found[1].tokens_per_s):
            found = number, used
    return found
