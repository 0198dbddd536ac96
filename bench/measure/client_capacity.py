"""How much of a fleet's power the adaptive window uses, against modelled GPUs whose capacity is known.

    python -m bench.measure.client_capacity [--seconds 6] [--only NAME]
    python -m bench.measure.client_capacity --only "GPU batches of"   # against fixed numbers of requests

For each fleet: documents and tokens a second, the tokens as a share of the capacity that the model computes, the share
of time in which the least busy GPU had work, padding beside that of an oracle that sorts the whole window, 429
answers, the 95th percentile of latency, CPU time of all clients for a document, and the windows in requests. A fleet
with a slowed server is measured without the slowness as well, to say what the others did beside it. A server whose GPU
batches hold few texts is measured with fixed numbers of requests as well, to say what share of the best one adapting
brings. Few permits and a latency target bound what can be had: there the model tells in virtual time which fixed number
of requests brings most within these bounds, and what share of that adapting brings.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.measure.load.client_driver import ClientDriver, Interval, cores
from bench.measure.load.modelled_window import ModelledClients, best_fixed
from bench.parts import tweets
from bench.standin import GpuConfig, StandinConfig, StandinFleet
from bench.standin.backends.capacity import capacity, token_counts
from engine.telemetry.metrics import LatencyHistogram
from gpu_clients.settings import ClientSettings

BATCH = 32
WINDOW_TEXTS = 4_096
WARM_UP_S = 4.0
FEW_PERMITS = 128
"""Four requests of 32: where fewer are admitted, GPU batches cannot be full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One fleet to work against.

    Attributes:
        name: What is printed and what `--only` takes.
        speeds: Factor of each server.
        gpu: The modelled GPU.
        permits: `--max-concurrent-requests` of each server.
        max_batch_tokens: Tokens of a GPU batch.
        target_p95_s: Latency target, or None.
        slow_first: Factor by which the first server is slowed down after the start.
        max_batch_requests: Texts of a GPU batch, or None.
        fixed: Numbers of requests to compare with; the texts are then of middle length, since a slow server gets
            through a part of them only, and has to find the same work every time.
    """

    name: str
    speeds: tuple[float, ...]
    gpu: GpuConfig
    permits: int = 512
    max_batch_tokens: int = 16_384
    target_p95_s: float | None = None
    slow_first: float | None = None
    max_batch_requests: int | None = None
    fixed: tuple[int, ...] = ()

    def config(self) -> StandinConfig:
        """The servers."""
        return StandinConfig(
            backend="sim",
            ports=(0,) * len(self.speeds),
            speeds=self.speeds,
            max_client_batch_size=BATCH,
            max_concurrent_requests=self.permits,
            max_batch_tokens=self.max_batch_tokens,
            max_batch_requests=self.max_batch_requests,
            gpu=self.gpu,
        )


def _gpu(rate: float, *, padded: bool, overhead_s: float = 0.002) -> GpuConfig:
    return GpuConfig(tokens_per_s=rate, padded=padded, fixed_overhead_s=overhead_s)


def _small_batches() -> list[Case]:
    """Servers whose GPU batches hold so many texts: TEI on a CPU (4, with ORT 8), and one without that limit."""
    return [
        Case(
            name=f"GPU batches of {most or 'any'}, {pace}{', padded' if padded else ''}",
            speeds=(1.0,),
            gpu=_gpu(rate, padded=padded, overhead_s=overhead_s),
            max_batch_requests=most,
            fixed=_FIXED,
        )
        for most in (4, 8, 16, None)
        for pace, rate, overhead_s in (("fast", 60_000.0, 0.0005), ("slow", 3_000.0, 0.002))
        for padded in (False, True)
    ]


_FIXED = (1, 2, 4, 15)
"""Numbers of requests to compare with; 15 of 32 texts are all that 512 permits admit."""


_UNLIKE = (1.0, 1.0, 2.0, 4.0)
CASES = [
    Case(name="4 equal, padded", speeds=(1.0,) * 4, gpu=_gpu(40_000, padded=True)),
    Case(name="4 equal, unpadded", speeds=(1.0,) * 4, gpu=_gpu(40_000, padded=False)),
    Case(name="1:1:2:4, padded", speeds=_UNLIKE, gpu=_gpu(20_000, padded=True)),
    Case(name="1:1:2:4, unpadded", speeds=_UNLIKE, gpu=_gpu(20_000, padded=False)),
    Case(name="8 equal, padded", speeds=(1.0,) * 8, gpu=_gpu(20_000, padded=True)),
    Case(name="8 equal, unpadded", speeds=(1.0,) * 8, gpu=_gpu(20_000, padded=False)),
    Case(name="2 with 64 permits", speeds=(1.0,) * 2, gpu=_gpu(40_000, padded=True), permits=64),
    Case(
        name="2 with small GPU batches",
        speeds=(1.0,) * 2,
        gpu=_gpu(40_000, padded=True),
        permits=4_096,
        max_batch_tokens=2_048,
    ),
    Case(name="2 with target 0.3 s", speeds=(1.0,) * 2, gpu=_gpu(40_000, padded=True), target_p95_s=0.3),
    Case(name="4, one slowed 50 x", speeds=(1.0,) * 4, gpu=_gpu(30_000, padded=True), slow_first=50.0),
    *_small_batches(),
]


@dataclass(frozen=True, slots=True)
class FleetUse:
    """How a fleet was used: one row of the table."""

    rows_per_s: float
    tokens_per_s: float
    each_tokens_per_s: list[float]
    capacity_tokens_per_s: float
    busy: list[float]
    padding: float
    oracle_padding: float
    requests: int
    overloaded: int
    p95_s: float | None
    windows: list[int]
    cpu_us: float


def run(case: Case, seconds: float, concurrency: int | None = None) -> FleetUse:
    """Let one client process for each server work, and compare the servers' counters before and after."""
    ordered = sorted(tweets.texts()[:WINDOW_TEXTS], key=len)
    if case.fixed:
        ordered = ordered[len(ordered) // 2 : len(ordered) * 5 // 8]
    up = [ordered[at : at + BATCH] for at in range(0, len(ordered), BATCH)]
    config = case.config()
    with StandinFleet(config) as fleet:
        settings = ClientSettings(
            urls=fleet.urls, batch_size=BATCH, target_p95_s=case.target_p95_s, concurrency=concurrency
        )
        if case.fixed:  # the long texts of a canary would be a good part of what a slow server does in that time
            settings = dataclasses.replace(settings, canary_every_s=600.0)
        with ClientDriver(settings, up + up[::-1], n_slots=24 * len(fleet.urls)) as driver:
            if case.slow_first is not None:
                fleet.control(fleet.ports[0], slow_factor=case.slow_first)
            driver.run(seconds=3 * WARM_UP_S if case.fixed else WARM_UP_S)  # a slow server takes long for the canaries
            before, latencies = fleet.reports(), _latencies(driver.reports)
            interval = driver.run(seconds=seconds)
            after = fleet.reports()
            return _found(case, ordered, before, after, interval, latencies, driver.reports)


def _found(
    case: Case,
    texts: list[str],
    before: list[dict[str, Any]],
    after: list[dict[str, Any]],
    interval: Interval,
    latencies_before: list[int],
    figures: Mapping[str, dict[str, Any]],
) -> FleetUse:
    config = case.config()
    counters = [
        {name: late["backend"][name] - early["backend"][name] for name in late["backend"]}
        for early, late in zip(before, after, strict=True)
    ]
    slowed = [case.slow_first if number == 0 and case.slow_first else 1.0 for number in range(len(case.speeds))]
    rates = [
        capacity(texts, config, speed=speed / factor).tokens_per_s
        for speed, factor in zip(case.speeds, slowed, strict=True)
    ]
    steady = [late - early for early, late in zip(latencies_before, _latencies(figures), strict=True)]
    return FleetUse(
        rows_per_s=interval.rows_per_s,
        tokens_per_s=sum(counter["standin_real_tokens_total"] for counter in counters) / interval.seconds,
        each_tokens_per_s=[counter["standin_real_tokens_total"] / interval.seconds for counter in counters],
        capacity_tokens_per_s=sum(rates),
        busy=[counter["standin_busy_seconds_total"] / interval.seconds for counter in counters],
        padding=sum(c["standin_padded_tokens_total"] for c in counters)
        / max(1.0, sum(c["standin_real_tokens_total"] for c in counters)),
        oracle_padding=capacity(texts, config, order="sorted").padding_ratio,
        requests=sum(r["embed_requests"] for r in after) - sum(r["embed_requests"] for r in before),
        overloaded=sum(r["answered_429"] for r in after) - sum(r["answered_429"] for r in before),
        p95_s=LatencyHistogram(steady).quantile(0.95),
        windows=[facts["window"] for _, facts in sorted(figures.items())],
        cpu_us=interval.cpu_us_per_row,
    )


def _latencies(figures: Mapping[str, dict[str, Any]]) -> list[int]:
    """Counts of all clients' latency histograms together."""
    total = LatencyHistogram()
    for facts in figures.values():
        total.add(LatencyHistogram.from_sparse(facts["latency"]))
    return total.counts


def main() -> None:
    """Print one line for each fleet."""
    parser = argparse.ArgumentParser(description="share of a modelled fleet's capacity that the clients use")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    say = sys.stdout.write
    say(f"{cores()} cores, batch {BATCH}, window of {WINDOW_TEXTS} texts sorted by length\n")
    say(f"{'fleet':<33}{'docs/s':>8}{'tokens/s':>10}{'share':>8}{'busy':>7}{'padding':>9}{'oracle':>8}{'429':>9}")
    say(f"{'p95 s':>8}{'CPU us':>8}  windows\n")
    for case in CASES:
        if options.only in case.name:
            found = run(case, options.seconds)
            say(
                f"{case.name:<33}{found.rows_per_s:>8.0f}{found.tokens_per_s:>10.0f}"
                f"{found.tokens_per_s / found.capacity_tokens_per_s:>8.1%}{min(found.busy):>7.1%}{found.padding:>9.3f}"
                f"{found.oracle_padding:>8.3f}{f'{found.overloaded}/{found.requests}':>9}{found.p95_s or 0:>8.2f}"
                f"{found.cpu_us:>8.1f}  {','.join(map(str, found.windows))}\n"
            )
            if case.slow_first is not None:
                even = run(dataclasses.replace(case, slow_first=None), options.seconds)
                theirs, usual = sum(found.each_tokens_per_s[1:]), sum(even.each_tokens_per_s[1:])
                share = theirs / usual
                say(f"    the others: {theirs:.0f} tokens/s; with an equal first one {usual:.0f} ({share:.1%})\n")
            if case.fixed:
                say(_against_fixed(case, found, options.seconds))
            if case.target_p95_s is not None or case.permits < FEW_PERMITS:
                say(_against_model(case, found))


def _against_fixed(case: Case, adapting: FleetUse, seconds: float) -> str:
    """What share of the best fixed number of requests adapting brings; each tokens a second."""
    rates = {fixed: run(case, seconds, concurrency=fixed).tokens_per_s for fixed in case.fixed}
    best = max(rates.values())
    told = ", ".join(f"{fixed}: {rate:.0f}" for fixed, rate in rates.items())
    return f"    fixed {told} tokens/s; adapting brings {adapting.tokens_per_s / best:.1%} of the best\n"


def _against_model(case: Case, adapting: FleetUse) -> str:
    """What share of what the best fixed number of requests brings within permits and target, by the model."""
    config = case.config()
    counts = token_counts(sorted(tweets.texts()[:WINDOW_TEXTS], key=len), config)
    up = [counts[at : at + BATCH] for at in range(0, len(counts), BATCH)]
    clients = ModelledClients(config=config, requests=up + up[::-1], batch_texts=BATCH, target_p95_s=case.target_p95_s)
    found = best_fixed(clients, range(1, 17), warm_up_s=WARM_UP_S, seconds=60.0)
    if found is None:
        return "    by the model no fixed number of requests holds the target\n"
    number, best = found
    return (
        f"    by the model {number} fixed requests bring most: {best.tokens_per_s:.0f} tokens/s with a p95 of"
        f" {best.p95_s:.3f} s; adapting brings {adapting.tokens_per_s / best.tokens_per_s:.1%} of that\n"
    )


if __name__ == "__main__":
    main()
