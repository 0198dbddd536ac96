"""Files as a source: beside other programs, and whether memory and hot space grow with the documents.

    python -m bench.measure.sources --beside ray-data,daft --python VENV/bin/python
    python -m bench.measure.sources --grow --documents 100000      # and ten times as many

`--beside`: the same Parquet files, the same canned servers, the same vectors (768 float32 in base64) to Parquet, one
program after the other in one call. The others run in an environment of their own, which this does not make:

    python -m venv VENV && VENV/bin/pip install 'ray[data]' daft requests orjson

Each does as its documentation says: batches to a pool of workers, four requests of each at a time, over kept
connections. `bench/measure/beside/` has all of it. Both the whole command and the work without the start are timed.

`--grow`: the peak of each process's private memory and of the hot folder, and the reader's CPU, for some documents and
for ten times as many: Parquet and JSONL in a folder, and Parquet on a store that takes the shards, too (moto's server).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from bench.measure.pipeline import PipelineConfig, machine, run_engine, write_files
from bench.parts.engine_command import EngineCommand
from bench.parts.s3_server import CREDENTIALS, S3Server
from bench.standin import StandinConfig, StandinFleet
from engine.errors import ConfigError, ProtocolError

FILES = 16
SHARD_SECONDS = "3"
"""So that a short run seals as many shards a minute as a long one."""

OTHERS = {"ray-data": "ray_data.py", "daft": "daft_frames.py"}
GUARANTEES = {
    "engine": "every row once, or in quarantine with a reason; checked vectors, fsynced shards; after kill -9 the same "
    "command goes on with the rows that are missing",
    "ray-data": "tasks of a live run are tried again; a run that dies begins anew (checkpoints by an id column are in "
    "beta and read every row again)",
    "daft": "none for a run that dies on one machine: it begins anew (checkpoints need the Ray runner)",
}
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_gcs_server_request_timeout_seconds": "300",  # on a busy machine its own start takes longer than it waits
    "DO_NOT_TRACK": "true",
    "DAFT_PROGRESS_BAR": "0",
}
BUCKET = "bench"
KINDS = {"folder": ("parquet", False), "jsonl": ("jsonl", False), "store": ("parquet", True)}
"""What is run for `--grow`: the format of the files, and whether they and the shards are on a store."""


def measure_beside(n_documents: int, others: tuple[str, ...], interpreter: str, dim: int = 768) -> dict[str, Any]:
    """Run the engine and other programs over the same files, one after the other.

    Raises:
        ConfigError: a program is unknown or not installed there.
        ProtocolError: one did not embed every row.
    """
    if unknown := set(others) - OTHERS.keys():
        raise ConfigError(f"--beside is {', '.join(sorted(unknown))}; allowed is {', '.join(OTHERS)}")
    config = PipelineConfig(n_documents=n_documents, dim=dim)
    found: dict[str, Any] = {"machine": machine(), "documents": n_documents, "dim": dim, "programs": {}}
    with (
        tempfile.TemporaryDirectory(prefix="engine-bench-") as name,
        StandinFleet(StandinConfig(backend="canned", ports=(0,) * config.n_servers, dim=dim)) as fleet,
    ):
        folder = Path(name)
        source = folder / "documents"
        write_files(source, "parquet", n_documents, -(-n_documents // FILES))
        ran = run_engine(_command(folder, fleet.urls), config, {}, "--source", str(source))
        found["programs"]["engine"] = {"wall_s": ran["wall_s"], "seconds": ran["seconds"]}
        for other in others:
            out = folder / other
            job = {"source": str(source), "out": str(out), "urls": list(fleet.urls), "batch_size": 32, "dim": dim}
            found["programs"][other] = run_other(other, interpreter, job)
            rows = sum(pq.read_metadata(path).num_rows for path in out.rglob("*.parquet"))
            if rows != n_documents:
                raise ProtocolError(f"{other} wrote {rows} of {n_documents} rows")
            shutil.rmtree(out)
    for ran in found["programs"].values():
        ran["rows_per_second"] = round(n_documents / ran["wall_s"], 1)
        ran["rows_per_second_without_start"] = round(n_documents / ran["seconds"], 1)
    return found


def run_other(other: str, interpreter: str, job: dict[str, Any]) -> dict[str, Any]:
    """Run another program to its end.

    Raises:
        ConfigError: it is not installed there.
        ProtocolError: it failed.
    """
    script = Path(__file__).parent / "beside" / OTHERS[other]
    began = time.monotonic()
    ended = subprocess.run(
        [interpreter, str(script), json.dumps(job)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **QUIET},
    )
    wall_s = time.monotonic() - began
    if ended.returncode and "ModuleNotFoundError" in ended.stderr:
        raise ConfigError(
            f"{interpreter} does not have what {other} needs ({ended.stderr.splitlines()[-1]}): "
            "pip install 'ray[data]' daft requests orjson there, and name it with --python"
        )
    if ended.returncode:
        raise ProtocolError(f"{other} ended with exit code {ended.returncode}: {ended.stderr[-2000:]}")
    said = next(line for line in reversed(ended.stdout.splitlines()) if line.startswith("{"))
    return {"wall_s": round(wall_s, 2), **json.loads(said)}


def measure_growth(n_documents: int, factor: int = 10, dim: int = 64) -> dict[str, Any]:
    """Peak memory and hot space of runs over some files and over `factor` times as many documents.

    Raises:
        EngineError: a part could not be started, or a run failed.
    """
    found: dict[str, Any] = {"machine": machine(), "dim": dim, "runs": []}
    with (
        tempfile.TemporaryDirectory(prefix="engine-bench-") as name,
        StandinFleet(StandinConfig(backend="canned", ports=(0, 0), dim=dim)) as fleet,
    ):
        for count in (n_documents, factor * n_documents):
            for kind, (form, is_remote) in KINDS.items():
                source = Path(name) / f"{kind}-{count}"
                write_files(source, form, count)
                folder = Path(name) / "run"
                command, config = _command(folder, fleet.urls), PipelineConfig(n_documents=count, dim=dim)
                peaks: dict[str, int] = {}
                with _places(source, is_remote) as options:
                    ran = run_engine(
                        command,
                        config,
                        {},
                        *("--shard-seconds", SHARD_SECONDS, *options),
                        look=lambda pid, peaks=peaks: _note_private(pid, peaks),  # type: ignore[misc]
                    )
                shutil.rmtree(folder)
                shutil.rmtree(source)
                figures = {
                    "documents": count,
                    "kind": kind,
                    "private_mib": {role: size >> 20 for role, size in sorted(peaks.items())},
                    "hot_bytes": ran["peak_hot_bytes"],
                    "shards": ran["shards"],
                    "documents_per_second": ran["documents_per_second"],
                    "cpu_us_per_document": ran["cpu_us_per_document"],
                }
                found["runs"].append(figures)
                sys.stderr.write(json.dumps(figures) + "\n")
    return found


@contextlib.contextmanager
def _places(source: Path, is_remote: bool) -> Iterator[list[str]]:
    """The options that say where documents come from and shards go: folders, or a store that has both."""
    if not is_remote:
        yield ["--source", str(source)]
        return
    with S3Server() as s3:
        s3.make_bucket(BUCKET)
        for path in source.iterdir():
            s3.put(BUCKET, f"{source.name}/{path.name}", path.read_bytes())
        places = ["--source", f"s3://{BUCKET}/{source.name}", "--cold-dir", f"s3://{BUCKET}/cold"]
        yield [*places, "--cold-endpoint", s3.endpoint]


def _note_private(pid: int, peaks: dict[str, int]) -> None:
    """Raise the peaks of the private memory of a run's processes, by role."""
    with contextlib.suppress(psutil.Error):
        supervisor = psutil.Process(pid)
        for process in [supervisor, *supervisor.children()]:
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                is_child = len(command) > 3 and "engine.supervision.worker" in command[2]
                role = command[3] if is_child else "supervisor"
                peaks[role] = max(peaks.get(role, 0), process.memory_full_info().uss)


