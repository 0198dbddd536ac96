"""The joint search of server flags and operating point, beside the best that there is, in virtual time.

    python -m bench.measure.tuning.joint_in_model [--only NAME,...] [--seeds 1,2] [--seconds 10]

Fleets of modelled GPUs obey `--max-batch-tokens` and `--dtype`. The truth is a long closed loop on the same model at
every point that could be the best, with every setting. A restart costs `RESTART_S` on both sides of the comparison:
the joint grid measures every batch size at 1, 2, 4, ... in flight with every setting, three times, as a contender is.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from bench.measure.load.modelled_load import ModelledLoad
from bench.measure.tuning.tuner_in_model import EQUAL, ROUND_TRIP_S, SIZES, UNLIKE, Truth, texts
from bench.standin import GpuConfig, StandinConfig
from bench.tuner.joint.joint import JointFindings, JointSearch, Tried
from bench.tuner.joint.settings import Axis, Setting, count_settings, parse_axes
from bench.tuner.measure.limits import Limits, grid
from bench.tuner.measure.visit import Point
from bench.tuner.search.findings import Findings
from bench.tuner.search.record import Record
from bench.tuner.search.search import Search
from bench.tuner.search.survey import ROUNDS, TuneConfig
from bench.tuner.texts.corpus import Corpus, Order

FLAGS = "max-batch-tokens=1024,2048,4096,8192 dtype=float16,float32"
RESTART_S = 20.0
"""What it takes to load a model of this size and to be healthy."""
_MARGIN = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class JointCase:
    """One fleet and one target.

    Attributes:
        name: What is printed and what `--only` takes.
        speeds: Factor of each server.
        overhead_s: What a GPU batch costs whatever is in it: the more, the more large batches bring.
        padded: Whether a GPU batch costs its longest text for every text.
        float32_speed: What float32 does to the GPU; above 1 where it is the better choice.
        target_p95_s: Latency target, or None.
    """

    name: str
    speeds: tuple[float, ...]
    overhead_s: float
    padded: bool
    float32_speed: float
    target_p95_s: float | None

    def config(self, setting: Setting) -> StandinConfig:
        """The servers with a setting."""
        return StandinConfig(
            backend="sim",
            ports=(0,) * len(self.speeds),
            speeds=self.speeds,
            dim=64,
            max_batch_tokens=int(setting.value("max-batch-tokens")),
            dtype=setting.value("dtype"),
            max_concurrent_requests=1024,
            gpu=GpuConfig(
                tokens_per_s=12_000,
                fixed_overhead_s=self.overhead_s,
                padded=self.padded,
                float32_speed=self.float32_speed,
            ),
        )


CASES = tuple(
    JointCase(
        name=f"{fleet}-{'padded' if padded else 'unpadded'}-{'free' if target_s is None else f'{target_s:g}s'}-{kind}",
        speeds=speeds,
        overhead_s=overhead_s,
        padded=padded,
        float32_speed=float32_speed,
        target_p95_s=target_s,
    )
    for fleet, speeds, padded, target_s, kind, overhead_s, float32_speed in (
        ("equal", EQUAL, False, None, "fixed", 0.08, 0.5),
        ("equal", EQUAL, False, 0.6, "fixed", 0.08, 0.5),
        ("equal", EQUAL, True, None, "lean", 0.005, 0.5),
        ("equal", EQUAL, True, 1.0, "float32", 0.03, 1.3),
        ("unlike", UNLIKE, False, 1.0, "lean", 0.005, 0.5),
        ("unlike", UNLIKE, True, None, "float32", 0.03, 1.3),
        ("unlike", UNLIKE, True, 1.0, "fixed", 0.08, 0.8),
    )
)


@dataclass(slots=True)
class _ModelledTrial:
    """Servers of the model with one setting; see `bench.tuner.joint.joint.Trial`."""

    runner: Search

    def sight(self, point: Point, *, bucketing: bool, expected_per_s: float) -> Record | None:
        return self.runner.sight(point, bucketing=bucketing, expected_per_s=expected_per_s)

    def search(self, worth_beating: float | None) -> Findings:
        return self.runner.run(worth_beating)

    def go_on(self, former: Findings, budgets: float, worth_beating: float | None) -> Findings:
        self.runner.adopt(former, budgets)
        return self.runner.run(worth_beating)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """How one joint search went: shares of the best rate and of the joint grid's time."""

    share: float
    grid_share: float
    holds: bool
    restarts: int
    chosen: str


