"""The engine's own ceiling on this machine: a real mongod, servers that answer at once, every stage measured.

    python -m bench.measure.pipeline --documents 200000 --compare
    python -m bench.measure.pipeline --documents 200000 --files parquet --files jsonl

Everything shares the machine's cores: mongod, the canned servers, the engine. What is printed was measured in this
call; with `compare` the plain script works on the same collection, mongod and servers right after, and with `files`
the same documents are read from files by the same servers while mongod has nothing to do.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from pymongo import MongoClient

from bench.measure.beside.plain_script import run_plain_script
from bench.parts.engine_command import EngineCommand
from bench.parts.local_mongod import LocalMongod
from bench.parts.tweets import documents
from bench.standin import StandinConfig, StandinFleet
from engine.config import check_range
from engine.errors import ConfigError, ProtocolError
from engine.telemetry.bottleneck import MachineCpu

DATABASE, COLLECTION, DONE_FIELD = "bench", "tweets", "embedded_bench"
SCRIPT_SHARE = 10
"""The plain script gets a tenth of the documents: it is ten times slower."""

_LOAD_BATCH = 10_000
ROWS_A_FILE = 50_000
_MEMORY_EVERY_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """What to measure.

    Attributes:
        n_documents: Documents in the work queue.
        already_marked: Further documents that are marked before the run starts.
        dim: Numbers in a vector.
        batch_size: Texts of a request.
        n_servers: Canned servers, all in one process.
        compare: Whether the plain script runs afterwards.
        files: Formats (`parquet`, `jsonl`) from which the same documents are read afterwards, mongod idle.
        mongod: A mongod binary, or None to look for one.
    """

    n_documents: int = 200_000
    already_marked: int = 0
    dim: int = 768
    batch_size: int = 32
    n_servers: int = 4
    compare: bool = False
    files: tuple[str, ...] = ()
    mongod: Path | None = None

    def __post_init__(self) -> None:
        check_range("documents", self.n_documents, 1)
        if unknown := set(self.files) - {"parquet", "jsonl"}:
            raise ConfigError(f"--files is {', '.join(sorted(unknown))}; allowed is parquet or jsonl")


def measure(config: PipelineConfig) -> dict[str, Any]:
    """Measure one run from the start of the command to its end.

    Raises:
        EngineError: a part could not be started, or the run failed.
    """
    servers = StandinConfig(
        backend="canned",
        ports=(0,) * config.n_servers,
        dim=config.dim,
        max_client_batch_size=max(32, config.batch_size),
        max_concurrent_requests=max(512, 16 * config.batch_size),
    )
    with (
        tempfile.TemporaryDirectory(prefix="engine-bench-") as name,
        LocalMongod(Path(name) / "mongod", mongod=config.mongod) as mongod,
        StandinFleet(servers) as fleet,
    ):
        load(mongod.uri, config)
        command = EngineCommand(
            uri=mongod.uri,
            database=DATABASE,
            collection=COLLECTION,
            done_field=DONE_FIELD,
            urls=fleet.urls,
            folder=Path(name),
        )
        beside = {"mongod": mongod.pid, "servers": fleet.pid}
        make_indexes(command)
        engine = run_engine(command, config, beside)
        figures: dict[str, Any] = {"machine": machine(), "config": _plain(config), "engine": engine}
        if config.files:
            figures["files"] = {}
        for kind in config.files:
            source = Path(name) / kind
            write_files(source, kind, config.n_documents)
            figures["files"][kind] = run_engine(command, config, beside, "--source", str(source))
        if config.compare:
            figures["plain_script"] = _run_script(Path(name), mongod.uri, list(fleet.urls), config)
    return figures


def load(uri: str, config: PipelineConfig) -> None:
    """Fill the collection: first what is marked already, then the work queue."""
    with MongoClient[dict[str, Any]](uri) as client:
        collection = client[DATABASE][COLLECTION]
        wanted = documents(config.n_documents + config.already_marked, retweeted=False)
        for number in itertools.count():
            chunk = list(itertools.islice(wanted, _LOAD_BATCH))
            if not chunk:
                break
            for document in chunk:
                if document["_id"] <= config.already_marked:
                    document[DONE_FIELD] = True
            collection.insert_many(chunk, ordered=False)
            assert number < 1_000_000  # bounded


def make_indexes(engine: EngineCommand) -> None:
    """Call `engine index`.

    Raises:
        ProtocolError: it failed.
    """
    with engine.running("index") as index:
        _, complaint = index.communicate()
    if index.returncode != 0:
        raise ProtocolError(f"`engine index` ended with exit code {index.returncode}: {complaint[-2000:]}")


def write_files(folder: Path, kind: str, count: int, rows_a_file: int = ROWS_A_FILE) -> None:
    """Write the documents of the work queue as some files of one format."""
    folder.mkdir()
    wanted = documents(count, retweeted=False)
    for number in itertools.count():
        chunk = list(itertools.islice(wanted, rows_a_file))
        if not chunk:
            return
        path = folder / f"part-{number:05d}.{kind}"
        if kind == "jsonl":
            path.write_bytes(b"".join(orjson.dumps(document) + b"\n" for document in chunk))
        else:
            pq.write_table(pa.Table.from_pylist(chunk), path)


def run_engine(
    engine: EngineCommand,
    config: PipelineConfig,
    beside: dict[str, int],
    *arguments: str,
    look: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Run and watch.

    Args:
        beside: Process ids of what works beside the engine, by name.
        arguments: Further ones of `engine run`.
        look: Told the command's process id several times a second.

    Raises:
        ProtocolError: the run failed, or embedded something else.
    """
    others = {name: psutil.Process(pid) for name, pid in beside.items()}
    before = {name: _cpu_s(process) for name, process in others.items()}
    cores = MachineCpu.now()
    started = time.monotonic()
    peak_bytes = peak_hot_bytes = 0
    with engine.running("run", "--json", "--batch-size", str(config.batch_size), *arguments) as process:
        while process.poll() is None:
            peak_bytes = max(peak_bytes, _resident_bytes(process.pid))
            peak_hot_bytes = max(peak_hot_bytes, _bytes_below(engine.folder / "hot"))
            if look is not None:
                look(process.pid)
            time.sleep(_MEMORY_EVERY_S)
        wall_s = time.monotonic() - started
        answer, complaint = process.communicate()
    busy_share = cores.busy_share_since()
    cpu_beside = {
        name: round((_cpu_s(process) - before[name]) / config.n_documents * 1e6, 2) for name, process in others.items()
    }
    if process.returncode != 0:
        raise ProtocolError(f"the measured run ended with exit code {process.returncode}: {complaint[-2000:]}")
    summary: dict[str, Any] = json.loads(answer)
    if summary["embedded"] != config.n_documents:
        raise ProtocolError(f"the measured run embedded {summary['embedded']} of {config.n_documents} documents")
    cpu = summary["cpu_us_per_document"]
    return {
        "documents_per_second": round(config.n_documents / wall_s, 1),
        "wall_s": round(wall_s, 2),
        "seconds": summary["seconds"],
        "cpu_us_per_document": {**cpu, "engine": round(sum(cpu.values()), 2)},
        "cpu_us_per_document_beside": cpu_beside,
        "cores_busy_share": round(busy_share or 0.0, 3),
        "peak_resident_mib": peak_bytes >> 20,
        "peak_hot_mib": peak_hot_bytes >> 20,
        "peak_hot_bytes": peak_hot_bytes,
        "latency": summary["latency"],
        "bottleneck": summary["bottleneck"],
        "shards": summary["shards"],
        "bytes_per_row": round(summary["bytes"] / config.n_documents, 1),
    }


