"""What the tuner reaches, beside what it could: `engine bench` on modelled GPUs whose best point is arithmetic.

    python -m bench.measure.tuner_quality [--only NAME,...] [--seconds 10] [--no-run] [--json]
    python -m bench.measure.tuner_quality --model

For each fleet and target the command tunes twice, as a person would, and once more embeds a collection in a real mongod
with `engine run --tuned`. The truth beside it is a long closed loop on the same model in virtual time, at every point
that could be the best (`bench.measure.modelled_load`). Printed for each case: the chosen point, its throughput as a
share of the best that holds the target, the search's time as a share of the full grid's, by how much two searches
differ, and what the following run came to.

With `--model` the search itself runs on the model too, in virtual time: many targets and seeds in a minute or two.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from bench.measure.modelled_load import ModelledLoad, truth
from bench.parts import tweets
from bench.parts.engine_command import EngineCommand
from bench.parts.local_mongod import LocalMongod
from bench.standin import GpuConfig, StandinConfig, StandinFleet
from bench.tuner.measure.limits import Limits, grid
from bench.tuner.measure.visit import Point
from bench.tuner.search import search as tuner
from bench.tuner.search.survey import ROUNDS, TuneConfig
from bench.tuner.texts.corpus import Corpus, Order
from engine.errors import Exit, ProtocolError

SIZES = (8, 16, 32)
ROUND_TRIP_S = 0.002
"""What HTTP on one machine adds to a request; the model is told so."""

MODEL_TARGETS = (None, 0.25, 0.4, 0.6, 1.0, 0.02)
MODEL_SEEDS = (1, 2, 3)

_N_TEXTS = 4000
_MARGIN = 0.95
_RUN_S = 25.0
_BUCKET = 1.05
"""A run counts latencies in buckets that grow by so much, and says the upper edge of the one that holds the p95."""
_DATABASE, _COLLECTION, _DONE_FIELD = "bench", "texts", "embedded"


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
    for number in range(_N_TEXTS):
        parts = 1 + int(draw.expovariate(0.7))
        found.append(" ".join(" ".join(known[(number + at * 977) % len(known)].split()) for at in range(parts)))
    return tuple(found)


@dataclass(slots=True)
class Truth:
    """What the model does at a point, remembered; every point is worked out once."""

    config: StandinConfig
    order: Order
    _known: dict[Point, tuple[float, float]]
    _corpus: Corpus

    @classmethod
    def of(cls, config: StandinConfig, order: Order) -> Truth:
        """Nothing is known yet."""
        return cls(config, order, {}, Corpus(texts()))

    def at(self, point: Point) -> tuple[float, float]:
        """Documents a second and 95th percentile of latency."""
        if point not in self._known:
            self._known[point] = truth(
                self._corpus,
                self.config,
                point.batch_size,
                point.concurrency,
                order=self.order,
                n_cycles=1,
                overhead_s=ROUND_TRIP_S,
            )
        return self._known[point]

    def best(self, target_p95_s: float | None) -> tuple[Point, float] | None:
        """The point with the most throughput that holds the target, None when none does.

        Throughput and latency both grow with what is in flight, so for each batch size it is the last that holds.
        """
        found = []
        for size in SIZES:
            low, high = 0, max(1, int(self.config.max_concurrent_requests * _MARGIN) // size)
            while low < high:
                middle = (low + high + 1) // 2
                holds = target_p95_s is None or self.at(Point(size, middle))[1] <= target_p95_s
                low, high = (middle, high) if holds else (low, middle - 1)
            if low:
                found.append((Point(size, low), self.at(Point(size, low))[0]))
        return max(found, key=lambda item: item[1], default=None)


def measure(case: Case, *, seconds: float, with_run: bool) -> dict[str, Any]:
    """Tune twice, compare with the model, and run.

    Raises:
        ProtocolError: a command ended otherwise than it should.
    """
    with tempfile.TemporaryDirectory(prefix="engine-quality-") as name, StandinFleet(case.config()) as fleet:
        folder = Path(name)
        file = folder / "texts.txt"
        file.write_text("\n".join(texts()) + "\n", encoding="utf-8")
        tuned = [folder / f"tuned-{number}.toml" for number in (1, 2)]
        found = [_tune(case, fleet.urls, file, path, seconds) for path in tuned]
        figures = {"case": case.name, "target_p95": case.target_p95_s, **_compared(case, found)}
        if with_run and figures["chosen"] is not None:
            figures["run"] = _run(case, fleet.urls, folder, tuned[0], figures["true_docs_per_second"])
    return figures


def _tune(case: Case, urls: tuple[str, ...], file: Path, out: Path, seconds: float) -> dict[str, Any]:
    target = [] if case.target_p95_s is None else ["--target-p95", str(case.target_p95_s)]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "cli", "bench", "--json", "--tei-urls", ",".join(urls), "--texts", str(file)),
            *("--batch-sizes", ",".join(map(str, SIZES)), "--seconds", str(seconds), "--out", str(out), *target),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (Exit.DONE, Exit.NO_OPERATING_POINT):
        raise ProtocolError(f"`engine bench` ended with exit code {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    if (found["chosen"] is not None) != out.exists():
        raise ProtocolError(f"`engine bench` chose {found['chosen']}, but {out} says otherwise")
    return found


def _compared(case: Case, found: list[dict[str, Any]]) -> dict[str, Any]:
    points = [_point(item["chosen"]) for item in found]
    order = Order.SORTED if found[0]["bucketing"] == "on" else Order.NATURAL
    known = Truth.of(case.config(), order)
    best = known.best(case.target_p95_s)
    figures: dict[str, Any] = {
        "bucketing": [item["bucketing"] for item in found],
        "exit": [item["exit"] for item in found],
        "seconds": [item["seconds"] for item in found],
        "grid_share": [round(item["seconds"] / item["grid_seconds"], 4) for item in found],
        "best": _plain(best[0]) if best else None,
        "best_docs_per_second": round(best[1], 2) if best else None,
        "chosen": None,
    }
    first, second = points
    if first is None or second is None or best is None:
        return figures
    rates = [known.at(point)[0] for point in (first, second)]
    return {
        **figures,
        "chosen": _plain(first),
        "chosen_again": _plain(second),
        "measured_docs_per_second": [item["chosen"]["docs_per_second"] for item in found],
        "measured_p95": [item["chosen"]["latency"]["p95"] for item in found],
        "true_docs_per_second": round(rates[0], 2),
        "true_p95": [round(known.at(point)[1], 4) for point in (first, second)],
        "share_of_best": [round(rate / best[1], 4) for rate in rates],
        "difference": round(1 - min(rates) / max(rates), 4),
    }


def _point(chosen: dict[str, Any] | None) -> Point | None:
    return None if chosen is None else Point(chosen["batch_size"], chosen["concurrency"])


def _plain(point: Point) -> str:
    return f"{point.batch_size} x {point.concurrency}"


def _run(case: Case, urls: tuple[str, ...], folder: Path, tuned: Path, docs_per_s: float) -> dict[str, Any]:
    """Embed a collection of the same texts with the tuned file."""
    with LocalMongod(folder / "mongod") as mongod:
        count = int(docs_per_s * _RUN_S)
        with MongoClient[dict[str, Any]](mongod.uri) as client:
            client[_DATABASE][_COLLECTION].insert_many(_documents(count), ordered=False)
        command = EngineCommand(
            uri=mongod.uri,
            database=_DATABASE,
            collection=_COLLECTION,
            done_field=_DONE_FIELD,
            urls=urls,
            folder=folder,
        )
        _finish("engine index", command.start("index"))
        summary: dict[str, Any] = json.loads(
            _finish("engine run", command.start("run", "--json", "--tuned", str(tuned)))
        )
    above_s = summary["latency"]["p95"]
    below_s = above_s / _BUCKET
    return {
        "documents": summary["embedded"],
        "docs_per_second": summary["docs_per_second"],
        "p95": [below_s, above_s],
        "holds": case.target_p95_s is None or below_s <= case.target_p95_s,
    }


def _documents(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield {"_id": number, "text": texts()[number % _N_TEXTS], "lang": "en", "classified": False}


def _finish(name: str, process: subprocess.Popen[str]) -> str:
    out, complaint = process.communicate()
    if process.returncode != 0:
        raise ProtocolError(f"`{name}` ended with exit code {process.returncode}: {complaint[-2000:]}")
    return out


def row(figures: dict[str, Any]) -> str:
    """A row of a Markdown table."""
    head = f"| {figures['case']} | {figures['best'] or 'none'} | "
    times = ", ".join(f"{seconds:.0f} s" for seconds in figures["seconds"])
    share = f"{times} ({max(figures['grid_share']):.0%} of the grid)"
    if figures["chosen"] is None:
        return f"{head}none (exit {figures['exit'][0]}) | - | - | {share} | - |"
    run = figures.get("run")
    ran = "-"
    if run is not None:
        held = "" if figures["target_p95"] is None else (", holds" if run["holds"] else ", MISSES")
        below_s, above_s = run["p95"]
        ran = f"{run['docs_per_second']:,.0f}/s, p95 {below_s:.3f} to {above_s:.3f} s{held}"
    shares = ", ".join(f"{value:.1%}" for value in figures["share_of_best"])
    chosen = f"{figures['chosen']}, {figures['chosen_again']}"
    return f"{head}{chosen} | {shares} | {figures['difference']:.1%} | {share} | {ran} |"


HEAD = (
    "| fleet, GPU batches, p95 target | best by the model | chosen, twice | share of the best | difference | time | "
    "following run |\n| --- | --- | --- | --- | --- | --- | --- |"
)


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
    rate, p95_s = known.at(findings.chosen.point)
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


def main() -> None:
    """Entry point of `python -m bench.measure.tuner_quality`."""
    parser = argparse.ArgumentParser(description="Compare what the tuner chooses with what the model says is best.")
    parser.add_argument("--only", help="names of cases, comma-separated: " + ", ".join(case.name for case in CASES))
    parser.add_argument("--seconds", type=float, default=10.0, help="steady state of one visit to a point, at most")
    parser.add_argument("--no-run", action="store_true", help="do not embed a collection with the tuned file")
    parser.add_argument("--json", action="store_true", help="one JSON object a case")
    parser.add_argument("--model", action="store_true", help="search in virtual time: more targets, several seeds")
    given = parser.parse_args()
    if given.model:
        sys.stdout.write(f"{MODEL_HEAD}\n")
        for case in CASES:
            if case.target_p95_s is None:
                sys.stdout.write(model_row(case, given.seconds) + "\n")
                sys.stdout.flush()
        return
    wanted = given.only.split(",") if given.only else [case.name for case in CASES]
    if not given.json:
        machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.platform()}"
        sys.stdout.write(f"{machine}\n\n{HEAD}\n")
    for case in CASES:
        if case.name in wanted:
            figures = measure(case, seconds=given.seconds, with_run=not given.no_run)
            sys.stdout.write((json.dumps(figures) if given.json else row(figures)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