def limits_of(config: StandinConfig) -> Limits:
    """The points that the servers admit."""
    most = int(config.max_concurrent_requests * _MARGIN)
    return Limits(ceilings={size: most // size for size in SIZES}, by_permits=frozenset(SIZES), notes=())


def joint_on_the_model(case: JointCase, axes: tuple[Axis, ...], seed: int, seconds: float) -> Joint | None:
    """Search once; None when nothing holds the target by the model, and nothing was chosen."""
    spent: list[float] = []

    @contextlib.contextmanager
    def run(setting: Setting) -> Iterator[_ModelledTrial]:
        config = case.config(setting)
        load = ModelledLoad(config, seed=seed, overhead_s=ROUND_TRIP_S)
        search = Search(
            load,
            Corpus(texts()),
            limits_of(config),
            TuneConfig(target_p95_s=case.target_p95_s, seconds=seconds, seed=seed),
            max_batch_tokens=config.max_batch_tokens,
        )
        yield _ModelledTrial(search)
        spent.append(RESTART_S + load.now_s())

    found: JointFindings = JointSearch(axes, run, refine=case.target_p95_s is not None).search()
    points = len(grid(limits_of(case.config(found.tried[0].setting)).ceilings))
    grid_s = count_settings(axes) * (RESTART_S + points * ROUNDS * seconds)
    best = best_of_all(case, axes)
    if found.best is None or best is None:
        return None
    rate, p95_s = _true(case, found.best)
    return Joint(
        share=rate / best,
        grid_share=sum(spent) / grid_s,
        holds=case.target_p95_s is None or p95_s <= case.target_p95_s,
        restarts=len(found.tried),
        chosen=f"{found.best.setting}",
    )


def _true(case: JointCase, tried: Tried) -> tuple[float, float]:
    assert tried.chosen is not None and tried.findings is not None
    order = Order.SORTED if tried.findings.bucketing else Order.NATURAL
    return _truth(case, tried.setting, order).at(tried.chosen.point, case.target_p95_s)


@functools.cache
def _truth(case: JointCase, setting: Setting, order: Order) -> Truth:
    return Truth.of(case.config(setting), order)


@functools.cache
def best_of_all(case: JointCase, axes: tuple[Axis, ...]) -> float | None:
    """Documents a second at the best joint point that holds the target, None when none does."""
    found = []
    for setting in every_setting(axes):
        best = _truth(case, setting, Order.SORTED if case.padded else Order.NATURAL).best(case.target_p95_s)
        if best is not None:
            found.append(best[1])
    return max(found, default=None)


def every_setting(axes: tuple[Axis, ...]) -> list[Setting]:
    """The whole grid of settings."""
    settings = [Setting(())]
    for axis in axes:
        settings = [
            dataclasses.replace(one, values=(*one.values, (axis.name, value)))
            for one in settings
            for value in axis.values
        ]
    return settings


HEAD = (
    "| fleet | searches | least share of the best joint point | targets missed | largest share of the joint grid's "
    "time | settings started, of all | chosen |\n| --- | --- | --- | --- | --- | --- | --- |"
)


def row(case: JointCase, axes: tuple[Axis, ...], seeds: tuple[int, ...], seconds: float) -> str:
    """A row of a Markdown table."""
    several = [joint_on_the_model(case, axes, seed, seconds) for seed in seeds]
    good = [one for one in several if one is not None]
    if not good:
        return f"| {case.name} | {len(several)}, none possible | - | - | - | - | - |"
    return (
        f"| {case.name} | {len(good)} | {min(one.share for one in good):.1%} | "
        f"{sum(not one.holds for one in good)} | {max(one.grid_share for one in good):.0%} | "
        f"{max(one.restarts for one in good)} of {count_settings(axes)} | "
        f"{', '.join(sorted({one.chosen for one in good}))} |"
    )


def main() -> None:
    """Entry point of `python -m bench.measure.tuning.joint_in_model`."""
    parser = argparse.ArgumentParser(description="Compare the joint search with the best joint point of the model.")
    parser.add_argument("--only", help="names of cases, comma-separated: " + ", ".join(case.name for case in CASES))
    parser.add_argument("--seeds", default="1,2", help="one search for each")
    parser.add_argument("--seconds", type=float, default=10.0, help="steady state of one visit to a point, at most")
    given = parser.parse_args()
    wanted = given.only.split(",") if given.only else [case.name for case in CASES]
    seeds = tuple(int(seed) for seed in given.seeds.split(","))
    sys.stdout.write(f"{HEAD}\n")
    for case in CASES:
        if case.name in wanted:
            sys.stdout.write(row(case, parse_axes(FLAGS), seeds, given.seconds) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
