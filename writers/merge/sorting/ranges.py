"""Before sorted outputs can be made: the sorted runs of every group, and which ids go into which output."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import orjson

from engine.errors import SinkError
from engine.ledger import durable
from engine.ledger.log import Ledger
from engine.memory.channels import Message
from writers.merge.config import MergeConfig
from writers.merge.ledger import MergeState, PlanFile, PlanState, sources_list, write_durable_lines
from writers.merge.sorting.runs import RunPaths
from writers.merge.sorting.sort import cut_ranges
from writers.parquet.merge_schema import MergeSchema
from writers.workers.pool import Pool
from writers.workers.tracker import Tracker

_RANGE_BYTES = 64 << 20
"""Of ids and carried columns that a worker holds at once while it gathers an output."""

_LISTED_INPUTS = 1000
"""A sorted output names its sources in its own footer up to that many; beyond, in one file for all."""

_EXTRA_ROW_BYTES = 64  # id, hash and their share of the batches, in a sorted run


class Ranges:
    """Pass 1 of sorting, and the cut between the passes (writers/merge/sorting/sort.py)."""

    def __init__(
        self, config: MergeConfig, ledger: Ledger[MergeState], pool: Pool, tracker: Tracker, common: Message
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._pool = pool
        self._tracker = tracker
        self._common = common
        self._folder = config.temporary_folder / "runs"

    def prepare(self, plan: PlanState, plan_file: PlanFile) -> None:
        """Make the runs that are missing, and cut the ids into ranges unless that is done."""
        if plan.n_outputs is None or len(plan.merged) < plan.n_outputs:
            self._spill(plan, plan_file)
        if plan.ranges is None:
            self._cut(plan)
        else:
            self._refresh(plan)

    def _spill(self, plan: PlanState, plan_file: PlanFile) -> None:
        """Make the runs of every group that has none, or none that is sound."""
        self._folder.mkdir(parents=True, exist_ok=True)
        jobs: list[Message] = [
            {
                **self._common,
                "group": group,
                "place": plan_file.place(group),
                "first": sum(plan_file.counts[:group]),
                "sort_bytes": self._config.sort_bytes,
            }
            for group in range(plan.n_groups)
        ]
        sound = self._sound_groups(plan, jobs)
        missing = [
            {**job, "task": "writers.merge.sorting.runs:spill_group"} for job in jobs if job["group"] not in sound
        ]
        rows = int(plan.record["rows"]) - sum(int(plan.spilled[group]["rows"]) for group in sound)
        self._check_space(rows)
        self._tracker.begin("sort", rows, len(missing))
        for job, facts in self._pool.run(missing, self._tracker.take):
            durable.point("merge.before_spilled")
            self._ledger.append({"type": "SPILLED", "plan": plan.number, "group": job["group"], **facts})
            self._tracker.take({"files": 1})
        self._tracker.tell(now=True)

    def _sound_groups(self, plan: PlanState, jobs: list[Message]) -> set[int]:
        checks = [
            {**job, "task": "writers.merge.sorting.runs:check_runs", "facts": plan.spilled[int(job["group"])]}
            for job in jobs
            if job["group"] in plan.spilled
        ]
        return {int(job["group"]) for job, result in self._pool.run(checks, lambda _: None) if result["sound"]}

    def _check_space(self, rows: int) -> None:
        schema = MergeSchema.from_dict(self._common["schema"])
        needed = rows * (schema.dim * schema.dtype.itemsize + _EXTRA_ROW_BYTES)
        stats = os.statvfs(self._folder)
        free = stats.f_bavail * stats.f_frsize
        if needed > free:
            raise SinkError(
                f"sorting needs about {needed >> 20} MiB in {self._folder}, {free >> 20} MiB are free: "
                "free space, or name another --temp-dir"
            )

    def _cut(self, plan: PlanState) -> None:
        """Decide which ids go into which output, and write down what all outputs were made of."""
        record = plan.record
        n_outputs = max(1, -(-int(record["expected_bytes"]) // int(record["file_bytes"])), plan.n_groups)
        rows = max(1, sum(int(spilled["rows"]) for spilled in plan.spilled.values()))
        other_bytes = sum(int(spilled["other_bytes"]) for spilled in plan.spilled.values())
        range_rows = max(1, _RANGE_BYTES * rows // max(rows, other_bytes))
        bounds = cut_ranges(self._folder, plan.number, plan.spilled, n_outputs, range_rows)
        inputs = self._config.target / sources_list(plan.number)
        digest = write_durable_lines(inputs, self._source_lines(plan))
        lineage: dict[str, Any] = {"inputs": int(record["inputs"]), "list": inputs.name, "list_sha256": digest}
        if lineage["inputs"] <= _LISTED_INPUTS:
            lineage["files"] = [orjson.loads(line) for line in inputs.read_bytes().splitlines()]
        self._ledger.append(
            {
                "type": "RANGES",
                "plan": plan.number,
                "outputs": len(bounds),
                "bounds": bounds,
                "lineage": lineage,
                **self._write(plan, bounds),
            }
        )
        durable.point("merge.after_ranges")

    def _refresh(self, plan: PlanState) -> None:
        """Runs that were made again may be cut otherwise; the ranges of ids stay."""
        assert plan.ranges is not None  # the caller has looked
        facts = self._write(plan, plan.ranges["bounds"])
        if facts["sha256"] != plan.ranges["sha256"]:
            self._ledger.append({**plan.ranges, **facts})

    def _write(self, plan: PlanState, bounds: list[list[Any]]) -> dict[str, Any]:
        """The file that workers read: the runs of every group, then the bounds of every output."""
        name = f".merge-ranges-{plan.number:04d}.jsonl"
        lines = [orjson.dumps([plan.spilled[group]["runs"] for group in sorted(plan.spilled)]) + b"\n"]
        lines += [orjson.dumps(item) + b"\n" for item in bounds]
        places, offset = [], 0
        for line in lines:
            places.append((offset, len(line)))
            offset += len(line)
        sha256 = write_durable_lines(self._config.target / name, iter(lines))
        return {"file": name, "places": places[1:], "sha256": sha256}

    def _source_lines(self, plan: PlanState) -> Iterator[bytes]:
        for group in sorted(plan.spilled):
            with RunPaths.of(self._folder, plan.number, group).sources.open("rb") as stream:
                yield from stream
