"""The tuner in virtual time: fleets and targets, the best point by the model, and searches compared with it."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

from bench.measure.load.modelled_load import ModelledLoad, truth
from bench.parts import tweets
from bench.standin import GpuConfig, StandinConfig
from bench.tuner.measure.limits import Limits, grid
from bench.tuner.measure.visit import Point
from bench.tuner.search import search as tuner
from bench.tuner.search.survey import ROUNDS, TuneConfig
from bench.tuner.texts.corpus import Corpus, Order
from engine.errors import ProtocolError

SIZES = (8, 16, 32)
ROUND_TRIP_S = 0.002
"""What HTTP on one machine adds to a request; the model is told so."""

MODEL_TARGETS = (None, 0.25, 0.4, 0.6, 1.0, 0.02)
MODEL_SEEDS = (1, 2, 3)

N_TEXTS = 4000
N_CYCLES, N_CYCLES_NEAR_A_TARGET = 4, 24
"""Times that the truth goes round all texts: from one time to the next the 95th percentile of a fleet that pads, or is
unlike, differs by 7%."""
NEAR_A_TARGET = 0.08
_MARGIN = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One fleet and one target.

    Attributes:
        name: What is printed and what `--only` takes.
        speeds: Factor of each server.
        padded: Whether a GPU batch costs its longest text for every text.
        target_p95_s: Latency target, or None.
    """

    name: str
    speeds: tuple[float, ...]
    padded: bool
    target_p95_s: float | None = None

    def config(self) -> StandinConfig:
        """The servers."""
        return StandinConfig(
            backend="sim",
            ports=(0,) * len(self.speeds),
            speeds=self.speeds,
            dim=64,
            max_batch_tokens=2048,
            gpu=GpuConfig(tokens_per_s=12_000, fixed_overhead_s=0.01, padded=self.padded),
        )


EQUAL, UNLIKE = (1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 2.0, 4.0)
CASES = tuple(
    Case(
        name=f"{fleet} {'padded' if padded else 'unpadded'} {'free' if target_s is None else f'{target_s:g}s'}",
        speeds=speeds,
        padded=padded,
        target_p95_s=target_s,
    )
    for fleet, speeds in (("equal", EQUAL), ("unlike", UNLIKE))
    for padded in (False, True)
    for target_s in (None, 0.4, 0.02)
)


@functools.cache
def texts() -> tuple[str, ...]:
    """One to many tweets a text: lengths as posts have them, many short ones and few long ones."""
    draw, known = random.Random(1), tweets.texts()
    found = []
    for number in range(N_TEXTS):
        parts = 1 + int(draw.expovariate(0.7))
        found.append(" ".join(" ".join(known[(number + at * 977) % len(known)].split()) for at in range(parts)))
    return tuple(found)


@dataclass(slots=True)
class Truth:
    """What the model does at each operating point; every point is worked out once."""

    config: StandinConfig
    order: Order
    _known: dict[tuple[Point, int], tuple[float, float]]
    _corpus: Corpus

    @classmethod
    def of(cls, config: StandinConfig, order: Order) -> Truth:
        """Nothing is known yet."""
        return cls(config, order, {}, Corpus(texts()))

    def at(self, point: Point, target_p95_s: float | None = None) -> tuple[float, float]:
        """Documents a second and 95th percentile of latency; for longer where that is near a target."""
        rate, p95_s = self._of(point, N_CYCLES)
        scatters = self.config.gpu.padded or len(set(self.config.speeds)) > 1
        if scatters and target_p95_s is not None and abs(p95_s / target_p95_s - 1) < NEAR_A_TARGET:
            return self._of(point, N_CYCLES_NEAR_A_TARGET)
        return rate, p95_s

    def _of(self, point: Point, n_cycles: int) -> tuple[float, float]:
        key = (point, n_cycles)
        if key not in self._known:
            self._known[key] = truth(
                self._corpus,
                self.config,
                point.batch_size,
                point.concurrency,
                order=self.order,
                n_cycles=n_cycles,
                overhead_s=ROUND_TRIP_S,
            )
        return self._known[key]

    def best(self, target_p95_s: float | None) -> tuple[Point, float] | None:
        """The point with the most throughput that holds the target, None when none does.

        Throughput and latency both grow with what is in flight, so for each batch size it is the last that holds.
        """
        found = []
        for size in SIZES:
            low, high = 0, max(1, int(self.config.max_concurrent_requests * _MARGIN) // size)
            while low < high:
                middle = (low + high + 1) // 2
                holds = target_p95_s is None or self.at(Point(size, middle), target_p95_s)[1] <= target_p95_s
                low, high = (middle, high) if holds else (low, middle - 1)
            if low:
                found.append((Point(size, low), self.at(Point(size, low))[0]))
        return max(found, key=lambda item: item[1], default=None)


MODEL_HEAD = (
    "| fleet, GPU batches | searches with + without a point | least share of the best | mean | targets missed | "
    "largest difference of seeds | largest share of the grid's time |\n| --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One search in virtual time: the share of the best throughput, of the grid's time, and whether the target held."""

    share: float
    grid_share: float
    holds: bool
    rate: float


def search_on_the_model(case: Case, target_p95_s: float | None, seed: int, seconds: float) -> Search | None:
    """Search once; None when the model says that no point holds the target, and the search found none.

    Raises:
        ProtocolError: only one of the two found a point.
    """
    config = case.config()
    most = int(config.max_concurrent_requests * _MARGIN)
    limits = Limits(ceilings={size: most // size for size in SIZES}, by_permits=frozenset(SIZES), notes=())
    findings = tuner.Search(
        ModelledLoad(config, seed=seed, overhead_s=ROUND_TRIP_S),
        Corpus(texts()),
        limits,
        TuneConfig(target_p95_s=target_p95_s, seconds=seconds, seed=seed),
        max_batch_tokens=config.max_batch_tokens,
    ).run()
    known = _truth(case, Order.SORTED if findings.bucketing else Order.NATURAL)
    best = known.best(target_p95_s)
    if (best is None) != (findings.chosen is None):
        raise ProtocolError(f"{case.name}, target {target_p95_s}: the model's best is {best}, chosen {findings.chosen}")
    if best is None or findings.chosen is None:
        return None
    rate, p95_s = known.at(findings.chosen.point, target_p95_s)
    return Search(
        share=rate / best[1],
        grid_share=findings.seconds / (len(grid(limits.ceilings)) * ROUNDS * seconds),
        holds=target_p95_s is None or p95_s <= target_p95_s,
        rate=rate,
    )


@functools.cache
def _truth(case: Case, order: Order) -> Truth:
    return Truth.of(case.config(), order)


def model_row(case: Case, seconds: float) -> str:
    """A row of a Markdown table: many searches on one fleet."""
    found: list[Search] = []
    differences = []
    impossible = 0
    for target_s in MODEL_TARGETS:
        several = [search_on_the_model(case, target_s, seed, seconds) for seed in MODEL_SEEDS]
        good = [one for one in several if one is not None]
        impossible += len(several) - len(good)
        found += good
        if good:
            differences.append(1 - min(one.rate for one in good) / max(one.rate for one in good))
    shares = [one.share for one in found]
    return (
        f"| {case.name.removesuffix(' free')} | {len(found)} + {impossible} | {min(shares):.1%} | "
        f"{sum(shares) / len(shares):.1%} | {sum(not one.holds for one in found)} | {max(differences):.1%} | "
        f"{max(one.grid_share for one in found):.0%} |"
    )
