"""Texts that fail whatever they are sent with, and a GPU that fails everything."""

from __future__ import annotations

import threading
import time

import pytest

from bench.standin import GpuConfig, StandinConfig, StandinFleet
from tests.bench.standin.client import embed, embed64, get
from tests.bench.standin.target import Target


@pytest.mark.parametrize("code", [422, 424, 500])
def test_poison_fails_every_request_that_holds_the_text_and_no_other(target: Target, code: int) -> None:
    target.fault(f"poison:contains=BAD,code={code}")
    assert embed64(target.url, ["fine", "so BAD"]).status_code == code
    assert embed64(target.url, ["so BAD"]).status_code == code
    assert target.ask().status_code == 200
    assert get(target.url, "/health").status_code == 200


def test_poison_of_the_batch_fails_other_requests_in_the_same_gpu_batch() -> None:
    gpu = GpuConfig(tokens_per_s=1e6, fixed_overhead_s=0.15, tokenizer_tokens_per_s=0)
    with StandinFleet(StandinConfig(backend="sim", gpu=gpu, faults=("poison:contains=BAD,scope=batch",))) as fleet:
        url, port = fleet.urls[0], fleet.ports[0]
        statuses: dict[str, int] = {}

        def ask(name: str, text: str) -> None:
            statuses[name] = embed(url, [text]).status_code

        # the first runs alone, the second is prefetched alone, the others wait and share a batch
        threads = []
        for name, text in (("runs", "a"), ("next", "b"), ("bad", "BAD"), ("neighbour", "c")):
            threads.append(threading.Thread(target=ask, args=(name, text)))
            n_before = fleet.control(port)["embed_requests"]
            threads[-1].start()
            while fleet.control(port)["embed_requests"] == n_before:
                time.sleep(0.001)
        for thread in threads:
            thread.join()
        n_batches = fleet.control(port)["backend"]["standin_batches_total"]
    assert (statuses["runs"], statuses["bad"]) == (200, 424)
    # on a very slow machine the neighbour misses the shared batch
    assert statuses["neighbour"] == 424 or n_batches > 3


def test_a_dead_gpu_fails_fast_and_health_tells_the_truth_only_after_the_first_failure(
    target: Target,
) -> None:
    target.fault("dead_gpu")
    assert get(target.url, "/health").status_code == 200
    answer = target.ask()
    assert (answer.status_code, answer.json()["type"]) == (424, "Backend")
    sick = get(target.url, "/health")
    assert (sick.status_code, sick.json()) == (503, {"error": "unhealthy", "error_type": "Unhealthy"})
    target.fleet.control(target.port, clear_faults=True)
    assert get(target.url, "/health").status_code == 200


def test_a_dead_gpu_can_stay_green(target: Target) -> None:
    target.fault("dead_gpu:health=green")
    assert target.ask().status_code == 424
    assert get(target.url, "/health").status_code == 200
