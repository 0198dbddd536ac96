"""One merge from recovery to its last record: the coordinator's part (docs/protocols/merge.md)."""

from __future__ import annotations

import contextlib
import time
import uuid
from pathlib import Path

from engine.errors import DamageError
from engine.ledger import durable
from engine.ledger.log import Ledger, Record, RunState
from engine.ledger.runfolder import IN_PROGRESS
from engine.memory.channels import Message
from writers.merge.config import MergeConfig, MergeReport
from writers.merge.ledger import LEDGER, MergeState, PlanFile, PlanState, output_name
from writers.merge.planning.drops import check_drops
from writers.merge.planning.plan import find_inputs, make_plan
from writers.merge.recovery import (
    delete_temporaries,
    delete_unfinished,
    name_is_taken,
    recover,
    refuse_other_settings,
)
from writers.merge.sources import Sources
from writers.merge.start import read_run_state
from writers.parquet.access import FileAccess
from writers.proof.digests import MASK
from writers.workers.pool import Pool
from writers.workers.tracker import Tracker


class Merge:
    """One merge, holding the lock."""

    def __init__(self, config: MergeConfig, pool: Pool, tracker: Tracker, started: float) -> None:
        self._config = config
        self._pool = pool
        self._tracker = tracker
        self._started = started
        self._ledger = Ledger(config.target / LEDGER, MergeState())
        self._state: MergeState = self._ledger.state
        self._access = FileAccess(config.cold)
        self._sources = Sources(config, self._ledger, pool, tracker)
        self._made: list[Record] = []
        self._folder_keys: list[str] = []
        self._inputs = self._resumed = self._dropped = self._already = 0

    def run(self) -> MergeReport:
        """Recover, finish what is open, then plan and do what is new."""
        config = self._config
        run = None if config.run_ledger is None else read_run_state(config.run_ledger)
        self._ledger.append({"type": "START", "epoch": self._state.epoch + 1, "at": time.time()})
        try:
            recover(config, self._state, self._access)
            plan = self._state.open_plan()
            if plan is not None:
                refuse_other_settings(config, plan)
                self._finish(plan)
            plan = self._plan(run)
            if plan is not None:
                self._finish(plan)
            if config.delete_sources:
                self._sources.remove_left()
        except BaseException:
            self._pool.close()
            with contextlib.suppress(OSError):  # the next start deletes them too; the first error is the one to tell
                delete_unfinished(config.target)
            raise
        finally:
            self._ledger.close()
        return self._report()

    def _report(self) -> MergeReport:
        return MergeReport(
            target=self._access.path(self._config.target, ""),
            inputs=self._inputs,
            rows=sum(int(record["rows"]) for record in self._made),
            files=len(self._made),
            bytes=sum(int(record["bytes"]) for record in self._made),
            resumed_files=self._resumed,
            already_merged=self._already,
            duplicates_dropped=self._dropped,
            sources_removed=self._sources.removed,
            sources_kept=self._sources.kept,
            folder_keys=self._folder_keys,
            seconds=round(time.monotonic() - self._started, 3),
        )

    def _plan(self, run: RunState | None) -> PlanState | None:
        found = find_inputs(self._config, self._state, run)
        self._already, self._folder_keys = found.already_merged, found.folder_keys
        if found.schema is None or not len(found.listing):
            return None
        number = max(self._state.plans, default=0) + 1
        record = make_plan(self._config, self._state, found, self._pool, self._tracker, number)
        if record is None:
            return None
        if self._state.merge is None:
            ledger = None if run is None or run.run is None else run.run["ledger"]
            schema = found.schema.as_dict()
            self._ledger.append(
                {"type": "MERGE", "format": 1, "merge": uuid.uuid4().hex[:12], "run": ledger, "schema": schema}
            )
        durable.point("merge.before_plan")
        self._ledger.append(record)
        durable.point("merge.after_plan")
        return self._state.plans[number]

    def _finish(self, plan: PlanState) -> None:
        """Make the outputs that a plan still lacks."""
        config = self._config
        self._resumed += len(plan.merged)
        drops = plan.record["drops"]
        if drops is not None:
            check_drops(config.target, drops)
            self._dropped += int(drops["rows"])
        plan_file = PlanFile(config.target, plan.record)
        if plan.sorted:
            from writers.merge.sorting.ranges import Ranges  # noqa: PLC0415 - Arrow's functions take a while to import

            Ranges(config, self._ledger, self._pool, self._tracker, self._common(plan)).prepare(plan, plan_file)
        # Many small files take longest for their bytes: begun first, no core waits for them in the end.
        jobs = sorted(self._output_jobs(plan, plan_file), key=lambda job: -int(job["place"][1]))
        done_rows = sum(int(record["rows"]) for record in plan.merged.values())
        self._tracker.begin("merge", int(plan.record["rows"]) - done_rows, len(jobs))
        for job, facts in self._pool.run(jobs, self._tracker.take):
            self._commit(plan, job, facts)
            self._tracker.take({"files": 1})
            if config.delete_sources and not plan.sorted:
                self._sources.remove_group(plan, plan_file, int(job["number_of_output"]))
        self._tracker.tell(now=True)
        _check_whole(plan)
        self._ledger.append({"type": "DONE", "plan": plan.number})
        self._inputs += int(plan.record["inputs"])
        if config.delete_sources and plan.sorted:
            self._sources.remove_plan(plan, plan_file)
        delete_temporaries(config)

    def _common(self, plan: PlanState) -> Message:
        """What all jobs of a plan are told."""
        assert self._state.merge is not None  # there is a plan
        drops = plan.record["drops"]
        return {
            "schema": self._state.merge["schema"],
            "plan": str(self._config.target / plan.record["file"]),
            "number": plan.number,
            "source": plan.record["source"],
            "drops": None if drops is None else str(self._config.target / drops["file"]),
            "row_group_bytes": plan.record["row_group_bytes"],
            "runs": str(self._config.temporary_folder / "runs"),
            "cold": self._config.cold_dict,
        }

    def _output_jobs(self, plan: PlanState, plan_file: PlanFile) -> list[Message]:
        common = self._common(plan)
        assert plan.n_outputs is not None  # ranges are cut before outputs are made
        jobs: list[Message] = []
        for number in range(plan.n_outputs):
            if number in plan.merged:
                continue
            name = output_name(plan.number, number)
            job: Message = {
                **common,
                "number_of_output": number,
                "output": str(self._config.target / f"{name}.{self._state.epoch}{IN_PROGRESS}"),
                "footer": self._footer(plan, number, name),
            }
            if plan.ranges is not None:
                job["task"] = "writers.merge.sorting.sort:gather_output"
                job["ranges"] = str(self._config.target / plan.ranges["file"])
                job["place"] = plan.ranges["places"][number]
                job["lineage"] = plan.ranges["lineage"]
            else:
                job["task"] = "writers.merge.outputs.group:merge_group"
                job["place"] = plan_file.place(number)
                job["first"] = sum(plan_file.counts[:number])
            jobs.append(job)
        return jobs

    def _footer(self, plan: PlanState, number: int, name: str) -> Message:
        assert self._state.merge is not None  # there is a plan
        return {
            "version": self._config.version,
            "epoch": self._state.epoch,
            "name": name.removesuffix(".parquet"),
            "merge": self._state.merge["merge"],
            "plan": plan.number,
            "output": number,
            "sort": plan.record["sort"],
        }

    def _commit(self, plan: PlanState, job: Message, facts: Message) -> None:
        """Give a finished file its name and record it; only then does it count."""
        number = int(job["number_of_output"])
        temporary = Path(job["output"])
        final = self._config.target / output_name(plan.number, number)
        durable.point("merge.before_link")
        try:
            durable.name_new(temporary, final)
        except FileExistsError as error:
            raise name_is_taken(final) from error
        durable.point("merge.after_link")
        durable.fsync_folder(self._config.target)
        durable.point("merge.after_folder_fsync")
        if self._config.cold is not None:
            self._access.upload(final, self._access.path(self._config.target, final.name), str(facts["sha256"]))
        record = {"plan": plan.number, "output": number, "epoch": self._state.epoch, "file": final.name, **facts}
        self._ledger.append({"type": "MERGED", **record})
        durable.point("merge.after_merged")
        durable.unlink(temporary)
        if self._config.cold is not None:
            durable.unlink(final)  # the store has it
        self._made.append(record)


def _check_whole(plan: PlanState) -> None:
    """All outputs of a plan against all its inputs, before it is done and before any sorted source may go.

    Raises:
        DamageError: rows were lost or changed between the passes.
    """
    rows = sum(int(record["rows"]) for record in plan.merged.values())
    if rows != plan.record["rows"]:
        raise DamageError(
            f"the outputs of plan {plan.number} have {rows} rows, its inputs {plan.record['rows']}: report this; "
            "nothing was removed"
        )
    if plan.sorted:
        before, after = (
            sum(int(record["row_digest"], 16) for record in records) & MASK
            for records in (plan.spilled.values(), plan.merged.values())
        )
        if before != after:
            raise DamageError(
                f"the outputs of plan {plan.number} hold other rows than its inputs: report this; nothing was removed"
            )
