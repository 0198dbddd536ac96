"""The window finds the knee of a modelled server, keeps a target, and gives way to overload."""

from __future__ import annotations

import dataclasses
import heapq
import random
from typing import Any

import pytest

from engine.errors import ProtocolError
from gpu_clients.batches.admission import MOVES, QUICK_S, Admission, AdmissionState, GpuBatch
from gpu_clients.servers.requester import ServerTimes


@dataclasses.dataclass
class Server:
    """A server whose GPU batches hold `gpu_texts` texts and take `overhead_s` + texts / `texts_per_s`.

    An answer takes `away_s` to the client, and the next request back to the server.
    """

    gpu_texts: int
    texts_per_s: float
    overhead_s: float = 0.002
    accounts: bool = True
    away_s: float = 0.0


def drive(
    admission: Admission, server: Server, monkeypatch: pytest.MonkeyPatch, *, batch: int = 32, seconds: float = 60.0
) -> tuple[float, list[float]]:
    """Run a closed loop in virtual time; texts per second and latencies of the second half."""
    clock = [0.0]
    monkeypatch.setattr(admission, "_clock", lambda: clock[0])
    rng = random.Random(7)
    fifo: list[tuple[float, int]] = []  # (arrived, request) a text
    left: dict[int, int] = {}
    sent: dict[int, tuple[float, int]] = {}  # when, and the texts in flight then
    waited: dict[int, float] = {}
    in_flight = served = number = 0
    latencies: list[float] = []
    gpu_free_s = 0.0
    ends: list[tuple[float, float, float, list[int]]] = []  # end, start, took, requests of the texts
    home: list[float] = []  # when the answers on their way have come, and the next requests too
    while clock[0] < seconds:
        while home and home[0] <= clock[0]:
            heapq.heappop(home)
            in_flight -= batch
        while admission.admits(in_flight, batch):
            number += 1
            in_flight += batch
            sent[number], left[number], waited[number] = (clock[0], in_flight), batch, 0.0
            fifo += [(clock[0], number)] * batch
        # one batch runs, one is cut ahead
        while fifo and len(ends) < 2:
            cut, fifo = fifo[: server.gpu_texts], fifo[server.gpu_texts :]
            took_s = server.overhead_s + len(cut) / server.texts_per_s * rng.uniform(0.95, 1.05)
            start_s = max(gpu_free_s, clock[0])
            gpu_free_s = start_s + took_s
            for arrived_s, request in cut:
                waited[request] += (start_s - arrived_s) / batch
            heapq.heappush(ends, (gpu_free_s, start_s, took_s, [request for _, request in cut]))
        if home and (not ends or home[0] < ends[0][0]):
            clock[0] = home[0]
            continue
        end_s, _, took_s, requests = heapq.heappop(ends)
        clock[0] = end_s
        for request in requests:
            left[request] -= 1
            if not left[request]:
                heapq.heappush(home, clock[0] + server.away_s)
                sent_s, beside = sent.pop(request)
                latency_s = clock[0] - sent_s
                times = ServerTimes(waited.pop(request), took_s, 0.0, 30 * batch) if server.accounts else _SILENT
                admission.answered(batch, latency_s, times, clock[0], beside)
                if clock[0] > seconds / 2:
                    served += batch
                    latencies.append(latency_s)
    return served / (seconds / 2), latencies


_SILENT = ServerTimes(0.0, 0.0, 0.0, None)


def adaptive(
    permits: int | None = 4096,
    target_p95_s: float | None = None,
    batch: int = 32,
    gpu_batch: GpuBatch | None = None,
) -> Admission:
    """A window that adapts."""
    return Admission(
        batch_texts=batch,
        permits=permits,
        concurrency=None,
        max_concurrency=256,
        target_p95_s=target_p95_s,
        gpu_batch=gpu_batch,
    )


def capacity(server: Server) -> float:
    """Texts per second with full GPU batches."""
    return server.gpu_texts / (server.overhead_s + server.gpu_texts / server.texts_per_s)


SERVERS = [
    Server(gpu_texts=400, texts_per_s=2000),
    Server(gpu_texts=64, texts_per_s=2000),
    Server(gpu_texts=64, texts_per_s=20_000, overhead_s=0.01),
    Server(gpu_texts=8, texts_per_s=100),
    Server(gpu_texts=150, texts_per_s=3000, overhead_s=0.05),
]


