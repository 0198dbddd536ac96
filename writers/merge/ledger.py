"""What a merge remembers: its own ledger beside its outputs, and the plans that the ledger's records refer to.

Records, in the order in which a merge writes them (docs/protocols/merge.md):

* `MERGE`    once: the schema and fingerprint of everything in the folder;
* `START`    every start: an epoch, which names unfinished files;
* `PLAN`     which inputs go into which group, in a file of its own (inputs may be a million);
* `SPILLED`  (sorting only) a group's rows are in sorted runs;
* `RANGES`   (sorting only) which ids go into which output;
* `MERGED`   an output is durable under its final name and equals its inputs. The commit point;
* `REMOVED`  a group's sources are removed;
* `DONE`     a plan is finished.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import orjson

from engine.errors import DamageError
from engine.ledger import durable
from engine.ledger.log import Record, read_records

LEDGER = ".merge-ledger"
LOCK = ".merge-lock"
TEMPORARY = ".merge-tmp"
_WRITE_BYTES = 1 << 20


class PlannedInput(NamedTuple):
    """One input as a plan names it.

    Attributes:
        name: Path below the source folder.
        bytes: Size of the file when it was planned.
        mtime_ns: Its time of modification then; 0 when a ledger vouches for its content.
        rows: Rows in it.
        sha256: What the run's ledger says of it; empty for a foreign file.
        id_digest: Likewise.
    """

    name: str
    bytes: int
    mtime_ns: int
    rows: int
    sha256: str = ""
    id_digest: str = ""


@dataclass(slots=True)
class PlanState:
    """How far a plan has come.

    Attributes:
        record: The PLAN record.
        spilled: SPILLED records by group.
        ranges: The RANGES record, or None.
        merged: MERGED records by output number.
        removed: Groups whose sources are removed (or were kept on purpose).
        done: Whether nothing is left to do.
    """

    record: Record
    spilled: dict[int, Record] = field(default_factory=dict)
    ranges: Record | None = None
    merged: dict[int, Record] = field(default_factory=dict)
    removed: set[int] = field(default_factory=set)
    done: bool = False

    @property
    def number(self) -> int:
        """The plan's number, from 1."""
        return int(self.record["plan"])

    @property
    def sorted(self) -> bool:
        """Whether its outputs are sorted by id."""
        return bool(self.record["sort"] == "_id")

    @property
    def n_groups(self) -> int:
        """Groups of inputs."""
        return int(self.record["groups"])

    @property
    def n_outputs(self) -> int | None:
        """Files it makes, or None while that is not known."""
        if not self.sorted:
            return self.n_groups
        return None if self.ranges is None else int(self.ranges["outputs"])


@dataclass(slots=True)
class MergeState:
    """What the records of a merge's ledger amount to.

    Attributes:
        merge: The MERGE record, or None in a new ledger.
        epoch: The last start.
        plans: All plans by number.
    """

    merge: Record | None = None
    epoch: int = 0
    plans: dict[int, PlanState] = field(default_factory=dict)

    def apply(self, record: Record) -> None:
        """Take one record in; types it does not know are left alone."""
        kind = record.get("type")
        if kind == "MERGE":
            self.merge = record
        elif kind == "START":
            self.epoch = int(record["epoch"])
        elif kind == "PLAN":
            self.plans[int(record["plan"])] = PlanState(record)
        elif kind in ("SPILLED", "RANGES", "MERGED", "REMOVED", "DONE"):
            self._apply_to_plan(kind, self.plans[int(record["plan"])], record)

    def _apply_to_plan(self, kind: str, plan: PlanState, record: Record) -> None:
        if kind == "SPILLED":
            plan.spilled[int(record["group"])] = record
        elif kind == "RANGES":
            plan.ranges = record
        elif kind == "MERGED":
            plan.merged[int(record["output"])] = record
        elif kind == "REMOVED":
            plan.removed.add(int(record["group"]))
        else:
            plan.done = True

    def open_plan(self) -> PlanState | None:
        """The plan that is not finished, or None; there is never more than one."""
        return next((plan for plan in self.plans.values() if not plan.done), None)

    def outputs(self) -> list[Record]:
        """MERGED records of all plans, in the order of plans and outputs."""
        return [plan.merged[number] for plan in self.plans.values() for number in sorted(plan.merged)]


def read_merge_state(folder: Path) -> MergeState | None:
    """What the merges into a folder have come to; None when there were none. Takes no lock, changes nothing.

    Raises:
        DamageError: the ledger is damaged in the middle.
    """
    path = folder / LEDGER
    if not path.exists():
        return None
    state = MergeState()
    for record in read_records(path)[0]:
        state.apply(record)
    return state


def output_name(plan: int, number: int) -> str:
    """Final name of an output."""
    return f"part-{plan:04d}-{number:06d}.parquet"


def sources_list(plan: int) -> str:
    """Name of the file with the name and SHA-256 of every source of a sorted plan, a JSON array a line."""
    return f".merge-inputs-{plan:04d}.jsonl"


class PlanFile:
    """The groups of a plan, one JSON array of inputs a line, written once.

    Attributes:
        path: The file.
        counts: Inputs in each group.
    """

    def __init__(self, folder: Path, plan: Record) -> None:
        """Open a plan file and compare it with the PLAN record.

        Raises:
            DamageError: it is missing or not what was written.
        """
        self.path = folder / str(plan["file"])
        self._offsets: list[tuple[int, int]] = []
        self.counts: list[int] = []
        digest = hashlib.sha256()
        try:
            with self.path.open("rb") as stream:
                offset = 0
                for line in stream:
                    digest.update(line)
                    self._offsets.append((offset, len(line)))
                    self.counts.append(len(orjson.loads(line)))
                    offset += len(line)
        except OSError as error:
            raise DamageError(f"the plan {self.path} cannot be read ({error.strerror}): restore it") from error
        if digest.hexdigest() != plan["sha256"]:
            raise DamageError(f"the plan {self.path} is not what was written: restore it from a copy")

    def place(self, group: int) -> tuple[int, int]:
        """Offset and length of a group's line."""
        return self._offsets[group]

    def group(self, group: int) -> list[PlannedInput]:
        """The inputs of a group, in their order."""
        return read_group(self.path, *self._offsets[group])

    def inputs(self) -> Iterator[PlannedInput]:
        """All inputs, group by group."""
        for group in range(len(self._offsets)):
            yield from self.group(group)


def read_group(path: Path, offset: int, length: int) -> list[PlannedInput]:
    """The inputs that one line of a plan file names."""
    with path.open("rb") as stream:
        stream.seek(offset)
        return [PlannedInput(*item) for item in orjson.loads(stream.read(length))]


def write_durable_lines(path: Path, lines: Iterator[bytes]) -> str:
    """Write a file whole and durable under its name, replacing one that no record refers to; returns its SHA-256."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    digest = hashlib.sha256()
    fd = durable.create_exclusive(temporary)
    try:
        buffer = bytearray()
        for line in lines:
            digest.update(line)
            buffer += line
            if len(buffer) >= _WRITE_BYTES:
                durable.write_all(fd, bytes(buffer))
                buffer.clear()
        durable.write_all(fd, bytes(buffer))
        durable.fsync_file(fd)
    finally:
        os.close(fd)
    durable.point("durable.rename")
    temporary.replace(path)
    durable.fsync_folder(path.parent)
    return digest.hexdigest()
