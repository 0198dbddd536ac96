"""Modelled fleets in virtual time, and searches on them that several tests look at."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

from bench.measure.load.modelled_load import ModelledLoad
from bench.standin import GpuConfig, StandinConfig
from bench.tuner.explain.bottleneck import MeasuredServers
from bench.tuner.measure.limits import Limits
from bench.tuner.measure.visit import Visit
from bench.tuner.search.findings import Findings
from bench.tuner.search.search import Search
from bench.tuner.search.survey import TuneConfig
from bench.tuner.texts.corpus import Corpus
from gpu_clients.server_facts import ServerFacts

SECONDS = 10.0


@functools.cache
def texts() -> tuple[str, ...]:
    """Texts as tweets and posts are: many short ones, few long ones."""
    draw = random.Random(1)
    return tuple("x" * max(4, min(4000, int(draw.lognormvariate(4.6, 0.8)))) for _ in range(8000))


@functools.cache
def corpus() -> Corpus:
    """The same, ready to be sent."""
    return Corpus(texts())


def fleet(*speeds: float, padded: bool, permits: int = 512, **gpu: float) -> StandinConfig:
    """Modelled servers: 60,000 tokens a second, 4 ms for a GPU batch of at most 4,096 tokens."""
    return StandinConfig(
        backend="sim",
        ports=(0,) * len(speeds),
        speeds=speeds,
        max_batch_tokens=4096,
        max_concurrent_requests=permits,
        gpu=GpuConfig(padded=padded, **{"tokens_per_s": 60_000, "fixed_overhead_s": 0.004, **gpu}),
    )


FLEETS = {
    "one": fleet(1.0, padded=False),
    "one that pads": fleet(1.0, padded=True),
    "four equal": fleet(1.0, 1.0, 1.0, 1.0, padded=False),
    "four equal that pad": fleet(1.0, 1.0, 1.0, 1.0, padded=True),
    "four unlike": fleet(1.0, 1.0, 2.0, 4.0, padded=False),
    "four unlike that pad": fleet(1.0, 1.0, 2.0, 4.0, padded=True),
    "few permits": fleet(1.0, padded=False, permits=64),
    "slow tokenizer": fleet(1.0, padded=False, tokens_per_s=200_000, tokenizer_tokens_per_s=50_000),
}


def limits_of(config: StandinConfig, sizes: tuple[int, ...] = (8, 16, 32)) -> Limits:
    """What such servers admit, less a client's margin."""
    ceilings = {size: max(1, int(config.max_concurrent_requests * 0.95) // size) for size in sizes}
    return Limits(ceilings=ceilings, by_permits=frozenset(sizes), notes=())


def measured_servers(config: StandinConfig, limits: Limits | None = None) -> MeasuredServers:
    """What `/info` would say of modelled servers."""
    facts = ServerFacts(
        kind="tei",
        model_id="model",
        max_concurrent_requests=config.max_concurrent_requests,
        max_batch_tokens=config.max_batch_tokens,
        tokenization_workers=config.tokenization_workers,
    )
    return MeasuredServers(facts=(facts,) * len(config.ports), limits=limits or limits_of(config))


@dataclass(slots=True)
class Searched:
    """One search, and what it was on."""

    findings: Findings
    visits: list[tuple[str, Visit]]
    load: ModelledLoad


def search(
    config: StandinConfig,
    target_p95_s: float | None = None,
    *,
    seed: int = 1,
    load: ModelledLoad | None = None,
    limits: Limits | None = None,
    max_seconds: float = 300.0,
) -> Searched:
    """Search on modelled servers."""
    load = load or ModelledLoad(config, seed=seed)
    visits: list[tuple[str, Visit]] = []
    findings = Search(
        load,
        corpus(),
        limits or limits_of(config),
        TuneConfig(target_p95_s=target_p95_s, seconds=SECONDS, max_seconds=max_seconds, seed=seed),
        max_batch_tokens=config.max_batch_tokens,
        listener=lambda part, visit: visits.append((part, visit)),
    ).run()
    return Searched(findings, visits, load)


@functools.cache
def searched(fleet_name: str, target_p95_s: float | None, seed: int) -> Searched:
    """One search for several tests."""
    return search(FLEETS[fleet_name], target_p95_s, seed=seed)
