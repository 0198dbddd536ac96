"""`verify`: proves a data set, level by level, with bounded memory and on all cores.

    level 0..3   a worker per file: bytes, footer, pages, rows (writers/verify/file.py); ids are spilled on the way
    level 3      a worker per partition of ids: no id twice (writers/verify/ids.py)
    level 4      the ids of all marked documents join the partitions: every row marked, every mark with its row
    level 5      a random sample of rows, embedded again

What a file should be comes from the run's ledger and the merge's. A shard that a merge removed after recording its
output is not missing; its rows are looked for in the output. Nothing is changed, and no lock is taken: while a merge
goes on (files come and go), or for level 4 a run, verification refuses to start.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa

from engine.errors import ConfigError, LockHeld, SinkError
from engine.ledger import durable
from engine.ledger.runfolder import RunLock, lock_owner
from engine.memory.channels import Message
from writers.merge.ledger import LEDGER, LOCK
from writers.parquet.access import FileAccess
from writers.parquet.merge_schema import MergeSchema
from writers.proof.digests import id_keys
from writers.proof.id_spill import IdSpill, forget, partitions_for, places, row_of, source_of
from writers.shards.schema import ID
from writers.verify.config import Documents, Embedder, Findings, VerifyConfig, VerifyReport
from writers.verify.file import Expected
from writers.verify.ids import MARKED, MERGED_SHARD
from writers.verify.sample import check_sample, ids_at
from writers.verify.subject import Subject, find_subject
from writers.workers.pool import Fault, Pool
from writers.workers.tracker import OnProgress, Tracker

ROLE = "verify"
_PREFIX = "engine-verify-"
_LOCK = "lock"
_CHUNK_FILES = 200
_CHUNK_BYTES = 64 << 20
_MAX_LOOKUPS = 10_000
_LOOKUP_IDS = 1000


def verify(
    config: VerifyConfig,
    on_progress: OnProgress | None = None,
    *,
    documents: Documents | None = None,
    embedder: Embedder | None = None,
) -> VerifyReport:
    """Check a data set; differences are in the report, they are not raised.

    Args:
        config: What to check, and how deep.
        on_progress: Told a few times a second where it stands.
        documents: The collection; needed from level 4.
        embedder: The embedding servers; needed for level 5.

    Raises:
        ConfigError: wrong settings, or nothing to check against.
        DamageError: a ledger is damaged, so that nobody knows what should be there.
        LockHeld: a merge is going on, or for level 4 a run.
        SinkError: no space for temporaries.
    """
    durable.arm(ROLE)
    if config.level >= 4 and documents is None:
        raise ConfigError(f"--level {config.level} compares with MongoDB: give it a collection")
    if config.level >= 5 and embedder is None:
        raise ConfigError("--level 5 embeds a sample again: give it embedding servers")
    _refuse_while_written(config)
    before = _merges_so_far(config)
    try:
        if config.temporary is not None:
            config.temporary.mkdir(parents=True, exist_ok=True)
        parent = config.temporary or Path(tempfile.gettempdir())
        _remove_left_over(parent)
        temporary = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = RunLock(temporary / _LOCK)
    except OSError as error:
        raise SinkError(f"cannot create {error.filename} ({error.strerror}): name another --temp-dir") from error
    try:
        with Pool(ROLE, config.jobs) as pool:
            report = _Verification(config, pool, Tracker(on_progress), temporary).run(documents, embedder)
    except OSError as error:
        raise SinkError(
            f"cannot write temporary files to {temporary} ({error.strerror or error}): free space, "
            "or name another --temp-dir"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        lock.release()
    if not report.ok:
        _refuse_while_written(config)
        if _merges_so_far(config) != before:
            raise LockHeld("a merge has worked on these files meanwhile, so differences mean nothing: verify again")
    return report


def _merges_so_far(config: VerifyConfig) -> int:
    """Size of the merge's ledger, which every merge adds to."""
    merged = config.consolidated or config.merged_into
    try:
        return 0 if merged is None else (merged / LEDGER).stat().st_size
    except OSError:
        return 0


def _remove_left_over(parent: Path) -> None:
    """Delete the temporaries of verifications that were killed: up to 24 bytes a row."""
    for folder in parent.glob(f"{_PREFIX}*"):
        if (folder / _LOCK).exists() and lock_owner(folder / _LOCK) is None:
            shutil.rmtree(folder, ignore_errors=True)


def _refuse_while_written(config: VerifyConfig) -> None:
    merged = config.consolidated or config.merged_into
    if merged is not None and (owner := lock_owner(merged / LOCK)) is not None:
        raise LockHeld(f"a merge (process {owner}) works on {merged}: verify when it has ended")
    if config.level >= 4 and config.run_lock is not None and (owner := lock_owner(config.run_lock)) is not None:
        raise LockHeld(f"a run (process {owner}) is marking documents: use --level 3, or verify when it has ended")


