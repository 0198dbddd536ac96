"""`merge`: from any number of shards to few files, proved equal, resumable at any moment (docs/protocols/merge.md).

    lock -> recover -> plan (scan, refuse, group; PLAN) -> a worker per output: write, check, fsync
    -> link to the final name -> fsync the folder -> MERGED (the commit point) -> remove the sources, if asked
    -> REMOVED -> DONE

The coordinator alone names files and writes the ledger; workers make files that have no final name. A run may go on
meanwhile: its ledger is read without a lock, and what it commits later is merged by the next merge.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from engine import durable
from engine.channels import Message
from engine.errors import ConfigError, DamageError, SinkError
from engine.ledger import Ledger, RunState
from engine.runfolder import IN_PROGRESS, RunLock
from writers import schema as sc
from writers.foreign import MergeSchema
from writers.merge_config import MergeConfig, MergeReport
from writers.merge_drops import check_drops
from writers.merge_inputs import read_run_state
from writers.merge_ledger import (
    LEDGER,
    LOCK,
    MergeState,
    PlanFile,
    PlanState,
    output_name,
    write_durable_lines,
)
from writers.merge_plan import find_inputs, make_plan
from writers.merge_sort import RunPaths, cut_ranges
from writers.pool import Pool, Report
from writers.tracker import OnProgress, Tracker

ROLE = "merge"
WORKER_ROLE = "merge-worker"
_RANGE_BYTES = 64 << 20
_LISTED_INPUTS = 1000
"""A sorted output names its sources in its own footer up to that many; beyond, in one file for all."""


def merge(config: MergeConfig, on_progress: OnProgress | None = None) -> MergeReport:
    """Merge what is not merged yet; calling it again continues, or picks up what is new.

    Args:
        config: What to merge, and how.
        on_progress: Told a few times a second where it stands.

    Raises:
        ConfigError, FingerprintMismatch: wrong settings, or inputs that do not fit together (exit 2).
        DamageError: an input is damaged, missing, or holds an id twice (exit 4).
        SinkError: an output device is full or failing (exit 5).
        LockHeld: another merge works on the same target (exit 11).
    """
    durable.arm(ROLE)
    try:
        config.target.mkdir(parents=True, exist_ok=True)
        lock = RunLock(config.target / LOCK)
    except OSError as error:
        raise _refused(config.target, error) from error
    try:
        with Pool(WORKER_ROLE, config.jobs, (lock.fd,)) as pool:
            return _Merge(config, pool, Tracker(on_progress)).run()
    except OSError as error:
        raise _refused(config.target, error) from error
    finally:
        lock.release()


def _refused(folder: Path, error: OSError) -> SinkError:
    where = error.filename or folder
    return SinkError(
        f"cannot write {where} ({error.strerror or error}): free space, repair the device or its permissions, then run "
        "the same command again; finished files and all sources are untouched"
    )


class _Merge:
    """One merge, holding the lock."""

    def __init__(self, config: MergeConfig, pool: Pool, tracker: Tracker) -> None:
        self._config = config
        self._pool = pool
        self._tracker = tracker
        self._started = time.monotonic()
        self._ledger = Ledger(config.target / LEDGER, MergeState())
        self._state: MergeState = self._ledger.state
        self._run: RunState | None = None
        self._runs_folder = config.temporary_folder / "runs"
        self._inputs = self._rows = self._files = self._bytes = self._resumed = self._dropped = 0
        self._already = self._removed = self._kept = 0
        self._tried: set[tuple[int, int]] = set()  # groups whose sources were to be removed by this merge

    def run(self) -> MergeReport:
        """Recover, finish what is open, then plan and do what is new."""
        config = self._config
        if config.run_ledger is not None:
            self._run = read_run_state(config.run_ledger)
        self._ledger.append({"type": "START", "epoch": self._state.epoch + 1, "at": time.time()})
        try:
            self._recover()
            plan = self._state.open_plan()
            if plan is not None:
                self._refuse_other_settings(plan)
                self._finish(plan)
            plan = self._plan()
            if plan is not None:
                self._finish(plan)
            if config.delete_sources:
                self._remove_left()
        except BaseException:
            self._pool.close()
            with contextlib.suppress(OSError):  # the next start deletes them too; the first error is the one to tell
                self._delete_unfinished()
            raise
        finally:
            self._ledger.close()
        return self._report()

    def _report(self) -> MergeReport:
        return MergeReport(
            target=str(self._config.target),
            inputs=self._inputs,
            rows=self._rows,
            files=self._files,
            bytes=self._bytes,
            resumed_files=self._resumed,
            already_merged=self._already,
            duplicates_dropped=self._dropped,
            sources_removed=self._removed,
            sources_kept=self._kept,
            seconds=round(time.monotonic() - self._started, 3),
        )

    # Recovery

    def _recover(self) -> None:
        """Delete what a broken merge left: unfinished files, and final names that no record stands behind."""
        self._delete_unfinished()
        plan = self._state.open_plan()
        if plan is None:
            self._delete_temporaries()
            return
        left = []
        for path in self._config.target.glob(f"part-{plan.number:04d}-*.parquet"):
            number = int(path.stem.rpartition("-")[2])
            if number in plan.merged:
                continue
            if not self._is_ours(path, plan.number, number):
                raise DamageError(
                    f"{path} exists already and is not of this merge: another program wrote it; move it away, "
                    "then run the same command again"
                )
            left.append(path)
        for path in left:
            durable.unlink(path)  # linked but not recorded; its sources are all there, it is made again
        if left:
            durable.fsync_folder(self._config.target)

    def _is_ours(self, path: Path, plan: int, number: int) -> bool:
        assert self._state.merge is not None  # there is a plan
        try:
            said = orjson.loads((pq.read_metadata(path).metadata or {})[sc.KEY_MERGE])
        except (OSError, pa.ArrowException, KeyError, orjson.JSONDecodeError):
            return False
        return bool((said["merge"], said["plan"], said["output"]) == (self._state.merge["merge"], plan, number))

    def _delete_unfinished(self) -> None:
        for path in self._config.target.glob(f"*{IN_PROGRESS}"):
            durable.unlink(path)
        for path in self._config.target.glob(".merge-*.tmp"):
            durable.unlink(path)

    def _delete_temporaries(self) -> None:
        folder = self._config.temporary_folder
        for below in (folder / "runs", folder / "scan"):
            if below.is_dir():
                for path in below.iterdir():
                    path.unlink()
                below.rmdir()
        with contextlib.suppress(OSError):  # not there, or somebody else keeps things in it
            folder.rmdir()

    # Planning

    def _refuse_other_settings(self, plan: PlanState) -> None:
        """An open plan is finished as it was begun; refuse a command that asks for something else."""
        config, record = self._config, plan.record
        asked = {"sort": config.sort, "on_duplicate": config.on_duplicate, "source": str(config.source.resolve())}
        other = [f"--{name.replace('_', '-')} was {record[name]}" for name in asked if asked[name] != record[name]]
        if other:
            raise ConfigError(
                f"an unfinished merge into {config.target} was begun with other settings ({', '.join(other)}): "
                "run it to its end with these first"
            )

    def _plan(self) -> PlanState | None:
        found = find_inputs(self._config, self._state, self._run)
        self._already = found.already_merged
        if found.schema is None or not len(found.listing):
            return None
        number = max(self._state.plans, default=0) + 1
        record = make_plan(self._config, self._state, found, self._pool, self._tracker, number)
        if record is None:
            return None
        if self._state.merge is None:
            merge_id = uuid.uuid4().hex[:12]
            run = None if self._run is None or self._run.run is None else self._run.run["ledger"]
            self._ledger.append(
                {"type": "MERGE", "format": 1, "merge": merge_id, "run": run, "schema": found.schema.as_dict()}
            )
        durable.point("merge.before_plan")
        self._ledger.append(record)
        durable.point("merge.after_plan")
        return self._state.plans[number]

    # Outputs

    def _finish(self, plan: PlanState) -> None:
        self._resumed += len(plan.merged)
        drops = plan.record["drops"]
        if drops is not None:
            check_drops(self._config.target, drops)
            self._dropped += int(drops["rows"])
        plan_file = PlanFile(self._config.target, plan.record)
        if plan.sorted:
            self._spill(plan, plan_file)
            self._cut(plan)
        jobs = self._output_jobs(plan, plan_file)
        done_rows = sum(int(record["rows"]) for record in plan.merged.values())
        self._tracker.begin("merge", int(plan.record["rows"]) - done_rows, len(jobs))
        for job, facts in self._pool.run(jobs, self._tracker.take):
            self._commit(plan, job, facts)
            self._tracker.take({"files": 1})
            if self._config.delete_sources and not plan.sorted:
                self._remove_group(plan, plan_file, int(job["number_of_output"]))
        self._check_whole(plan)
        self._ledger.append({"type": "DONE", "plan": plan.number})
        self._inputs += int(plan.record["inputs"])
        if self._config.delete_sources and plan.sorted:
            self._remove_plan(plan, plan_file, made_now=True)
        self._delete_temporaries()
        self._tracker.tell(now=True)

    def _common(self, plan: PlanState) -> Message:
        assert self._state.merge is not None  # there is a plan
        drops = plan.record["drops"]
        return {
            "schema": self._state.merge["schema"],
            "plan": str(self._config.target / plan.record["file"]),
            "number": plan.number,
            "source": plan.record["source"],
            "drops": None if drops is None else str(self._config.target / drops["file"]),
            "row_group_bytes": plan.record["row_group_bytes"],
            "runs": str(self._runs_folder),
        }

    def _output_jobs(self, plan: PlanState, plan_file: PlanFile) -> list[Message]:
        common = self._common(plan)
        n_outputs = plan.n_outputs
        assert self._state.merge is not None and n_outputs is not None  # ranges are cut before outputs are made
        jobs: list[Message] = []
        first_input = 0
        for number in range(n_outputs):
            name = output_name(plan.number, number)
            job: Message = {
                **common,
                "number_of_output": number,
                "output": str(self._config.target / f"{name}.{self._state.epoch}{IN_PROGRESS}"),
                "footer": {
                    "version": self._config.version,
                    "epoch": self._state.epoch,
                    "name": name.removesuffix(".parquet"),
                    "merge": self._state.merge["merge"],
                    "plan": plan.number,
                    "output": number,
                    "sort": plan.record["sort"],
                },
            }
            if plan.sorted:
                assert plan.ranges is not None  # as above
                job["task"] = "writers.merge_sort:gather_output"
                job["ranges"] = str(self._config.target / plan.ranges["file"])
                job["place"] = plan.ranges["places"][number]
                job["lineage"] = plan.ranges["lineage"]
            else:
                job["task"] = "writers.merge_group:merge_group"
                job["place"] = plan_file.place(number)
                job["first"] = first_input
                first_input += plan_file.counts[number]
            if number not in plan.merged:
                jobs.append(job)
        return jobs

    def _commit(self, plan: PlanState, job: Message, facts: Message) -> None:
        """Give a finished file its name and record it; only then does it count."""
        number = int(job["number_of_output"])
        temporary = Path(job["output"])
        final = self._config.target / output_name(plan.number, number)
        durable.point("merge.before_link")
        try:
            durable.link_new(temporary, final)
        except FileExistsError as error:
            raise DamageError(
                f"{final} exists already and is not in the merge's ledger: another program wrote it; move it away, "
                "then run the same command again"
            ) from error
        durable.point("merge.after_link")
        durable.fsync_folder(self._config.target)
        durable.point("merge.after_folder_fsync")
        self._ledger.append(
            {
                "type": "MERGED",
                "plan": plan.number,
                "output": number,
                "epoch": self._state.epoch,
                "file": final.name,
                **facts,
            }
        )
        durable.point("merge.after_merged")
        durable.unlink(temporary)
        self._files += 1
        self._rows += int(facts["rows"])
        self._bytes += int(facts["bytes"])

    def _check_whole(self, plan: PlanState) -> None:
        """All outputs of a plan against all its inputs, before it is done and before any sorted source may go."""
        rows = sum(int(record["rows"]) for record in plan.merged.values())
        if rows != plan.record["rows"]:
            raise DamageError(
                f"the outputs of plan {plan.number} have {rows} rows, its inputs {plan.record['rows']}: report this; "
                "nothing was removed"
            )
        if plan.sorted:
            sums = [
                sum(int(record["row_digest"], 16) for record in records) % (1 << 64)
                for records in (plan.merged.values(), plan.spilled.values())
            ]
            if sums[0] != sums[1]:
                raise DamageError(
                    f"the outputs of plan {plan.number} hold other rows than its inputs: "
                    "report this; nothing was removed"
                )

    # Sorting

    def _spill(self, plan: PlanState, plan_file: PlanFile) -> None:
        """Pass 1: make the runs of every group that has none, or none that is sound."""
        if plan.n_outputs is not None and len(plan.merged) == plan.n_outputs:
            return
        self._runs_folder.mkdir(parents=True, exist_ok=True)
        common = self._common(plan)
        first = [sum(plan_file.counts[:group]) for group in range(plan.n_groups)]
        jobs = [
            {
                **common,
                "group": group,
                "place": plan_file.place(group),
                "first": first[group],
                "sort_bytes": self._config.sort_bytes,
            }
            for group in range(plan.n_groups)
        ]
        sound = self._sound_groups(plan, jobs)
        missing = [{**job, "task": "writers.merge_sort:spill_group"} for job in jobs if job["group"] not in sound]
        rows = int(plan.record["rows"]) - sum(int(plan.spilled[group]["rows"]) for group in sound)
        self._check_space(rows)
        self._tracker.begin("sort", rows, len(missing))
        for job, facts in self._pool.run(missing, self._tracker.take):
            durable.point("merge.before_spilled")
            self._ledger.append({"type": "SPILLED", "plan": plan.number, "group": job["group"], **facts})
            self._tracker.take({"files": 1})

    def _sound_groups(self, plan: PlanState, jobs: list[Message]) -> set[int]:
        checks = [
            {**job, "task": "writers.merge_sort:check_runs", "facts": plan.spilled[int(job["group"])]}
            for job in jobs
            if job["group"] in plan.spilled
        ]
        return {int(job["group"]) for job, result in self._pool.run(checks, lambda _: None) if result["sound"]}

    def _check_space(self, rows: int) -> None:
        schema = self._schema()
        needed = rows * (schema.dim * schema.dtype.itemsize + 64)
        stats = os.statvfs(self._runs_folder)
        free = stats.f_bavail * stats.f_frsize
        if needed > free:
            raise SinkError(
                f"sorting needs about {needed >> 20} MiB in {self._runs_folder}, {free >> 20} MiB are free: "
                "free space, or name another folder for temporaries"
            )

    def _schema(self) -> MergeSchema:
        assert self._state.merge is not None  # there is a plan
        return MergeSchema.from_dict(self._state.merge["schema"])

    def _cut(self, plan: PlanState) -> None:
        """Decide which ids go into which output."""
        target = self._config.target
        if plan.ranges is not None:
            self._refresh_ranges(plan)
            return
        record = plan.record
        n_outputs = max(1, -(-int(record["expected_bytes"]) // int(record["file_bytes"])), plan.n_groups)
        rows = max(1, sum(int(spilled["rows"]) for spilled in plan.spilled.values()))
        other_bytes = sum(int(spilled["other_bytes"]) for spilled in plan.spilled.values())
        range_rows = max(1, _RANGE_BYTES * rows // max(rows, other_bytes))
        bounds = cut_ranges(self._runs_folder, plan.number, plan.spilled, n_outputs, range_rows)
        inputs = target / f".merge-inputs-{plan.number:04d}.jsonl"
        digest = write_durable_lines(inputs, self._source_lines(plan))
        count = int(record["inputs"])
        lineage: dict[str, Any] = {"inputs": count, "list": inputs.name, "list_sha256": digest}
        if count <= _LISTED_INPUTS:
            lineage["files"] = [orjson.loads(line) for line in inputs.read_bytes().splitlines()]
        file, places, sha256 = self._write_ranges(plan, bounds)
        self._ledger.append(
            {
                "type": "RANGES",
                "plan": plan.number,
                "outputs": len(bounds),
                "bounds": bounds,
                "file": file,
                "sha256": sha256,
                "places": places,
                "lineage": lineage,
            }
        )
        durable.point("merge.after_ranges")

    def _write_ranges(self, plan: PlanState, bounds: list[list[Any]]) -> tuple[str, list[tuple[int, int]], str]:
        """The file that workers read: the runs of every group, then the bounds of every output."""
        name = f".merge-ranges-{plan.number:04d}.jsonl"
        lines = [orjson.dumps([plan.spilled[group]["runs"] for group in sorted(plan.spilled)]) + b"\n"]
        lines += [orjson.dumps(item) + b"\n" for item in bounds]
        places, offset = [], 0
        for line in lines:
            places.append((offset, len(line)))
            offset += len(line)
        return name, places[1:], write_durable_lines(self._config.target / name, iter(lines))

    def _refresh_ranges(self, plan: PlanState) -> None:
        """Runs that were made again may be cut otherwise; the ranges of ids stay."""
        assert plan.ranges is not None  # the caller has looked
        file, places, sha256 = self._write_ranges(plan, plan.ranges["bounds"])
        if sha256 != plan.ranges["sha256"]:
            self._ledger.append({**plan.ranges, "file": file, "places": places, "sha256": sha256})

    def _source_lines(self, plan: PlanState) -> Iterator[bytes]:
        for group in sorted(plan.spilled):
            with RunPaths.of(self._runs_folder, plan.number, group).sources.open("rb") as stream:
                yield from stream

    # Sources

    def _remove_left(self) -> None:
        """Remove the sources of earlier plans that were merged without `--delete-sources`, or could not go then."""
        for plan in list(self._state.plans.values()):
            if plan.done and len(plan.removed) < plan.n_groups:
                self._remove_plan(plan, PlanFile(self._config.target, plan.record), made_now=False)

    def _remove_plan(self, plan: PlanState, plan_file: PlanFile, *, made_now: bool) -> None:
        if not made_now:
            self._check_outputs(plan)
        self._tracker.begin("remove", None, plan.n_groups)
        for group in range(plan.n_groups):
            if group not in plan.removed and (plan.number, group) not in self._tried:
                self._remove_group(plan, plan_file, group)

    def _remove_group(self, plan: PlanState, plan_file: PlanFile, group: int) -> None:
        """Remove the sources of one group; the run's recovery still needs those whose documents are not marked."""
        self._tried.add((plan.number, group))
        source = Path(plan.record["source"])
        if self._run is not None and self._config.run_ledger is not None:
            self._run = read_run_state(self._config.run_ledger)
        removed = kept = 0
        for item in plan_file.group(group):
            path = source / item.name
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            changed = stat.st_size != item.bytes or (item.mtime_ns and stat.st_mtime_ns != item.mtime_ns)
            if changed or not self._may_go(item.name):
                kept += 1
                continue
            durable.unlink(path)
            removed += 1
        self._removed += removed
        self._kept += kept
        if kept:
            return
        durable.fsync_folder(source)
        durable.point("merge.after_removal")
        self._ledger.append({"type": "REMOVED", "plan": plan.number, "group": group, "files": removed})

    def _may_go(self, name: str) -> bool:
        run = self._run
        if run is None:
            return True
        start = run.last_epoch_record or {}
        return name.removesuffix(".parquet") in run.marked or start.get("mark") is False

    def _check_outputs(self, plan: PlanState) -> None:
        """Read outputs of an earlier merge once more before their sources go."""
        jobs = [
            {"task": "writers.merge:hash_file", "path": str(self._config.target / record["file"]), "record": record}
            for number, record in plan.merged.items()
            if plan.sorted or number not in plan.removed
        ]
        for job, result in self._pool.run(jobs, lambda _: None):
            record = job["record"]
            if (result["bytes"], result["sha256"]) != (record["bytes"], record["sha256"]):
                raise DamageError(
                    f"{job['path']} is not what was written: its sources are kept; restore it, or remove it "
                    "together with the merge's ledger and merge again"
                )


def hash_file(job: Message, _report: Report) -> Message:
    """Task: size and SHA-256 of a file."""
    digest = hashlib.sha256()
    size = 0
    try:
        with Path(job["path"]).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise DamageError(f"{job['path']} cannot be read ({error.strerror}): its sources are kept") from error
    return {"bytes": size, "sha256": digest.hexdigest()}
