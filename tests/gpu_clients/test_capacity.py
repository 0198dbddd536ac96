"""How much of a fleet's modelled power a client uses. Shares and counts of the servers, never wall-clock times:
`busy` is the share of the time in which a modelled GPU had work, as the server itself counts it."""

from __future__ import annotations

import dataclasses
import operator
import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from bench.measure.load.client_driver import ClientDriver
from bench.parts import tweets
from bench.standin import GpuConfig, StandinConfig, StandinFleet
from bench.standin.backends.capacity import capacity
from gpu_clients.settings import ClientSettings

BATCH = 32
MOST_LOAD = 8
"""Processes that want to work, for each core, above which a try that does not hold says nothing."""


def batches(n: int = 131) -> list[list[str]]:
    """Real tweets of a window, sorted by length, up and down."""
    ordered = sorted(tweets.texts()[: n * BATCH], key=len)
    up = [ordered[at : at + BATCH] for at in range(0, len(ordered), BATCH)]
    return up + up[::-1]  # no jump from the longest to the shortest


def fleet_config(*speeds: float, padded: bool = True) -> StandinConfig:
    """Servers slow enough for a busy test machine, with GPU batches short enough to be counted in a few seconds."""
    gpu = GpuConfig(tokens_per_s=12_000.0, padded=padded)
    return StandinConfig(
        backend="sim", ports=(0,) * len(speeds), speeds=speeds, gpu=gpu, max_batch_tokens=2048, max_input_length=512
    )


@dataclass
class Measured:
    """A stretch of steady state.

    Attributes:
        busy: Share of the time each GPU was busy.
        work_per_busy_s: Tokens, padding included, for each second that a GPU needs for them: what full batches bring.
        padding: Padded tokens for each real one.
        requests, overloaded: Embedding requests, and those answered 429.
    """

    busy: list[float]
    work_per_busy_s: list[float]
    padding: float
    requests: int
    overloaded: int


def measure(config: StandinConfig, holds: Callable[[Measured], bool], slow: float | None = None) -> Measured:
    """The first try that holds, or the last of many: other work on the test machine takes time from the clients, and
    never adds any. A machine that has a multiple of its cores' work to do by then cannot tell."""
    for _ in range(20):
        found = _measure(config, slow)
        if holds(found):
            return found
        if (waiting := os.getloadavg()[0]) > MOST_LOAD * (os.cpu_count() or 1):
            pytest.skip(f"{waiting:.0f} processes want to work on {os.cpu_count()} cores: clients are not to blame")
    return found


def _measure(config: StandinConfig, slow: float | None) -> Measured:
    """Let clients work against `config`, and look at the servers' counters after a warm-up."""
    work = batches()
    with StandinFleet(config) as fleet:
        settings = ClientSettings(urls=fleet.urls, batch_size=BATCH, canary_every_s=600.0)
        with ClientDriver(settings, work, n_slots=24 * len(fleet.urls)) as driver:
            if slow is not None:
                fleet.control(fleet.ports[0], slow_factor=slow)
            driver.run(seconds=3.0)
            before = fleet.reports()
            interval = driver.run(seconds=2.5)
            after = fleet.reports()
    deltas = [
        {name: late["backend"][name] - early["backend"][name] for name in late["backend"]}
        for early, late in zip(before, after, strict=True)
    ]
    real = [delta["standin_real_tokens_total"] for delta in deltas]
    return Measured(
        busy=[delta["standin_busy_seconds_total"] / interval.seconds for delta in deltas],
        work_per_busy_s=[
            _work_per_gpu_second(delta, config, speed) for delta, speed in zip(deltas, config.speeds, strict=True)
        ],
        padding=sum(delta["standin_padded_tokens_total"] for delta in deltas) / max(1, sum(real)),
        requests=sum(report["embed_requests"] for report in after) - sum(report["embed_requests"] for report in before),
        overloaded=sum(report["answered_429"] for report in after) - sum(report["answered_429"] for report in before),
    )


def _work_per_gpu_second(delta: dict[str, float], config: StandinConfig, speed: float) -> float:
    """By the model's own formula: the counters of a few seconds begin and end in the middle of a GPU batch."""
    tokens = delta["standin_padded_tokens_total"]
    gpu = config.gpu
    return tokens * speed / max(1e-9, delta["standin_batches_total"] * gpu.fixed_overhead_s + tokens / gpu.tokens_per_s)


@pytest.mark.slow
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("speeds", [(1.0, 1.0), (1.0, 1.0, 2.0, 4.0)])
def test_every_gpu_is_kept_busy_with_full_batches(padded: bool, speeds: tuple[float, ...]) -> None:
    config = fleet_config(*speeds, padded=padded)
    texts = [text for batch in batches() for text in batch]

    oracle = capacity(texts, config, order="sorted")
    full = [capacity(texts, config, speed=speed) for speed in speeds]
    wanted = [0.97 * best.tokens_per_s * best.padding_ratio for best in full]

    most_padding = 1.1 * max(oracle.padding_ratio, 1.05)

    def holds(found: Measured) -> bool:
        works_well = all(map(operator.ge, found.work_per_busy_s, wanted)) and found.padding <= most_padding
        return min(found.busy) >= 0.95 and works_well

    found = measure(config, holds)

    assert min(found.busy) >= 0.95
    for rate, least in zip(found.work_per_busy_s, wanted, strict=True):
        assert rate >= least
    assert found.padding <= most_padding
    assert found.overloaded == 0


@pytest.mark.slow
def test_few_permits_are_kept_to() -> None:
    config = dataclasses.replace(fleet_config(1.0, 1.0), max_concurrent_requests=64)

    found = measure(config, lambda found: min(found.busy) >= 0.9)

    assert found.overloaded <= 0.01 * found.requests
    assert min(found.busy) >= 0.9


@pytest.mark.slow
def test_three_servers_do_not_suffer_from_a_fourth_that_is_slow() -> None:
    config = fleet_config(1.0, 1.0, 1.0, 1.0)
    texts = [text for batch in batches() for text in batch]

    best = capacity(texts, config)
    wanted = 0.95 * best.tokens_per_s * best.padding_ratio

    found = measure(
        config, lambda found: min(found.busy[1:]) >= 0.95 and min(found.work_per_busy_s[1:]) >= wanted, slow=50.0
    )

    assert min(found.busy[1:]) >= 0.95
    assert min(found.work_per_busy_s[1:]) >= wanted
