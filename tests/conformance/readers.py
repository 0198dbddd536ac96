"""The readers: each gives the rows of files as text, read in several ways.

The ways are `whole`; `splits`, one part of the file after the other, as those do who share a file among workers; and
`one`, the row in the middle, found by its id or its place. A reader leaves out a way that it does not have.
"""

from __future__ import annotations

import functools
import importlib
import subprocess
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from tests.conformance import builds, rows
from tests.conformance.kinds import Written

Ways = dict[str, list[str]]
Reader = Callable[[Sequence[Written]], dict[Path, Ways]]

SPLITS = 7
ID = "_id"


def _one_by_one(read: Callable[[Written], Ways]) -> Reader:
    """A reader of one file as a reader of many; a file that it refuses has the refusal for its rows."""

    @functools.wraps(read)
    def every(files: Sequence[Written]) -> dict[Path, Ways]:
        found: dict[Path, Ways] = {}
        for file in files:
            try:
                found[file.path] = read(file)
            except builds.Unavailable:
                raise
            except BaseException as error:  # whatever it is, a panic in Rust too, it is this file's result
                if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                    raise
                found[file.path] = {"whole": [f"! {type(error).__name__}: {error}"]}
        return found

    return every


@_one_by_one
def pyarrow(file: Written) -> Ways:
    """pyarrow, every page checksum compared; `splits` are row groups."""
    with pq.ParquetFile(file.path, page_checksum_verification=True) as parquet:
        groups = [parquet.read_row_group(number) for number in range(parquet.num_row_groups)]
        whole = parquet.read()
    wanted = pc.field(ID) == pa.scalar(_middle(file), whole.schema.field(ID).type)
    return {
        "whole": _of_arrow(file, whole),
        "splits": [line for group in groups for line in _of_arrow(file, group)],
        "one": _of_arrow(file, ds.dataset(file.path).to_table(filter=wanted)),
    }


@_one_by_one
def duckdb(file: Written) -> Ways:
    """DuckDB, by SQL."""
    stamps = [f'epoch_us("{name}") AS "{name}"' for name, kind in file.kinds.items() if kind == "timestamp"]
    replace = f" REPLACE ({', '.join(stamps)})" if stamps else ""  # DuckDB 1 wants pytz to give them as datetimes
    query, names = f"SELECT *{replace} FROM read_parquet($path)", {"path": str(file.path)}
    with _library("duckdb").connect() as connection:
        return {
            "whole": _of_duckdb(file, connection.execute(query, names)),
            "one": _of_duckdb(file, connection.execute(f"{query} WHERE _id = $id", {**names, "id": _middle(file)})),
        }


@_one_by_one
def polars(file: Written) -> Ways:
    """polars, lazily; `splits` are slices."""
    library = _library("polars")
    lazy, step = library.scan_parquet(file.path, glob=False), len(file.lines) // SPLITS + 1
    slices = [lazy.slice(start, step).collect() for start in range(0, len(file.lines), step)]
    return {
        "whole": _of_polars(file, lazy.collect()),
        "splits": [line for frame in slices for line in _of_polars(file, frame)],
        "one": _of_polars(file, lazy.filter(library.col(ID) == library.lit(_middle(file))).collect()),
    }


def parquet_java(files: Sequence[Written]) -> dict[Path, Ways]:
    """parquet-java, without Spark; `splits` are ranges of bytes, as Spark gives them to its tasks."""
    return _of_program([*builds.java_command(), str(SPLITS)], files)


def arrow_rs(files: Sequence[Written]) -> dict[Path, Ways]:
    """arrow-rs, with the page index where there is one; `splits` are row groups."""
    return _of_program(builds.rust_command(), files)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise builds.Unavailable("the extra `reading` is not installed") from error


def _middle(file: Written) -> Any:
    return file.ids[len(file.ids) // 2]


def _of_arrow(file: Written, table: pa.Table) -> list[str]:
    vectors = table[rows.VECTOR].combine_chunks()
    assert vectors.null_count == 0 and pa.types.is_fixed_size_list(vectors.type)
    columns = {name: table[name].to_pylist() for name in table.column_names if name != rows.VECTOR}
    return _lines(file, columns, vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1))


def _of_polars(file: Written, frame: Any) -> list[str]:
    columns = {name: frame[name].to_list() for name in frame.columns if name != rows.VECTOR}
    return _lines(file, columns, np.array(frame[rows.VECTOR].to_list(), dtype=file.vector_type))


def _of_duckdb(file: Written, result: Any) -> list[str]:
    names = [name for name, *_ in result.description]
    columns = dict(zip(names, zip(*result.fetchall(), strict=True), strict=True))
    for name in (name for name, kind in file.kinds.items() if kind == "timestamp"):
        columns[name] = [
            None if micros is None else rows.UTC_EPOCH + timedelta(microseconds=micros) for micros in columns[name]
        ]
    vectors = np.array(columns.pop(rows.VECTOR), dtype=np.float64)
    exact = vectors.astype(file.vector_type)
    assert (exact.astype(np.float64) == vectors).all(), "numbers that are no float of the file's width"
    return _lines(file, columns, exact)


def _lines(file: Written, columns: dict[str, Any], vectors: Any) -> list[str]:
    assert str(vectors.dtype) == file.vector_type
    return rows.lines({name: (file.kinds.get(name, ""), values) for name, values in columns.items()}, vectors)


def _of_program(command: list[str], files: Sequence[Written]) -> dict[Path, Ways]:
    """The rows that a program prints: `# way path`, then its rows, or `! ` and what went wrong."""
    done = subprocess.run(
        [*command, *(str(file.path) for file in files)], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    found: dict[Path, Ways] = {}
    for line in done.stdout.decode("ascii").splitlines():
        if line.startswith("# "):
            _, way, path = line.split(" ", 2)
            current = found.setdefault(Path(path), {}).setdefault(way, [])
        else:
            current.append(line)
    return found