def _command(folder: Path, urls: tuple[str, ...]) -> EngineCommand:
    return EngineCommand(
        uri="mongodb://127.0.0.1:1",  # not asked
        database="bench",
        collection="tweets",
        done_field="embedded_bench",
        urls=urls,
        folder=folder,
    )


def beside_as_text(found: dict[str, Any]) -> str:
    """The programs as a table."""
    lines = [
        f"{found['documents']:,} rows of {found['dim']} dimensions in {FILES} Parquet files, four canned servers, "
        f"batches of 32 ({', '.join(f'{name} {value}' for name, value in found['machine'].items())})",
        f"{'':<18} {'rows/s':>10} {'without start':>14}",
    ]
    for name, ran in found["programs"].items():
        label = f"{name} {ran.get('version', '')}".strip()
        lines.append(f"{label:<18} {ran['rows_per_second']:>10,.0f} {ran['rows_per_second_without_start']:>14,.0f}")
    lines += [f"{name}: {GUARANTEES[name]}" for name in found["programs"]]
    return "\n".join(lines)


def growth_as_text(found: dict[str, Any]) -> str:
    """The runs as a table: peaks of private memory in MiB, and of the hot folder."""
    roles = list(found["runs"][0]["private_mib"])
    heads = "".join(f"{role:>12}" for role in roles)
    lines = [f"{'documents':>10} {'kind':<8}{heads}{'hot':>16}{'shards':>8}{'reader':>12}{'engine':>12}"]
    for ran in found["runs"]:
        memory = "".join(f"{ran['private_mib'].get(role, 0):>8} MiB" for role in roles)
        cpu = ran["cpu_us_per_document"]
        lines.append(
            f"{ran['documents']:>10,} {ran['kind']:<8}{memory}{ran['hot_bytes']:>10,} bytes{ran['shards']:>8}"
            f"{cpu['reader']:>9.1f} us{cpu['engine']:>9.1f} us"
        )
    return "\n".join(lines)


def main() -> None:
    """Entry point of `python -m bench.measure.sources`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--documents", type=int, default=100_000, help="rows of the files")
    parser.add_argument("--beside", help="other programs, comma-separated: ray-data, daft")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has them")
    parser.add_argument("--grow", action="store_true", help="memory and hot space, also at ten times the documents")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    os.environ.update(CREDENTIALS)
    if given.grow:
        found = measure_growth(given.documents)
        text = growth_as_text(found)
    else:
        others = tuple(given.beside.split(",")) if given.beside else ()
        found = measure_beside(given.documents, others, given.python)
        text = beside_as_text(found)
    sys.stdout.write((json.dumps(found) if given.json else text) + "\n")


if __name__ == "__main__":
    main()
