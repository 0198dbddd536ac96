"""A fleet of modelled servers in virtual time: what a search does is a matter of arithmetic, not of this machine."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import orjson

from bench.standin import StandinConfig
from bench.standin.backends.capacity import max_input_tokens
from bench.standin.backends.gpu_model import GpuModel, Ticket
from bench.standin.backends.tokens import n_tokens
from bench.tuner.measure.load import Answer
from bench.tuner.texts.corpus import Corpus, Cycle, Order


@dataclass(frozen=True, slots=True)
class _Sent:
    point: int
    request: int
    n_texts: int
    tokens: int
    sent_s: float
    server: int


@dataclass(slots=True)
class ModelledLoad:
    """Fulfils `bench.tuner.measure.load.Load` with one `GpuModel` for each port of a configuration.

    `overhead_s` is what network and client add to a request, `noise` the relative scatter of it.
    """

    config: StandinConfig
    overhead_s: float = 0.001
    noise: float = 0.5
    seed: int = 1
    cpu_share: float = 0.05
    slowdown_per_s: float = 0.0  # drift: all servers get slower by this share every second
    texts_in_flight_max: int = 0
    _now_s: float = 0.0
    _models: list[GpuModel] = field(default_factory=list)
    _in_flight: list[int] = field(default_factory=list)
    _own: list[int] = field(default_factory=list)
    _leftover: int = 0
    _arrivals: list[tuple[float, int, list[int], _Sent]] = field(default_factory=list)
    _leaving: list[Answer] = field(default_factory=list)
    _cycle: Cycle | None = None
    _concurrency: int = 0
    _number: int = 0
    _next: int = 0

    def __post_init__(self) -> None:
        config = self.config
        self._rng = random.Random(self.seed)
        for position in range(len(config.ports)):
            self._models.append(
                GpuModel(
                    config.gpu,
                    max_batch_tokens=config.max_batch_tokens,
                    max_batch_requests=config.max_batch_requests,
                    speed=config.gpu_speed_of(position),
                    slow_factor=config.slow_factor,
                )
            )
        self._in_flight = [0] * len(self._models)
        self._own = [0] * len(self._models)
        self._limit = max_input_tokens(config)

    # dataclass slots leave no room for attributes made up later
    _rng: random.Random = field(default_factory=random.Random)
    _limit: int = 0

    @property
    def n_servers(self) -> int:
        return len(self._models)

    @property
    def leftover(self) -> int:
        return self._leftover

    def now_s(self) -> float:
        return self._now_s

    def cpu_s(self) -> float:
        return self.cpu_share * self._now_s

    def begin(self, cycle: Cycle, concurrency: int) -> int:
        self._number += 1
        self._cycle, self._concurrency = cycle, concurrency
        self._next = cycle.first_request(concurrency * self.n_servers)
        self._leftover += sum(self._own)
        self._own = [0] * len(self._models)
        return self._number

    def step(self, timeout_s: float) -> list[Answer]:
        until_s = self._now_s + timeout_s
        self._send()
        while True:
            event_s = min(
                [at for at in (model.next_event_s() for model in self._models) if at is not None]
                + [arrival[0] for arrival in self._arrivals[:1]]
                + [answer.finished_s for answer in self._leaving[:1]],
                default=until_s,
            )
            if event_s > until_s:
                self._now_s = until_s
                return []
            self._now_s = max(self._now_s, event_s)
            self._advance()
            if self._leaving and self._leaving[0].finished_s <= self._now_s:
                return self._deliver()

    def _advance(self) -> None:
        while self._arrivals and self._arrivals[0][0] <= self._now_s:
            at_s, server, counts, sent = self._arrivals.pop(0)
            self._models[server].submit(Ticket(sent, len(counts), at_s), counts)
        for model in self._models:
            model.slow_factor = self.config.slow_factor * (1 + self.slowdown_per_s * self._now_s)
            for ticket in model.advance(self._now_s):
                answered = ticket.owner
                assert isinstance(answered, _Sent)
                finished_s = ticket.done_s + self._overhead() / 2
                self._leaving.append(
                    Answer(
                        point=answered.point,
                        server=answered.server,
                        request=answered.request,
                        n_texts=answered.n_texts,
                        finished_s=finished_s,
                        latency_s=finished_s - answered.sent_s,
                        tokens=answered.tokens,
                        queue_s=ticket.queue_sum_s / ticket.n_inputs,
                        inference_s=ticket.inference_sum_s / ticket.n_inputs,
                        tokenization_s=ticket.tokenization_sum_s / ticket.n_inputs,
                        total_s=ticket.done_s - ticket.arrived_s,
                    )
                )
        self._leaving.sort(key=lambda answer: answer.finished_s)

    def _deliver(self) -> list[Answer]:
        due = [answer for answer in self._leaving if answer.finished_s <= self._now_s]
        self._leaving = self._leaving[len(due) :]
        for answer in due:
            self._in_flight[answer.server] -= answer.n_texts
            if answer.point == self._number:
                self._own[answer.server] -= 1
            else:
                self._leftover -= 1
        self._send()
        return due

    def _send(self) -> None:
        cycle = self._cycle
        assert cycle is not None
        room = self._concurrency * cycle.batch_size
        waiting = list(range(len(self._models)))
        while waiting:
            still = []
            for server in waiting:
                request = cycle.requests[self._next]
                busy = self._in_flight[server]
                if self._own[server] >= self._concurrency or (busy and busy + request.n_texts > room):
                    continue
                self._own[server] += 1
                self._in_flight[server] = busy + request.n_texts
                self.texts_in_flight_max = max(self.texts_in_flight_max, busy + request.n_texts)
                counts = self._counts(cycle, self._next)
                sent = _Sent(self._number, self._next, request.n_texts, sum(counts), self._now_s, server)
                self._arrivals.append((self._now_s + self._overhead() / 2, server, counts, sent))
                self._next = (self._next + 1) % len(cycle.requests)
                still.append(server)
            waiting = still
        self._arrivals.sort(key=lambda arrival: arrival[0])

    def _counts(self, cycle: Cycle, at: int) -> list[int]:
        return [min(n_tokens(text), self._limit) for text in orjson.loads(cycle.requests[at].body)]

    def _overhead(self) -> float:
        return self.overhead_s * (1 + self.noise * (2 * self._rng.random() - 1))


def truth(
    corpus: Corpus,
    config: StandinConfig,
    batch_size: int,
    concurrency: int,
    *,
    order: Order = Order.SORTED,
    n_cycles: int = 4,
    overhead_s: float = 0.0,
) -> tuple[float, float]:
    """Documents a second and 95th percentile of a long closed loop on the model, without noise."""
    cycle = corpus.cycle(batch_size, 2 * corpus.n_texts, order, random.Random(1))
    load = ModelledLoad(config, overhead_s=overhead_s, noise=0.0)
    load.begin(cycle, concurrency)
    done: list[Answer] = []
    warm = 4 * concurrency * load.n_servers
    wanted = n_cycles * len(cycle.requests)
    while len(done) < warm + wanted:
        done += load.step(1.0)
    kept = done[warm : warm + wanted]
    took_s = kept[-1].finished_s - done[warm - 1].finished_s
    latencies = np.array([answer.latency_s for answer in kept])
    return sum(answer.n_texts for answer in kept) / took_s, float(np.quantile(latencies, 0.95))
