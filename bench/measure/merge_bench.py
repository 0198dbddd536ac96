"""How fast `engine merge` and `engine verify` are, beside polars and DuckDB over the same files, in one run.

    python -m bench.measure.merge_bench             # 4,000 files of 32 rows and 16 files of 16,384, all three programs
    python -m bench.measure.merge_bench --scale 10  # ten times the files: the memory must stay the same
    python -m bench.measure.merge_bench --sort-rows 2000000 # shuffled ids, sorted by `_id`
    python -m bench.measure.merge_bench --parts     # what a row costs, piece by piece
    python -m bench.measure.merge_bench --others "polars==1.33.1 duckdb==1.3.2"   # beside these versions of them

polars and DuckDB are not parts of the engine: where they are not installed, or other versions are asked for, they are
put into a temporary virtual environment (`--no-others` leaves them out). Every program runs in a process of its own,
and its clock starts when it has imported what it needs: of the engine the coordinator, not the workers, whose start
counts. polars and DuckDB are asked for zstd and are otherwise as they come (another level changes little). They do not
fsync, the engine does. Memory is the highest sum of the resident sets of that process and its children, sampled every
20 ms. CPU is theirs too, from the first import to the end: on a machine that is not idle it says more than rates do;
"whole s" is the wall clock of the whole process, imports included, for all programs alike. The files are as older
pipelines left them (pyarrow's defaults: snappy, dictionary, `list<float>`) and, under "shards", as `engine run` writes
them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from engine.memory.ids import IdType
from writers.shards.schema import KEY_VERSION, ShardSchema, writer_options

DIM = 768
_SAMPLE_S = 0.02

MERGE = """
import json, sys
from pathlib import Path
import writers.merge.run
from writers.merge.merge import merge
from writers.merge.config import MergeConfig
source, target, jobs, sort = sys.argv[1:5]
report = merge(MergeConfig(source=Path(source), target=Path(target), jobs=int(jobs), sort=sort))
print(json.dumps({"rows": report.rows, "seconds": report.seconds}))
"""
VERIFY = """
import json, sys
from pathlib import Path
from writers.verify.verify import verify
from writers.verify.config import VerifyConfig
report = verify(VerifyConfig.of_folder(Path(sys.argv[1]), level=int(sys.argv[2]), jobs=int(sys.argv[3])))
assert report.ok, report.findings
print(json.dumps({"rows": report.rows, "seconds": report.seconds, "bytes": report.bytes}))
"""
POLARS = """
import json, sys, time
import polars
files, out = sys.argv[1:3]
start = time.perf_counter()
polars.scan_parquet(files).sink_parquet(out, compression="zstd")
print(json.dumps({"seconds": time.perf_counter() - start, "version": polars.__version__}))
"""
DUCKDB = """
import json, sys, time
import duckdb
files, out, jobs = sys.argv[1:4]
start = time.perf_counter()
duckdb.execute(f"SET threads = {jobs}")
duckdb.execute(f"COPY (SELECT * FROM read_parquet('{files}')) TO '{out}' (FORMAT parquet, COMPRESSION zstd)")
print(json.dumps({"seconds": time.perf_counter() - start, "version": duckdb.__version__}))
"""
OTHERS = {"polars": ("polars", POLARS), "duckdb": ("DuckDB", DUCKDB)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One program over one set of files."""

    program: str
    files: str
    rows: int
    seconds: float
    whole_s: float
    cpu_s: float
    bytes: int
    peak_bytes: int

    @property
    def rows_per_s(self) -> float:
        """Rows through it each second."""
        return self.rows / self.seconds


