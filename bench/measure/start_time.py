"""How long a start takes when much is done already: 1,000 new documents beside 1,000 marked ones, and beside a million.

    python -m bench.measure.start_time --marked 1000,1000000

Everything that is marked was embedded by the engine itself, so its ledger and its shards are as large as they would
be. What is timed is the whole command, from its start to its end; every figure is the median of some runs, each
with new documents of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from bench.measure.pipeline import COLLECTION, DATABASE, DONE_FIELD, machine, make_indexes
from bench.parts.engine_command import EngineCommand
from bench.parts.local_mongod import LocalMongod
from bench.parts.tweets import documents
from bench.standin import StandinConfig, StandinFleet
from engine.errors import ProtocolError

N_SERVERS = 4
_LOAD_BATCH = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StartConfig:
    """What to measure.

    Attributes:
        marked: Documents that are marked before the timed starts, in rising order.
        new: Documents that each timed run has to embed.
        repeats: Timed runs for each entry of `marked`.
        dim: Numbers in a vector.
        mongod: A mongod binary, or None to look for one.
    """

    marked: tuple[int, ...] = (1_000, 1_000_000)
    new: int = 1_000
    repeats: int = 3
    dim: int = 64
    mongod: Path | None = None


def measure(config: StartConfig) -> dict[str, Any]:
    """Time the starts.

    Raises:
        EngineError: a part could not be started, or a run failed.
    """
    servers = StandinConfig(backend="canned", ports=(0,) * N_SERVERS, dim=config.dim)
    with (
        tempfile.TemporaryDirectory(prefix="engine-bench-") as name,
        LocalMongod(Path(name) / "mongod", mongod=config.mongod) as mongod,
        StandinFleet(servers) as fleet,
    ):
        command = EngineCommand(
            uri=mongod.uri,
            database=DATABASE,
            collection=COLLECTION,
            done_field=DONE_FIELD,
            urls=fleet.urls,
            folder=Path(name),
        )
        wanted = documents(max(config.marked) + len(config.marked) * config.repeats * config.new, retweeted=False)
        starts = []
        n_marked = 0
        with MongoClient[dict[str, Any]](mongod.uri) as client:
            collection = client[DATABASE][COLLECTION]
            for target in config.marked:
                n_marked += _insert(collection, itertools.islice(wanted, target - n_marked))
                make_indexes(command)
                _run(command)
                times_s = []
                for _ in range(config.repeats):
                    n_new = _insert(collection, itertools.islice(wanted, config.new))
                    times_s.append(_run(command))
                    n_marked += n_new
                starts.append({"marked": target, "seconds": round(statistics.median(times_s), 2), "all": times_s})
    return {"machine": machine(), "new": config.new, "starts": starts}


def _insert(collection: Any, wanted: Any) -> int:
    count = 0
    while chunk := list(itertools.islice(wanted, _LOAD_BATCH)):
        collection.insert_many(chunk, ordered=False)
        count += len(chunk)
    return count


def _run(engine: EngineCommand) -> float:
    """Seconds of one `engine run`.

    Raises:
        ProtocolError: it failed.
    """
    began = time.monotonic()
    with engine.running("run") as process:
        _, complaint = process.communicate()
    took_s = round(time.monotonic() - began, 2)
    if process.returncode != 0:
        raise ProtocolError(f"a measured run ended with exit code {process.returncode}: {complaint[-2000:]}")
    return took_s


def main() -> None:
    """Entry point of `python -m bench.measure.start_time`."""
    usual = StartConfig()
    parser = argparse.ArgumentParser(description="Time a start beside few and beside many marked documents.")
    parser.add_argument("--marked", default=",".join(map(str, usual.marked)), help="marked before, comma-separated")
    parser.add_argument("--new", type=int, default=usual.new, help="documents that each timed run embeds")
    parser.add_argument("--repeats", type=int, default=usual.repeats, help="timed runs for each figure")
    parser.add_argument("--mongod", type=Path, help="a mongod binary")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    figures = measure(
        StartConfig(
            marked=tuple(sorted(int(part) for part in given.marked.split(","))),
            new=given.new,
            repeats=given.repeats,
            mongod=given.mongod,
        )
    )
    if given.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for start in figures["starts"]:
        sys.stdout.write(
            f"{start['marked']:>12,} marked: {start['seconds']:.2f} s for a run that embeds {figures['new']:,} new "
            f"documents (of {', '.join(f'{one:.2f}' for one in start['all'])})\n"
        )


if __name__ == "__main__":
    main()