class _Verification:
    """One verification."""

    def __init__(self, config: VerifyConfig, pool: Pool, tracker: Tracker, temporary: Path) -> None:
        self._config = config
        self._pool = pool
        self._tracker = tracker
        self._temporary = temporary
        self._findings = Findings()
        self._not_checked: list[str] = []
        self._rows: list[int] = []
        self._bytes = 0
        self._gone = 0
        self._cosine: dict[str, float] | None = None

    def run(self, documents: Documents | None, embedder: Embedder | None) -> VerifyReport:
        """Go through the levels."""
        started = time.monotonic()
        config = self._config
        subject = find_subject(config, self._findings, self._not_checked)
        if subject.files and subject.schema is not None:
            n_partitions = self._check_files(subject, subject.schema)
            if config.level >= 3:
                self._check_ids(subject, subject.schema, n_partitions, documents)
            if config.level >= 5 and documents is not None and embedder is not None:
                self._check_sample(subject, subject.schema, documents, embedder)
        self._say_what_was_left_out()
        self._tracker.tell(now=True)
        return VerifyReport(
            level=config.level,
            files=len(subject.files),
            rows=sum(self._rows),
            bytes=self._bytes,
            removed_shards=subject.removed,
            gone=self._gone,
            cosine=self._cosine,
            findings=self._findings.as_dict(),
            not_checked=self._not_checked,
            seconds=round(time.monotonic() - started, 3),
        )

    def _check_files(self, subject: Subject, schema: MergeSchema) -> int:
        """Levels 0 to 3 of every file; returns how many partitions of ids there are."""
        config = self._config
        total_rows = sum(max(0, item.rows) for item in subject.files)
        if config.folder is not None:
            row_bytes = schema.dim * schema.dtype.itemsize
            total_rows = sum(Path(item.path).stat().st_size for item in subject.files) // row_bytes
        n_partitions = partitions_for(2 * total_rows if config.level >= 4 else total_rows)
        spill = self._spill_folder()
        lists = self._temporary / "files.jsonl"
        normed = bool((schema.fingerprint or {}).get("normalize"))
        common: Message = {
            "task": "writers.verify.file:check_files",
            "list": str(lists),
            "level": config.level,
            "schema": schema.as_dict(),
            "spill": str(spill) if config.level >= 3 else None,
            "partitions": n_partitions,
            "normed": normed,
            "fatal": {},
            "cold": None if config.cold is None else config.cold.as_dict(),
        }
        jobs: list[Message] = []
        first = 0
        with lists.open("wb") as stream:
            for chunk in _chunks(subject.files):
                line = orjson.dumps([tuple(item) for item in chunk]) + b"\n"
                jobs.append({**common, "place": [stream.tell(), len(line)], "first": first, "files": len(chunk)})
                stream.write(line)
                first += len(chunk)
        self._rows = [0] * len(subject.files)
        others_files = 0
        self._tracker.begin("files", None if config.folder else total_rows, len(subject.files))
        for job, result in self._pool.run(jobs, self._tracker.take, self._without_fatal):
            self._rows[job["first"] : job["first"] + len(result["rows"])] = result["rows"]
            self._bytes += result["bytes"]
            others_files += result["others_files"]
            self._findings.merge(result["findings"])
        if others_files and config.level >= 2:
            self._not_checked.append(
                f"whether all pages of {others_files} files carry a checksum: the engine did not write them; "
                "the checksums that are there were compared"
            )
        if config.level >= 3 and not normed:
            self._not_checked.append("the length of vectors: no fingerprint says that they are normed")
        return n_partitions

    def _without_fatal(self, fault: Fault) -> Message | None:
        """The same files once more, but for the one over which a worker ended; what that had collected is void."""
        job = fault.job
        if fault.file in job["fatal"]:
            return None
        if job["spill"] is not None:
            forget(Path(job["spill"]), fault.process, job["first"], job["first"] + job["files"])
        how = f"cannot be read: it ended the process that was reading it (signal {fault.signal})"
        return {**job, "fatal": {**job["fatal"], fault.file: how}}

    def _spill_folder(self) -> Path:
        folder = self._temporary / "ids"
        folder.mkdir(exist_ok=True)
        return folder

    def _check_ids(self, subject: Subject, schema: MergeSchema, n_partitions: int, documents: Documents | None) -> None:
        """No id twice; and for level 4, rows against marks."""
        marks = self._config.level >= 4 and documents is not None
        if marks and documents is not None:
            self._spill_marks(schema, n_partitions, documents)
        kinds = self._temporary / "kinds"
        np.array(subject.kinds, dtype=np.uint8).tofile(kinds)
        jobs: list[Message] = [
            {
                "task": "writers.verify.ids:compare_partition",
                "spill": str(self._spill_folder()),
                "partition": partition,
                "kinds": str(kinds),
                "marks": marks,
            }
            for partition in range(n_partitions)
        ]
        unmarked = marked_only = 0
        lonely: list[int] = []
        keys: list[list[int]] = []
        self._tracker.begin("ids", None, n_partitions)
        for _, result in self._pool.run(jobs, lambda _: None):
            self._tracker.take({"files": 1})
            if result["duplicates"]:
                self._findings.add("duplicate", self._pair_text(subject, result["pairs"]), result["duplicates"])
            unmarked += result["unmarked"]
            marked_only += result["marked_only"]
            lonely += result["places"][: _MAX_LOOKUPS - len(lonely)]
            keys += result["keys"][: 10 - len(keys)]
        if unmarked and subject.never_marked and documents is not None and documents.has_marks:
            self._not_checked.append(
                f"{unmarked} rows whose document carries no mark: a run with --no-mark sets none, and a run that was "
                "killed before its first mark sets them when it is started again"
            )
        elif documents is not None and unmarked:
            self._judge_unmarked(subject, schema, documents, unmarked, lonely)
        if documents is not None and marked_only:
            self._findings.add("marked_without_row", _ids_of_keys(keys, schema, documents), marked_only)

    def _pair_text(self, subject: Subject, pairs: list[list[int]]) -> str:
        def text(place: int) -> str:
            return f"{subject.files[source_of(place)].path} row {row_of(place)}"

        return "; ".join(f"{text(one)} and {text(other)}" for one, other in pairs[:3])

    def _spill_marks(self, schema: MergeSchema, n_partitions: int, documents: Documents) -> None:
        spill = IdSpill(self._spill_folder(), n_partitions)
        self._tracker.begin("marks", None, None)
        number = 0
        for ids in documents.marked_ids():
            column = pa.array(ids, type=schema.arrow.field(ID).type)
            spill.add(id_keys(column), places(MARKED, number & 0x7FFFFFFF, len(column)))
            number += len(column)
            self._tracker.take({"rows": len(column)})
        spill.flush()

    def _judge_unmarked(
        self, subject: Subject, schema: MergeSchema, documents: Documents, count: int, lonely: list[int]
    ) -> None:
        """Tell rows whose document lost its mark (a difference) from rows whose document is gone (none)."""
        shown: list[str] = []
        open_ = gone = 0
        for start in range(0, len(lonely), _LOOKUP_IDS):
            batch = sorted(lonely[start : start + _LOOKUP_IDS])
            ids = ids_at(
                [(subject.files[source_of(place)].path, row_of(place)) for place in batch],
                schema,
                FileAccess(self._config.cold),
            )
            for value, state in zip(ids, documents.states(ids), strict=True):
                if state == "unmarked":
                    open_ += 1
                    shown.append(str(value.hex() if isinstance(value, bytes) else value))
                gone += state == "gone"
        self._gone = gone
        unknown = count - len(lonely)
        if open_ or unknown:
            also = f"; {unknown} more rows without a mark were not looked up one by one" if unknown else ""
            self._findings.add("unmarked", f"ids {', '.join(shown[:10])}{also}", open_ + unknown)

    def _check_sample(self, subject: Subject, schema: MergeSchema, documents: Documents, embedder: Embedder) -> None:
        """Level 5."""
        live = [
            (item.path, rows)
            for item, kind, rows in zip(subject.files, subject.kinds, self._rows, strict=True)
            if kind != MERGED_SHARD
        ]
        self._tracker.begin("sample", self._config.sample_rows, None)
        sample = check_sample(self._config, live, schema, documents, embedder, self._findings)
        self._cosine = sample.cosine
        self._not_checked += sample.not_checked
        self._tracker.take({"rows": sample.rows})

    def _say_what_was_left_out(self) -> None:
        level = self._config.level
        left = {
            1: "level 1 (footers, schema, counts)",
            2: "level 2 (checksum of every page)",
            3: "level 3 (ids unique, vectors finite and normed)",
            4: "level 4 (every row marked in MongoDB, every mark with its row)",
            5: "level 5 (a sample embedded again)",
        }
        self._not_checked += [f"{what}: not asked for" for number, what in left.items() if number > level]
        damaged = sum(self._findings.counts.get(kind, 0) for kind in ("missing", "damaged", "mismatched"))
        if level >= 3 and damaged:
            self._not_checked.append("rows of files that are missing, damaged or mismatched: they count as not there")


def _chunks(files: list[Expected]) -> Iterator[list[Expected]]:
    """Files in portions that are worth a task."""
    chunk: list[Expected] = []
    size = 0
    for item in files:
        chunk.append(item)
        size += max(item.bytes, 1 << 18)
        if size >= _CHUNK_BYTES or len(chunk) >= _CHUNK_FILES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _ids_of_keys(keys: list[list[int]], schema: MergeSchema, documents: Documents) -> str:
    """Go through the marked ids once more and name those that were found alone."""
    wanted = {(one, two) for one, two in keys}
    shown: list[str] = []
    for ids in documents.marked_ids():
        column = pa.array(ids, type=schema.arrow.field(ID).type)
        for value, key in zip(ids, id_keys(column).tolist(), strict=True):
            if tuple(key) in wanted:
                shown.append(str(value.hex() if isinstance(value, bytes) else value))
        if len(shown) >= len(wanted):
            break
    return f"ids {', '.join(sorted(shown))}"