def _run_script(folder: Path, uri: str, urls: list[str], config: PipelineConfig) -> dict[str, Any]:
    limit = max(1000, config.n_documents // SCRIPT_SHARE)
    with MongoClient[dict[str, Any]](uri) as client:
        client[DATABASE][COLLECTION].update_many(
            {"_id": {"$gt": config.already_marked, "$lte": config.already_marked + limit}}, {"$unset": {DONE_FIELD: ""}}
        )
    figures = run_plain_script(
        uri, DATABASE, COLLECTION, DONE_FIELD, urls, folder / "plain", batch_size=config.batch_size, limit=limit
    )
    return {
        "documents": figures.documents,
        "documents_per_second": round(figures.documents / figures.seconds, 1),
        "cpu_us_per_document": round(figures.cpu_s / figures.documents * 1e6, 1),
    }


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # it went meanwhile
            total += path.stat().st_size
    return total


def _resident_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants; shared pages count in each of them."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            total += process.memory_info().rss
    except psutil.Error:
        return total
    return total


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _plain(config: PipelineConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__slots__ if name != "mongod"}


def as_text(figures: dict[str, Any]) -> str:
    """The figures as a table."""
    engine, config = figures["engine"], figures["config"]
    machine = ", ".join(f"{name} {value}" for name, value in figures["machine"].items())
    lines = [
        f"{config['n_documents']:,} documents of {config['dim']} dimensions, batch {config['batch_size']}, "
        f"{config['n_servers']} canned servers and mongod on the same machine ({machine})",
        f"{'stage':<12} {'us CPU per document':>20}",
    ]
    lines += [f"{name:<12} {value:>20.1f}" for name, value in engine["cpu_us_per_document"].items()]
    lines += [f"{name:<12} {value:>20.1f}" for name, value in engine["cpu_us_per_document_beside"].items()]
    lines += [
        f"cores        {engine['cores_busy_share']:>20.0%} busy with all of it",
        f"end to end   {engine['documents_per_second']:>20,.0f} documents/s, from the command's start to its end",
        f"memory       {engine['peak_resident_mib']:>20,} MiB resident at the peak, all processes",
        f"bottleneck: {engine['bottleneck']}",
    ]
    for kind, found in figures.get("files", {}).items():
        ratio = found["documents_per_second"] / engine["documents_per_second"]
        stages = ", ".join(f"{name} {value:.1f}" for name, value in found["cpu_us_per_document"].items())
        lines.append(
            f"from {kind:<8}{found['documents_per_second']:>19,.0f} documents/s, {ratio:.2f} times MongoDB's; us CPU "
            f"per document: {stages}; {found['peak_resident_mib']:,} MiB"
        )
    if script := figures.get("plain_script"):
        ratio = engine["documents_per_second"] / script["documents_per_second"]
        lines.append(
            f"plain script {script['documents_per_second']:>20,.0f} documents/s, "
            f"{script['cpu_us_per_document']:,.0f} us CPU per document ({script['documents']:,} documents); "
            f"the engine is {ratio:.1f} times as fast"
        )
    return "\n".join(lines)


def main() -> None:
    """Entry point of `python -m bench.measure.pipeline`."""
    usual = PipelineConfig()
    parser = argparse.ArgumentParser(description="Measure the engine's own ceiling on this machine.")
    parser.add_argument("--documents", type=int, default=usual.n_documents, help="in the work queue")
    parser.add_argument("--already-marked", type=int, default=0, help="further documents, marked before the start")
    parser.add_argument("--dim", type=int, default=usual.dim, help="numbers in a vector")
    parser.add_argument("--batch-size", type=int, default=usual.batch_size, help="texts of a request")
    parser.add_argument("--compare", action="store_true", help="run the plain script beside it")
    parser.add_argument("--files", action="append", default=[], help="also from files: parquet, jsonl; repeatable")
    parser.add_argument("--mongod", type=Path, help="a mongod binary")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    figures = measure(
        PipelineConfig(
            n_documents=given.documents,
            already_marked=given.already_marked,
            dim=given.dim,
            batch_size=given.batch_size,
            compare=given.compare,
            files=tuple(given.files),
            mongod=given.mongod,
        )
    )
    sys.stdout.write((json.dumps(figures) if given.json else as_text(figures)) + "\n")


if __name__ == "__main__":
    main()
