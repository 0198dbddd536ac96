"""Planning a merge: what there is, whether it fits together, which ids meet, which inputs make one output.

Everything that can be refused is refused here, before a byte of output is written: every footer is read and compared,
every id is read and sought among all others (writers/proof/id_spill.py), the outputs of earlier merges included. The
plan is made durable with its groups, so that a merge that was killed continues with the same groups, whatever has come
since.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from engine.errors import ConfigError, DamageError, EngineError, FingerprintMismatch
from engine.ledger.log import Record, RunState
from engine.memory.channels import Message
from writers.merge.config import MergeConfig
from writers.merge.ledger import MergeState, PlannedInput, read_group, write_durable_lines
from writers.merge.planning.drops import Drops, write_drops
from writers.merge.planning.duplicates import settle_duplicates
from writers.merge.planning.earlier import earlier_inputs, without_earlier
from writers.merge.planning.listing import CHUNK_INPUTS, Listing, folder_keys, list_committed, list_folder
from writers.parquet.access import FileAccess
from writers.parquet.folder_schema import schema_of_folder
from writers.parquet.inputs import Input
from writers.parquet.merge_schema import Matcher, MergeSchema, schema_of_run
from writers.parquet.opening import check_committed
from writers.proof.digests import id_keys
from writers.proof.id_spill import IdSpill, partitions_for, places_of, remove_spill
from writers.workers.pool import Pool, Report
from writers.workers.tracker import Tracker

_SHRINK = {"float32": 0.85, "float16": 0.93}
"""Bytes of a stored vector by bytes in memory: unit vectors under BYTE_STREAM_SPLIT and zstd, or under zstd alone."""

_SMALLEST_SPLIT_BYTES = 96 << 20
_FEW_FILES_A_JOB = 4
_OPEN_BYTES = 48 << 10
"""Opening a file takes about as long as merging that many bytes: a group of small files is more work."""

_MAX_GROUP_INPUTS = 20_000
"""Bounds the lineage in one footer (about 2 MB)."""

_REPORT_FILES = 50
_SMALL_BYTES = 256 << 10  # reading so small a file whole is quicker than reading its footer and its ids
_PENDING_ROWS = 8192


@dataclass(frozen=True, slots=True)
class Found:
    """What is to be merged.

    Attributes:
        listing: Inputs that no finished plan holds.
        already_merged: How many others there are.
        schema: The schema of the outputs; None only when there is nothing at all.
        folder_keys: Columns that only folders' names hold: they are not carried.
    """

    listing: Listing
    already_merged: int
    schema: MergeSchema | None
    folder_keys: list[str]


def find_inputs(config: MergeConfig, state: MergeState, run: RunState | None) -> Found:
    """List what is to be merged and settle the schema.

    Raises:
        ConfigError, FingerprintMismatch: the source does not fit what the target holds, or would be lost in part.
        DamageError: a committed shard is missing.
    """
    if run is not None:
        listing, merged = list_committed(
            config.source, FileAccess(config.cold), run, earlier_inputs(config.target, state).names
        )
        assert run.run is not None  # read_run_state has seen to it
        schema: MergeSchema | None = schema_of_run(run.run, str(config.run_ledger), run.accepted)
    else:
        listed = list_folder(config.source, config.target)
        listing, merged = without_earlier(config.source, config.target, state, listed)
        schema = _schema_of_folder(config, state, listing)
    if state.merge is not None and schema is not None:
        _check_target(config.target, MergeSchema.from_dict(state.merge["schema"]), schema)
    return Found(listing, merged, schema, _folder_keys(config, listing, schema))


def _folder_keys(config: MergeConfig, listing: Listing, schema: MergeSchema | None) -> list[str]:
    if schema is None or config.run_ledger is not None:
        return []
    keys = folder_keys((os.fsdecode(bytes(name)) for name in listing.names if b"=" in name), schema)
    if keys and config.delete_sources:
        raise ConfigError(
            f"--delete-sources would lose what only the names of folders in {config.source} say "
            f"({', '.join(keys)}): merge without it, or each of the folders into a --target of its own"
        )
    return keys


def _schema_of_folder(config: MergeConfig, state: MergeState, listing: Listing) -> MergeSchema | None:
    if state.merge is not None:
        return MergeSchema.from_dict(state.merge["schema"])
    names = (os.fsdecode(bytes(name)) for name in listing.names)
    files = ((name, config.source / name) for name in names)
    return schema_of_folder(files, config.id_column, config.vector_column)


def _check_target(target: Path, held: MergeSchema, wanted: MergeSchema) -> None:
    if differences := held.differences(wanted):
        raise FingerprintMismatch(
            f"{target} holds another data set: {'; '.join(differences)}: merge into another --target"
        )


@dataclass(frozen=True, slots=True)
class _Scan:
    """What the footers and ids of all inputs say.

    Attributes:
        rows, other_bytes: Of each input.
        drops: Rows that are left out, on disk, or None.
    """

    rows: npt.NDArray[np.int64]
    other_bytes: npt.NDArray[np.int64]
    drops: Drops | None


def make_plan(
    config: MergeConfig, state: MergeState, found: Found, pool: Pool, tracker: Tracker, number: int
) -> Record | None:
    """Scan the inputs and write a plan; returns its PLAN record, not yet in the ledger, or None without inputs.

    Raises:
        ConfigError, FingerprintMismatch: an input that does not fit, by name.
        DamageError: an input that cannot be read, or ids that are there twice.
        SinkError: the device of the target or of the temporaries refused.
    """
    listing, schema = found.listing, found.schema
    if not len(listing) or schema is None:
        return None
    folder = config.temporary_folder / "scan"
    remove_spill(folder)
    folder.mkdir(parents=True)
    scan = _scan(config, state, listing, schema, pool, tracker, folder)
    sizes = _expected_bytes(listing, schema, scan)
    drops = scan.drops
    drop_facts = None if drops is None else write_drops(config.target / f".merge-drops-{number:04d}", drops)
    name = f".merge-plan-{number:04d}.jsonl"
    bounds = _group_bounds(sizes, config)
    digest = write_durable_lines(config.target / name, _plan_lines(listing, scan, bounds))
    remove_spill(folder)
    return {
        "type": "PLAN",
        "plan": number,
        "at": time.time(),
        "sort": config.sort,
        "on_duplicate": config.on_duplicate,
        "file_bytes": config.file_bytes,
        "row_group_bytes": config.row_group_bytes,
        "source": str(config.source.resolve()),
        "file": name,
        "sha256": digest,
        "groups": len(bounds),
        "inputs": len(listing),
        "rows": int(scan.rows.sum()) - (drops.rows if drops is not None else 0),
        "expected_bytes": int(sizes.sum()),
        "drops": drop_facts,
    }


def _expected_bytes(listing: Listing, schema: MergeSchema, scan: _Scan) -> npt.NDArray[np.int64]:
    """About what each input will take in an output."""
    vectors = scan.rows * (schema.dim * schema.dtype.itemsize * _SHRINK[schema.vector_type])
    return np.asarray(vectors + np.minimum(scan.other_bytes, listing.sizes), dtype=np.int64)


def _group_bounds(sizes: npt.NDArray[np.int64], config: MergeConfig) -> list[tuple[int, int]]:
    """Consecutive inputs of about equal work together, none above `file_bytes` unless one input alone is.

    With few files the number is one that the workers can share evenly: files are made smaller, so that no core waits
    for the last one.
    """
    total = int(sizes.sum())
    n_files = max(1, -(-total // config.file_bytes))
    if n_files < _FEW_FILES_A_JOB * config.jobs:
        even = max(2, -(-n_files // config.jobs)) * config.jobs  # two each: one is made durable while another is made
        split = total // _SMALLEST_SPLIT_BYTES
        n_files = max(n_files, min(even, split - split % config.jobs if split > config.jobs else split))
    work = total + len(sizes) * _OPEN_BYTES
    aim = -(-work // n_files)
    bounds: list[tuple[int, int]] = []
    start = size = done = 0
    chunks = (sizes[first : first + CHUNK_INPUTS].tolist() for first in range(0, len(sizes), CHUNK_INPUTS))
    for number, more in enumerate(itertools.chain.from_iterable(chunks)):
        ends = done + (more + _OPEN_BYTES) // 2 > aim * (len(bounds) + 1)
        over = size + more > config.file_bytes or ends or number - start >= _MAX_GROUP_INPUTS
        if number > start and over:
            bounds.append((start, number))
            start, size = number, 0
        size += more
        done += more + _OPEN_BYTES
    bounds.append((start, len(sizes)))
    return bounds


def _plan_lines(listing: Listing, scan: _Scan, bounds: list[tuple[int, int]]) -> Iterator[bytes]:
    for start, end in bounds:
        yield (
            orjson.dumps([tuple(listing.planned(number, int(scan.rows[number]))) for number in range(start, end)])
            + b"\n"
        )


def _scan(
    config: MergeConfig,
    state: MergeState,
    listing: Listing,
    schema: MergeSchema,
    pool: Pool,
    tracker: Tracker,
    folder: Path,
) -> _Scan:
    """Read all footers and ids."""
    n_inputs = len(listing)
    rows = np.zeros(n_inputs, dtype=np.int64)
    other_bytes = np.zeros(n_inputs, dtype=np.int64)
    old = [
        PlannedInput(str(record["file"]), int(record["bytes"]), 0, int(record["rows"])) for record in state.outputs()
    ]
    row_bytes = schema.dim * schema.dtype.itemsize
    n_partitions = partitions_for(int(listing.sizes.sum() / row_bytes) + sum(item.rows for item in old))
    common = {
        "task": "writers.merge.planning.plan:scan_inputs",
        "schema": schema.as_dict(),
        "spill": str(folder),
        "partitions": n_partitions,
        "cold": config.cold_dict,
    }
    lists = folder / "inputs.jsonl"
    jobs: list[Message] = []
    with lists.open("wb") as stream:
        for chunk, line in enumerate(listing.lines()):
            place = [stream.tell(), len(line)]
            stream.write(line)
            first = chunk * CHUNK_INPUTS
            jobs.append({**common, "list": str(lists), "place": place, "first": first, "folder": str(config.source)})
        for number, item in enumerate(old):
            line = orjson.dumps([tuple(item)]) + b"\n"
            place = [stream.tell(), len(line)]
            stream.write(line)
            first = n_inputs + number
            jobs.append(
                {
                    **common,
                    "list": str(lists),
                    "place": place,
                    "first": first,
                    "folder": str(config.target),
                    "old": True,
                }
            )
    tracker.begin("scan", None, n_inputs + len(old))
    for job, result in pool.run(jobs, tracker.take):
        if not job.get("old"):
            part = slice(job["first"], job["first"] + len(result["rows"]))
            rows[part], other_bytes[part] = result["rows"], result["other_bytes"]
    drops = settle_duplicates(config, listing, old, pool, folder, n_partitions, rows, tracker)
    return _Scan(rows, other_bytes, drops)


def scan_inputs(job: Message, report: Report) -> Message:
    """Task: read the footers and ids of some inputs, compare them with the schema, spill the ids."""
    schema = MergeSchema.from_dict(job["schema"])
    if job.get("old"):
        schema = schema.of_outputs()
    matcher = Matcher(schema)
    small = memoryview(bytearray(_SMALL_BYTES))  # for one file after the other
    inputs = read_group(Path(job["list"]), *job["place"])
    folder, access = Path(job["folder"]), FileAccess.from_dict(job["cold"])
    ids = _PendingIds(IdSpill(Path(job["spill"]), int(job["partitions"])))
    rows: list[int] = []
    other_bytes: list[int] = []
    told, last = 0, int(job["first"]) + len(inputs) - 1
    for number, item in enumerate(inputs, int(job["first"])):
        path = access.path(folder, item.name)
        try:
            found = _scan_input(path, item, number, matcher, small, ids, access)
        except EngineError as error:
            check_committed(access, path, item.name, item.sha256, error)
        rows.append(found[0])
        other_bytes.append(found[1])
        if len(rows) % _REPORT_FILES == 0 or number == last:
            report({"rows": sum(rows[told:]), "files": len(rows) - told})
            told = len(rows)
    ids.close()
    return {"rows": rows, "other_bytes": other_bytes}


class _PendingIds:
    """Ids on their way to the partitions; those of many small files go together, because each call has its price."""

    def __init__(self, spill: IdSpill) -> None:
        self._spill = spill
        self._ids: list[pa.Array] = []
        self._starts: list[tuple[int, int, int]] = []  # number of the input, of the first row in it, of rows
        self._rows = 0

    def add(self, number: int, first_row: int, ids: pa.Array) -> None:
        """Take in the ids of consecutive rows of one input."""
        self._ids.append(ids)
        self._starts.append((number, first_row, len(ids)))
        self._rows += len(ids)
        if self._rows >= _PENDING_ROWS:
            self._flush()

    def close(self) -> None:
        """Pass on the rest."""
        self._flush()
        self._spill.flush()

    def _flush(self) -> None:
        if self._rows:
            self._spill.add(id_keys(pa.concat_arrays(self._ids)), places_of(self._starts))
        self._ids, self._starts, self._rows = [], [], 0


def _scan_input(
    path: str,
    item: PlannedInput,
    number: int,
    matcher: Matcher,
    small: memoryview,
    pending: _PendingIds,
    access: FileAccess,
) -> tuple[int, int]:
    """Read footer and ids of one input; returns its rows and the bytes of all but its vectors."""
    with Input(path, item.name, matcher, small, access) as opened:
        if item.rows not in (-1, opened.rows):
            raise DamageError(
                f"{item.name} has {opened.rows} rows, its ledger says {item.rows}: restore it from a copy"
            )
        first_row = 0
        for ids in opened.ids():
            if ids.null_count:
                raise ConfigError(f"{item.name} holds {ids.null_count} rows without an id: remove them first")
            pending.add(number, first_row, ids)
            first_row += len(ids)
        return opened.rows, opened.other_bytes()
