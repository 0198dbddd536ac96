"""What a cold store costs beside a local folder: the same queue, in turns, to a folder and to an S3 server.

    python -m bench.measure.cold_store --documents 100000 --rounds 3
    python -m bench.measure.cold_store --rounds 0     # an upload alone

Everything shares the machine's cores; the S3 server (moto's, in Python) is not counted. Of each kind the least CPU of
all rounds is compared, because what else the machine does only adds to it. Canned servers repeat their vectors, which
compress well; what an upload costs is therefore measured by itself too, for rows of the usual size.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.measure.pipeline import COLLECTION, DATABASE, PipelineConfig, load, machine, make_indexes, run_engine
from bench.parts.engine_command import EngineCommand
from bench.parts.local_mongod import LocalMongod
from bench.parts.s3_server import CREDENTIALS, S3Server
from bench.standin import StandinConfig, StandinFleet
from engine.objects.object_store import ObjectStore
from engine.objects.url import ColdUrl
from writers.cold.upload import upload

BUCKET = "bench"
SHARD_BYTES = "32MiB"
"""Small, so that a short run seals as many as a long one does by default."""


ROW_BYTES = 2650
"""Of 768 real float32 numbers as a shard has them."""
UPLOAD_BYTES = 64 << 20


def measure_upload() -> float:
    """CPU of this process for uploading and comparing one row of `ROW_BYTES`, in us: the least of five files."""
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as name, S3Server() as s3:
        s3.make_bucket(BUCKET)
        data = os.urandom(UPLOAD_BYTES)
        path, sha256 = Path(name) / "shard.parquet", hashlib.sha256(data).hexdigest()
        path.write_bytes(data)
        store = ObjectStore(ColdUrl(url=f"s3://{BUCKET}/upload", endpoint=s3.endpoint), "data")
        spent = []
        for number in range(6):  # the first opens the connection
            started = time.process_time()
            upload(store, f"shards/{number}.parquet", path, sha256, by_e_tag=True, budget_s=60.0)
            spent.append(time.process_time() - started)
    return min(spent[1:]) / UPLOAD_BYTES * ROW_BYTES * 1e6


def measure(config: PipelineConfig, rounds: int) -> dict[str, Any]:
    """Run the queue to a folder and to a store, in turns.

    Raises:
        EngineError: a part could not be started, or a run failed.
    """
    servers = StandinConfig(backend="canned", ports=(0,) * config.n_servers, dim=config.dim)
    found: dict[str, list[dict[str, Any]]] = {"folder": [], "store": []}
    with (
        tempfile.TemporaryDirectory(prefix="engine-bench-") as name,
        LocalMongod(Path(name) / "mongod", mongod=config.mongod) as mongod,
        StandinFleet(servers) as fleet,
    ):
        load(mongod.uri, config)
        for number in range(rounds):
            for kind in ("folder", "store"):
                folder = Path(name) / f"{kind}-{number}"
                command = EngineCommand(
                    uri=mongod.uri,
                    database=DATABASE,
                    collection=COLLECTION,
                    done_field=f"embedded_{kind}_{number}",
                    urls=fleet.urls,
                    folder=folder,
                )
                make_indexes(command)
                beside = {"mongod": mongod.pid, "servers": fleet.pid}
                arguments = ["--shard-bytes", SHARD_BYTES]
                if kind == "folder":
                    found[kind].append(run_engine(command, config, beside, *arguments))
                else:
                    with S3Server() as s3:
                        s3.make_bucket(BUCKET)
                        cold = ["--cold-dir", f"s3://{BUCKET}/data", "--cold-endpoint", s3.endpoint]
                        found[kind].append(run_engine(command, config, {**beside, "s3": s3.pid}, *arguments, *cold))
                shutil.rmtree(folder)
    least = {kind: min(runs, key=lambda run: run["cpu_us_per_document"]["engine"]) for kind, runs in found.items()}
    return {
        "machine": machine(),
        "documents": config.n_documents,
        "dim": config.dim,
        "rounds": rounds,
        **least,
        "more_us_per_document": round(
            least["store"]["cpu_us_per_document"]["engine"] - least["folder"]["cpu_us_per_document"]["engine"], 2
        ),
        "all": {kind: [run["cpu_us_per_document"]["engine"] for run in runs] for kind, runs in found.items()},
    }


def as_text(figures: dict[str, Any]) -> str:
    """The figures as a table."""
    machine_ = ", ".join(f"{name} {value}" for name, value in figures["machine"].items())
    lines = [
        f"{figures['documents']:,} documents of {figures['dim']} dimensions, least of {figures['rounds']} ({machine_})",
        f"{'us CPU per document':<24} {'folder':>10} {'store':>10}",
    ]
    folder, store = figures["folder"], figures["store"]
    for name in folder["cpu_us_per_document"]:
        lines.append(
            f"{name:<24} {folder['cpu_us_per_document'][name]:>10.1f} {store['cpu_us_per_document'][name]:>10.1f}"
        )
    for name, label in (("peak_resident_mib", "MiB resident, peak"), ("peak_hot_mib", "MiB on hot, peak")):
        lines.append(f"{label:<24} {folder[name]:>10,} {store[name]:>10,}")
    lines.append(
        f"{'documents/s':<24} {folder['documents_per_second']:>10,.0f} {store['documents_per_second']:>10,.0f}"
    )
    lines.append(f"a store costs {figures['more_us_per_document']:.1f} us CPU a document more than a folder")
    return "\n".join(lines)


def main() -> None:
    """Entry point of `python -m bench.measure.cold_store`."""
    parser = argparse.ArgumentParser(description="Measure what a cold store costs beside a local folder.")
    parser.add_argument("--documents", type=int, default=100_000, help="in the work queue")
    parser.add_argument("--dim", type=int, default=768, help="numbers in a vector")
    parser.add_argument("--rounds", type=int, default=3, help="of each kind")
    parser.add_argument("--mongod", type=Path, help="a mongod binary")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    os.environ.update(CREDENTIALS)
    us = measure_upload()
    sys.stderr.write(f"an upload costs {us:.2f} us CPU for {ROW_BYTES:,} bytes, a row of 768 float32\n")
    if not given.rounds:
        return
    config = PipelineConfig(n_documents=given.documents, dim=given.dim, mongod=given.mongod)
    figures = measure(config, given.rounds)
    sys.stdout.write((json.dumps(figures) if given.json else as_text(figures)) + "\n")


if __name__ == "__main__":
    main()
