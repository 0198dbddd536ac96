"""What the tuner reaches, beside what it could: `engine bench` on modelled GPUs whose best point is arithmetic.

    python -m bench.measure.tuning.tuner_quality [--only NAME,...] [--seconds 10] [--no-run] [--json]
    python -m bench.measure.tuning.tuner_quality --model

For each fleet and target the command tunes twice, as a person would, and once more embeds a collection in a real mongod
with `engine run --tuned`. The truth beside it is a long closed loop on the same model in virtual time, at every point
that could be the best (`bench.measure.load.modelled_load`). Printed for each case: the chosen point, its throughput as
a share of the best that holds the target, the search's time as a share of the full grid's, by how much two searches
differ, and what the following run came to.

With `--model` the search itself runs on the model too, in virtual time: many targets and seeds in a minute or two.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from bench.measure.tuning.tuner_in_model import CASES, MODEL_HEAD, N_TEXTS, SIZES, Case, Truth, model_row, texts
from bench.parts.engine_command import EngineCommand
from bench.parts.local_mongod import LocalMongod
from bench.standin import StandinFleet
from bench.tuner.measure.visit import Point
from bench.tuner.texts.corpus import Order
from engine.errors import Exit, ProtocolError

_RUN_S = 25.0
_BUCKET = 1.05
"""A run counts latencies in buckets that grow by so much, and says the upper edge of the one that holds the p95."""
_DATABASE, _COLLECTION, _DONE_FIELD = "bench", "texts", "embedded"


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
        yield {"_id": number, "text": texts()[number % N_TEXTS], "lang": "en", "classified": False}


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


def main() -> None:
    """Entry point of `python -m bench.measure.tuning.tuner_quality`."""
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