def unit_vectors(random: np.random.Generator, n_rows: int) -> Any:
    """float32 (n_rows, DIM) of length 1."""
    matrix = random.standard_normal((n_rows, DIM), dtype=np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def make_files(folder: Path, n_files: int, n_rows: int, kind: str, first_id: int = 0) -> None:
    """Files of random unit vectors with shuffled ids: `foreign` as pyarrow's defaults make them, or `shards`."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(n_rows)
    ids = random.permutation(n_files * n_rows).astype(np.int64) + first_id
    schema = ShardSchema(id_type=IdType.INT64, columns=(), dim=DIM, vector_type="float32").arrow()
    for number in range(n_files):
        flat = pa.array(unit_vectors(random, n_rows).reshape(-1))
        mine = pa.array(ids[number * n_rows : (number + 1) * n_rows])
        path = folder / f"{kind}-{n_rows}-{number:06d}.parquet"
        if kind == "foreign":
            offsets = pa.array(np.arange(n_rows + 1, dtype=np.int32) * DIM)
            pq.write_table(pa.table({"_id": mine, "embedding": pa.ListArray.from_arrays(offsets, flat)}), path)
        else:
            vectors = pa.FixedSizeListArray.from_arrays(flat, type=schema.field("embedding").type)
            table = pa.Table.from_arrays([mine, vectors], schema=schema.with_metadata({KEY_VERSION: b"bench"}))
            pq.write_table(table, path, row_group_size=8192, **writer_options(schema))


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(python: str, code: str, *arguments: str) -> tuple[dict[str, Any], int, float]:
    """Run code in a process of its own; what it printed as JSON, its peak memory and its CPU with its children's.

    To what it printed the seconds of the whole process are added, as `whole_s`.
    """
    os.sync()  # what was written before must not be on its way to the device while this is measured
    cpu_before_s, started = _children_cpu_s(), time.perf_counter()
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen([python, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, env=environment)
    peak = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        watched = psutil.Process(process.pid)
        while not ended.wait(_SAMPLE_S):
            try:
                family = [watched, *watched.children(recursive=True)]
                peak = max(peak, sum(member.memory_info().rss for member in family))
            except psutil.Error:
                continue  # one of them has just ended

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    out, _ = process.communicate()
    whole_s = time.perf_counter() - started
    ended.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"a measured program failed with code {process.returncode}")
    return {**json.loads(out.splitlines()[-1]), "whole_s": whole_s}, peak, _children_cpu_s() - cpu_before_s


def measure_merge(files: str, source: Path, work: Path, jobs: int, sort: str = "none") -> Measured:
    """`engine merge` over one folder."""
    target = work / "target"
    shutil.rmtree(target, ignore_errors=True)
    said, peak, cpu_s = run(sys.executable, MERGE, str(source), str(target), str(jobs), sort)
    size = sum(path.stat().st_size for path in target.glob("*.parquet"))
    return Measured(
        program=f"engine merge --jobs {jobs}" + (f" --sort {sort}" if sort != "none" else ""),
        files=files,
        rows=said["rows"],
        seconds=said["seconds"],
        whole_s=said["whole_s"],
        cpu_s=cpu_s,
        bytes=size,
        peak_bytes=peak,
    )


def measure_other(name: str, code: str, python: str, files: str, source: Path, work: Path, rows: int) -> Measured:
    """polars or DuckDB over the same folder."""
    out = work / "other.parquet"
    out.unlink(missing_ok=True)
    said, peak, cpu_s = run(python, code, f"{source}/*.parquet", str(out), "2")
    measured = Measured(
        program=f"{name} {said['version']}",
        files=files,
        rows=rows,
        seconds=said["seconds"],
        whole_s=said["whole_s"],
        cpu_s=cpu_s,
        bytes=out.stat().st_size,
        peak_bytes=peak,
    )
    out.unlink()
    return measured


@contextmanager
def other_python(packages: list[str]) -> Iterator[str | None]:
    """A Python that has these packages: this one, when any version will do, or one in a temporary environment."""
    if not packages:
        yield None
        return
    probe = [sys.executable, "-c", f"import {', '.join(packages)}"]
    if all(map(str.isidentifier, packages)) and not subprocess.run(probe, check=False, capture_output=True).returncode:
        yield sys.executable
        return
    with tempfile.TemporaryDirectory(prefix="merge-bench-venv-") as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        yield python


def compare(
    work: Path, scale: int, jobs: int, packages: list[str], chosen: list[str], say: Callable[[str], None]
) -> None:
    """Merge small and large files with all programs, and verify the outcome."""
    small, large = (4000 * scale, 32), (16 * scale, 16_384)
    sets = {
        "small": ("4,000 x 32", [(*small, "foreign")]),
        "large": ("16 x 16,384", [(*large, "foreign")]),
        "both": ("both", [(*small, "foreign"), (*large, "foreign")]),
        "shards": ("both, shards", [(*small, "shards"), (*large, "shards")]),
        "small-shards": ("4,000 x 32, shards", [(*small, "shards")]),
        "large-shards": ("16 x 16,384, shards", [(*large, "shards")]),
    }
    say(
        f"{'files':<22}{'program':<26}{'rows/s':>10}{'whole s':>9}{'us CPU/row':>12}{'bytes/row':>11}{'peak MiB':>10}"
        f"{'engine is':>11}{'by CPU':>8}"
    )
    with other_python(packages) as python:
        for wanted in chosen:
            name, parts = sets[wanted]
            label = name if scale == 1 else f"{name} x{scale}"
            source = work / "source"
            shutil.rmtree(source, ignore_errors=True)
            first_id = 0
            for n_files, n_rows, kind in parts:
                make_files(source, n_files, n_rows, kind, first_id)
                first_id += n_files * n_rows
            mine = measure_merge(label, source, work, jobs)
            say(_line(mine, None))
            for package in packages:
                assert python is not None  # there are packages
                other, code = OTHERS[package.partition("==")[0]]
                say(_line(measure_other(other, code, python, label, source, work, mine.rows), mine))
    for level in (0, 3):
        said, peak, cpu_s = run(sys.executable, VERIFY, str(work / "target"), str(level), str(jobs))
        rate, speed = said["rows"] / said["seconds"], said["bytes"] / said["seconds"] / 1e9
        program = f"engine verify --level {level}"
        say(
            f"{'its output':<22}{program:<26}{rate:>10,.0f}{said['whole_s']:>9.2f}"
            f"{cpu_s * 1e6 / said['rows']:>12.1f}{'':>11}{peak / 2**20:>10,.0f}   {speed:.2f} GB/s"
        )


def _line(measured: Measured, engine: Measured | None) -> str:
    line = (
        f"{measured.files:<22}{measured.program:<26}{measured.rows_per_s:>10,.0f}{measured.whole_s:>9.2f}"
        f"{measured.cpu_s * 1e6 / measured.rows:>12.1f}"
        f"{measured.bytes / measured.rows:>11,.0f}{measured.peak_bytes / 2**20:>10,.0f}"
    )
    if engine is None:
        return line
    return f"{line}{engine.rows_per_s / measured.rows_per_s:>9.1f} x{measured.cpu_s / engine.cpu_s:>6.1f} x"


def sort(work: Path, n_rows: int, jobs: int, say: Callable[[str], None]) -> None:
    """Sort shuffled rows by id."""
    per_file = 16_384
    make_files(work / "source", max(1, n_rows // per_file), per_file, "shards")
    say(f"{'files':<22}{'program':<36}{'rows/s':>10}{'bytes/row':>11}{'peak MiB':>10}")
    measured = measure_merge(f"{n_rows:,} shuffled", work / "source", work, jobs, "_id")
    rate, size, peak = measured.rows_per_s, measured.bytes / measured.rows, measured.peak_bytes / 2**20
    say(f"{measured.files:<22}{measured.program:<36}{rate:>10,.0f}{size:>11,.0f}{peak:>10,.0f}")


def parts(say: Callable[[str], None]) -> None:
    """What one row costs in the steps of a merge, each alone."""
    from writers.proof.digests import RowHasher  # noqa: PLC0415 - the other modes do not need these

    schema = ShardSchema(id_type=IdType.INT64, columns=(), dim=DIM, vector_type="float32").arrow()
    n_rows, block = 8192, 341
    matrix = unit_vectors(np.random.default_rng(1), n_rows)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), type=schema.field("embedding").type)
    column = pa.chunked_array([vectors.slice(start, block) for start in range(0, n_rows, block)])
    table = pa.Table.from_arrays([pa.array(np.arange(n_rows)), column], schema=schema)
    hasher = RowHasher(DIM, 4)

    def write() -> pa.BufferOutputStream:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, row_group_size=n_rows, **writer_options(schema))
        return sink

    written = write().getvalue()

    def read() -> None:
        file = pq.ParquetFile(pa.BufferReader(written), pre_buffer=False, page_checksum_verification=True)
        for _ in file.iter_batches(block, use_threads=False):
            pass

    pieces: dict[str, Callable[[], object]] = {
        "hash of the vectors": lambda: hasher.vector_hashes(matrix),
        "SHA-256": lambda: hashlib.sha256(written).digest(),
        "pyarrow writes": write,
        "pyarrow reads": read,
    }
    say(f"{'one row of 768 float32':<26}{'us':>8}")
    for name, piece in pieces.items():
        say(f"{name:<26}{_best_us(piece, 1) / n_rows:>8.2f}")
    _parts_of_a_file(say)


def _parts_of_a_file(say: Callable[[str], None]) -> None:
    """What one small foreign file costs in memory; a merge opens it twice, for its ids and for its rows."""
    with tempfile.TemporaryDirectory(prefix="merge-bench-") as folder:
        make_files(Path(folder), 1, 32, "foreign")
        data = next(Path(folder).iterdir()).read_bytes()

    def opened() -> pq.ParquetFile:
        return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False, page_checksum_verification=True)

    pieces: dict[str, Callable[[], object]] = {
        "SHA-256": lambda: hashlib.sha256(data).digest(),
        "opened": opened,
        "opened, ids read": lambda: list(opened().iter_batches(columns=["_id"], use_threads=False)),
        "opened, all rows read": lambda: opened().read(use_threads=False),
    }
    say(f"{'one file of 32 rows':<26}{'us':>8}")
    for name, piece in pieces.items():
        say(f"{name:<26}{_best_us(piece, 100):>8.1f}")


def _best_us(piece: Callable[[], object], times: int) -> float:
    """Microseconds of CPU of one call, in the best of five turns."""
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        for _ in range(times):
            piece()
        best = min(best, time.process_time() - start)
    return best * 1e6 / times


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.measure.merge_bench", description=(__doc__ or "").split("\n", 1)[0]
    )
    parser.add_argument("--scale", type=int, default=1, help="times as many files")
    parser.add_argument(
        "--sets",
        default="small,large,both,small-shards,large-shards,shards",
        help="of small, large and both (foreign), small-shards, large-shards and shards",
    )
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    parser.add_argument("--others", default="polars duckdb", help="polars, duckdb or both, perhaps ==VERSION")
    parser.add_argument("--no-others", action="store_true", help="leave out polars and DuckDB")
    parser.add_argument("--sort-rows", type=int, default=0, help="sort that many shuffled rows instead")
    parser.add_argument("--parts", action="store_true", help="measure the pieces instead")
    parser.add_argument("--folder", type=Path, help="where the files go (default: the system's temporary folder)")
    arguments = parser.parse_args()

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    cores = len(os.sched_getaffinity(0))
    say(f"{cores} cores, {platform.machine()}, Python {platform.python_version()}, pyarrow {pa.__version__}")
    if arguments.parts:
        parts(say)
        return
    with tempfile.TemporaryDirectory(prefix="merge-bench-", dir=arguments.folder) as folder:
        if arguments.sort_rows:
            sort(Path(folder), arguments.sort_rows, arguments.jobs, say)
        else:
            others = [] if arguments.no_others else arguments.others.split()
            compare(Path(folder), arguments.scale, arguments.jobs, others, arguments.sets.split(","), say)


if __name__ == "__main__":
    main()