@pytest.mark.parametrize("server", SERVERS)
def test_the_window_reaches_the_capacity_and_keeps_few_gpu_batches_waiting(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    admission = adaptive()

    rate, _ = drive(admission, server, monkeypatch)

    assert rate >= 0.97 * capacity(server)
    assert admission.window_texts <= max(5.5 * server.gpu_texts, 3 * 32, 1.3 * QUICK_S * capacity(server))


@pytest.mark.seconds
@pytest.mark.parametrize("by_tokens", [True, False])
@pytest.mark.parametrize("server", SERVERS)
def test_a_known_gpu_batch_is_held_three_times(
    server: Server, by_tokens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = GpuBatch(30 * server.gpu_texts, None) if by_tokens else GpuBatch(1 << 20, server.gpu_texts)
    admission = adaptive(gpu_batch=known)

    rate, _ = drive(admission, server, monkeypatch)

    assert rate >= 0.97 * capacity(server)
    assert admission.window_texts == pytest.approx(max(64, 3 * server.gpu_texts, QUICK_S * capacity(server)), rel=0.25)


@pytest.mark.seconds
@pytest.mark.parametrize("says_so", [True, False])
@pytest.mark.parametrize("gpu_texts", [4, 8, 16, 500])
@pytest.mark.parametrize(("texts_per_s", "away_s"), [(20.0, 0.004), (2_000.0, 0.004), (20_000.0, 0.001)])
def test_adapting_brings_as_much_as_the_best_fixed_number_of_requests(
    gpu_texts: int, texts_per_s: float, away_s: float, says_so: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a request is several GPU batches: one request alone leaves the GPU idle while its answer travels."""
    server = Server(gpu_texts, texts_per_s, overhead_s=0.0005, away_s=away_s)
    seconds = 1_600 * 32 / texts_per_s

    def rate_with(concurrency: int | None, gpu_batch: GpuBatch | None = None) -> float:
        admission = Admission(
            batch_texts=32,
            permits=4096,
            concurrency=concurrency,
            max_concurrency=64,
            target_p95_s=None,
            gpu_batch=gpu_batch,
        )
        return drive(admission, server, monkeypatch, seconds=seconds)[0]

    best = max(rate_with(concurrency) for concurrency in (2, 16, 48))
    limit = gpu_texts if gpu_texts < 500 else None
    adapted = rate_with(None, GpuBatch(30 * 500, limit) if says_so else None)

    # a few large GPU batches that end within the time by chance bring no more than the server can
    assert adapted >= 0.99 * min(best, capacity(server))


@pytest.mark.parametrize(("texts_per_s", "requests"), [(100.0, 2), (1_000.0, 3), (2_000.0, 4)])
def test_the_window_of_a_cpu_server_stands_still(
    texts_per_s: float, requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request is eight of its GPU batches: of two requests eleven wait on average, as many as were sent."""
    admission = adaptive(gpu_batch=GpuBatch(16_384, 4))
    server = Server(4, texts_per_s, away_s=0.002)
    drive(admission, server, monkeypatch, seconds=3_000 / texts_per_s + 5.0)
    windows = set()
    answered = admission.answered

    def note(*facts: Any) -> None:
        answered(*facts)
        windows.add(admission.window_requests)

    monkeypatch.setattr(admission, "answered", note)
    drive(admission, server, monkeypatch, seconds=12_000 / texts_per_s)

    assert windows == {requests}


def test_requests_of_few_long_texts_are_taken_as_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(gpu_texts=8, texts_per_s=100)
    admission = adaptive(batch=32, gpu_batch=GpuBatch(30 * 8, None))

    rate, _ = drive(admission, server, monkeypatch, batch=8)

    assert rate >= 0.97 * capacity(server)
    assert admission.window_texts == pytest.approx(24, rel=0.25), "three GPU batches, not two requests of 32 texts"
    assert admission.window_requests == pytest.approx(3, abs=1)
    assert admission.room_requests(0, 0) >= 2
    assert admission.exceeds(8, 1 << 20) and not admission.exceeds(0, 1 << 20)


def test_the_number_of_requests_is_kept_to_however_small_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = Admission(batch_texts=32, permits=4096, concurrency=4, max_concurrency=64, target_p95_s=None)
    drive(fixed, SERVERS[0], monkeypatch, batch=2, seconds=5.0)

    assert fixed.window_requests == 4
    assert fixed.room_requests(2, 1) == 3
    assert fixed.room_requests(8, 4) == 0


def test_a_gpu_batch_that_is_smaller_than_the_server_says_does_not_fill_its_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server(gpu_texts=8, texts_per_s=100)
    admission = adaptive(gpu_batch=GpuBatch(16_384, None))

    rate, _ = drive(admission, server, monkeypatch, seconds=200.0)

    assert rate >= 0.97 * capacity(server)
    assert admission.window_texts <= 3 * 32


@pytest.mark.parametrize("server", [dataclasses.replace(server, accounts=False) for server in SERVERS[:3]])
def test_without_the_servers_account_throughput_alone_finds_the_knee(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    admission = adaptive()

    rate, _ = drive(admission, server, monkeypatch)

    assert rate >= 0.90 * capacity(server)


@pytest.mark.parametrize("target_s", [0.15, 0.3, 1.0])
def test_a_latency_target_that_can_be_met_is_kept(target_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(gpu_texts=400, texts_per_s=2000)
    admission = adaptive(target_p95_s=target_s)

    rate, latencies = drive(admission, server, monkeypatch, seconds=120.0)

    assert sorted(latencies)[int(0.95 * len(latencies))] <= target_s
    assert rate >= 0.9 * capacity(server)


@pytest.mark.parametrize("permits", [1, 16, 32, 64, 100, 512])
def test_the_window_never_exceeds_the_permits(permits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    admission = adaptive(permits=permits)

    drive(admission, SERVERS[0], monkeypatch, batch=min(32, permits), seconds=10.0)

    assert admission.window_texts <= permits
    assert permits < 64 or admission.window_texts >= 64, "two requests at least, so that the GPU need not wait"


def test_a_canary_takes_the_place_of_a_batch_however_few_its_texts() -> None:
    fixed = Admission(batch_texts=32, permits=4096, concurrency=4, max_concurrency=64, target_p95_s=None)
    adapting = adaptive()

    assert (fixed.room_requests(33, 2), fixed.room_requests(33, 2, beside=1)) == (2, 1)
    assert (adapting.room_requests(8, 1), adapting.room_requests(8, 1, beside=1)) == (1, 0)
    assert adapting.room_requests(0, 0) == 2


def test_a_margin_of_the_permits_is_left_to_others() -> None:
    assert adaptive(permits=512).window_texts <= 512
    fixed = Admission(batch_texts=32, permits=512, concurrency=16, max_concurrency=64, target_p95_s=None)
    assert fixed.window_requests == 15


@pytest.mark.seconds
def test_overload_halves_the_window_once_a_round_and_it_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    admission = adaptive(permits=512)
    drive(admission, SERVERS[0], monkeypatch, seconds=10.0)
    before = admission.window_texts
    for _ in range(5):
        admission.overloaded()
    assert admission.window_texts == before // 2
    assert admission.overloaded_in_a_row == 5

    drive(admission, SERVERS[0], monkeypatch, seconds=600.0)

    assert admission.window_texts >= 0.8 * before


def test_a_fixed_concurrency_stays_and_only_overload_lowers_it_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    admission = Admission(batch_texts=32, permits=4096, concurrency=4, max_concurrency=64, target_p95_s=None)
    drive(admission, SERVERS[0], monkeypatch, seconds=5.0)
    assert (admission.state, admission.window_requests) == (AdmissionState.FIXED, 4)

    admission.overloaded()
    assert admission.window_requests == 2
    drive(admission, SERVERS[0], monkeypatch, seconds=120.0)
    assert admission.window_requests == 4


@pytest.mark.parametrize(("start", "ceiling", "window"), [(None, 64, 2), (6, 64, 6), (6, 4, 4)])
def test_adapting_begins_where_it_is_told_to_and_never_above_its_ceiling(
    start: int | None, ceiling: int, window: int
) -> None:
    admission = Admission(
        batch_texts=32,
        permits=4096,
        concurrency=None,
        start_concurrency=start,
        max_concurrency=ceiling,
        target_p95_s=None,
    )

    assert (admission.window_requests, admission.state) == (window, AdmissionState.STARTING)


def test_an_idle_server_always_gets_one_request() -> None:
    admission = Admission(batch_texts=32, permits=8, concurrency=1, max_concurrency=1, target_p95_s=None)
    assert admission.admits(0, 4096)
    assert not admission.admits(32, 32)


def test_admission_moves_only_as_its_table_says() -> None:
    for state, allowed in MOVES.items():
        for wanted in AdmissionState:
            admission = adaptive()
            admission.state = state
            if wanted in allowed:
                admission._move(wanted)
                assert admission.state is wanted
            else:
                with pytest.raises(ProtocolError):
                    admission._move(wanted)
