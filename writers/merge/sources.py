"""Removing sources, after the record that their rows are elsewhere, and only those that nobody needs any more."""

from __future__ import annotations

from pathlib import Path

from engine.errors import DamageError
from engine.ledger import durable
from engine.ledger.log import Ledger
from engine.memory.channels import Message
from writers.merge.config import MergeConfig
from writers.merge.ledger import MergeState, PlanFile, PlannedInput, PlanState
from writers.merge.planning.listing import folder_keys
from writers.merge.start import read_run_state
from writers.parquet.access import FileAccess
from writers.parquet.merge_schema import MergeSchema
from writers.workers.pool import Pool, Report
from writers.workers.tracker import Tracker


class Sources:
    """The inputs of recorded outputs.

    Attributes:
        removed: FileAccess removed by this merge.
        kept: Files that were to go and could not.
    """

    def __init__(self, config: MergeConfig, ledger: Ledger[MergeState], pool: Pool, tracker: Tracker) -> None:
        self._config = config
        self._access = FileAccess(config.cold)
        self._ledger = ledger
        self._pool = pool
        self._tracker = tracker
        self._tried: set[tuple[int, int]] = set()
        self.removed = 0
        self.kept = 0

    def remove_group(self, plan: PlanState, plan_file: PlanFile, group: int) -> None:
        """Remove the sources of one group of a plan whose output is recorded."""
        self._tried.add((plan.number, group))
        source, access = Path(plan.record["source"]), self._access
        may_go = self._settled_shards()
        assert self._ledger.state.merge is not None  # there is a plan
        schema = MergeSchema.from_dict(self._ledger.state.merge["schema"])
        removed = kept = 0
        for item in plan_file.group(group):
            path = access.path(source, item.name)
            try:
                same = _is_same(access, path, item)
            except FileNotFoundError:
                continue
            is_needed = may_go is not None and item.name not in may_go
            if not same or is_needed or folder_keys([item.name], schema):
                kept += 1
                continue
            if access.is_remote(path):
                access.delete(path)
            else:
                durable.unlink(Path(path))
            removed += 1
        self.removed += removed
        self.kept += kept
        if kept:
            return
        if access.is_local:
            durable.fsync_folder(source)
        durable.point("merge.after_removal")
        self._ledger.append({"type": "REMOVED", "plan": plan.number, "group": group, "files": removed})

    def remove_plan(self, plan: PlanState, plan_file: PlanFile) -> None:
        """Remove the sources of all groups that still have theirs and were not tried yet."""
        self._tracker.begin("remove", None, plan.n_groups)
        for group in range(plan.n_groups):
            if group not in plan.removed and (plan.number, group) not in self._tried:
                self.remove_group(plan, plan_file, group)
                self._tracker.take({"files": 1})

    def remove_left(self) -> None:
        """Remove the sources of earlier plans that were merged without `--delete-sources`, or could not go then."""
        for plan in list(self._ledger.state.plans.values()):
            left = {group for group in range(plan.n_groups) if group not in plan.removed}
            if plan.done and any((plan.number, group) not in self._tried for group in left):
                self._check_outputs(plan)
                self.remove_plan(plan, PlanFile(self._config.target, plan.record))

    def _settled_shards(self) -> set[str] | None:
        """Files of shards that their run needs no more; None where there is no run.

        A run over MongoDB marks from those whose documents are not marked yet, and with `--no-mark` learns from them
        what is done. One over files has that in its ledger.
        """
        if self._config.run_ledger is None:
            return None
        run = read_run_state(self._config.run_ledger)
        return {str(run.commits[shard]["file"]) for shard in run.marked | run.positioned if shard in run.commits}

    def _check_outputs(self, plan: PlanState) -> None:
        """Read outputs of an earlier merge once more before their sources go.

        Raises:
            DamageError: one is not what was written.
        """
        jobs: list[Message] = [
            {
                "task": "writers.merge.sources:hash_file",
                "path": self._access.path(self._config.target, record["file"]),
                "cold": self._config.cold_dict,
                **record,
            }
            for number, record in plan.merged.items()
            if plan.sorted or number not in plan.removed
        ]
        for job, result in self._pool.run(jobs, lambda _: None):
            if (result["bytes"], result["sha256"]) != (job["bytes"], job["sha256"]):
                raise DamageError(
                    f"{job['path']} is not what was written: its sources are kept; restore it, or remove it "
                    "together with the merge's ledger and merge again"
                )


def _is_same(access: FileAccess, path: str, item: PlannedInput) -> bool:
    """Whether a source is still the file that was merged, as far as its size and time say."""
    size, mtime_ns = access.size_and_mtime(path)
    return size == item.bytes and (not item.mtime_ns or mtime_ns == item.mtime_ns)


def hash_file(job: Message, _report: Report) -> Message:
    """Task: size and SHA-256 of a file."""
    try:
        size, sha256 = FileAccess.from_dict(job["cold"]).size_and_sha256(job["path"])
    except OSError as error:
        raise DamageError(f"{job['path']} cannot be read ({error.strerror}): its sources are kept") from error
    return {"bytes": size, "sha256": sha256}
