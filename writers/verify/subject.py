"""What a verification looks at: the files that ledgers name, or those of a folder, and what each should be."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from engine.errors import ConfigError
from engine.ledger.log import RunState
from engine.ledger.runfolder import IN_PROGRESS, lock_owner
from writers.merge.ledger import MergeState, PlanFile, read_merge_state
from writers.merge.planning.listing import list_folder
from writers.merge.start import read_run_state
from writers.parquet.access import FileAccess
from writers.parquet.folder_schema import schema_of_folder
from writers.parquet.merge_schema import MergeSchema, schema_of_run
from writers.parquet.opening import UNREADABLE
from writers.shards.schema import KEY_LEDGER
from writers.verify.config import Findings, VerifyConfig
from writers.verify.file import Expected
from writers.verify.ids import LIVE_SHARD, MERGED_SHARD, OUTPUT


@dataclass(slots=True)
class Subject:
    """Everything there is to check.

    Attributes:
        files: What each file should be, numbered.
        kinds: What each is (`writers.verify.ids`).
        schema: Of all files; None when there are none.
        removed: Shards that a merge removed.
        never_marked: Whether the run has committed shards and marked the documents of none.
    """

    files: list[Expected] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    schema: MergeSchema | None = None
    removed: int = 0
    never_marked: bool = False

    def add(self, path: str, kind: int, **facts: int | str) -> None:
        """Add a file."""
        self.files.append(Expected(path, len(self.files), **facts))  # type: ignore[arg-type]
        self.kinds.append(kind)


def find_subject(config: VerifyConfig, findings: Findings, not_checked: list[str]) -> Subject:
    """Find what there is to check; files that nobody names become findings, what is left out is said.

    Raises:
        ConfigError: there is no ledger, or no file in a plain folder.
        DamageError: a ledger, or the first file of a plain folder, cannot be read.
    """
    if config.folder is not None:
        return _of_folder(config, config.folder, not_checked)
    return _Finder(config, findings, not_checked).find()


class _Finder:
    """Goes by the run's ledger and the merge's."""

    def __init__(self, config: VerifyConfig, findings: Findings, not_checked: list[str]) -> None:
        self._config = config
        self._findings = findings
        self._not_checked = not_checked
        self._subject = Subject()
        self._files = FileAccess(config.cold)

    def find(self) -> Subject:
        """See `find_subject`."""
        config, subject = self._config, self._subject
        run = None if config.run_ledger is None else read_run_state(config.run_ledger)
        if run is not None and run.run is not None:
            subject.schema = schema_of_run(run.run, str(config.run_ledger), run.accepted)
            subject.never_marked = bool(run.commits) and not run.marked
            if config.level >= 4 and "part" in run.run:
                self._not_checked.append(
                    f"the documents of other shares: this is the data set of --part {run.run['part']}, verify the "
                    "others with their --hot-dir"
                )
        folder = config.consolidated or config.merged_into
        merge = None if folder is None else self._merge_of(folder)
        if config.shards is not None and run is not None:
            merged = set() if merge is None or folder is None else _merged(folder, merge)
            self._add_shards(run, config.shards, merged)
        if config.consolidated is not None and merge is not None:
            self._add_outputs(config.consolidated, merge)
        if not subject.files:
            self._not_checked.append("there is no file that a ledger names: nothing has been committed yet")
        return subject

    def _merge_of(self, folder: Path) -> MergeState | None:
        """What was merged into a folder, when it is of this data set."""
        merge = read_merge_state(folder)
        if merge is None or merge.merge is None:
            return merge
        held = MergeSchema.from_dict(merge.merge["schema"]).of_outputs()
        if self._subject.schema is None:
            self._subject.schema = held
        elif differences := self._subject.schema.differences(held):
            self._not_checked.append(f"{folder} holds another data set: {'; '.join(differences)}")
            return None
        return merge

    def _add_shards(self, run: RunState, folder: Path, merged: set[str]) -> None:
        assert run.run is not None  # read_run_state has seen to it
        ledger = str(run.run["ledger"])
        for commit in run.commits.values():
            path = self._files.path(folder, commit["file"])
            if commit["file"] in merged and not self._files.exists(path):
                self._subject.removed += 1  # by `--delete-sources`; its rows are looked for in the output
                continue
            self._subject.add(
                path,
                MERGED_SHARD if commit["file"] in merged else LIVE_SHARD,
                bytes=commit["bytes"],
                sha256=commit["sha256"],
                rows=commit["rows"],
                id_digest=commit["id_digest"],
                ledger=ledger,
            )
        self._look_for_extra(folder, {commit["file"] for commit in run.commits.values()}, ledger.encode())

    def _run_goes_on(self) -> bool:
        lock = self._config.run_lock
        return lock is not None and lock_owner(lock) is not None

    def _committed_now(self) -> set[str]:
        """Shards of the run's ledger as it is now: a run may have committed some since it was read."""
        path = self._config.run_ledger
        return set() if path is None else {str(commit["file"]) for commit in read_run_state(path).commits.values()}

    def _add_outputs(self, folder: Path, merge: MergeState) -> None:
        records = merge.outputs()
        for record in records:
            self._subject.add(
                self._files.path(folder, record["file"]),
                OUTPUT,
                bytes=record["bytes"],
                sha256=record["sha256"],
                rows=record["rows"],
                id_digest=record["id_digest"],
                row_digest=record["row_digest"],
            )
        if merge.open_plan() is not None:
            self._not_checked.append(f"the merge into {folder} is not finished: run `engine merge` again")
        self._look_for_extra(folder, {record["file"] for record in records}, None)

    def _look_for_extra(self, folder: Path, known: set[str], ledger: bytes | None) -> None:
        """Files that a reader of `*.parquet` would take for data although no ledger names them."""
        names = self._files.names(folder)
        unfinished = sum(name.endswith(IN_PROGRESS) for name in names)
        unknown = [name for name in names if name not in known and name.endswith(".parquet")]
        others = being_committed = 0
        going_on = bool(unknown) and ledger is not None and self._run_goes_on()
        known_now = self._committed_now() if going_on else set()
        for name in unknown:
            path = self._files.path(folder, name)
            said = self._ledger_of(path)
            if ledger is not None and said not in (b"", ledger):
                others += 1
            elif going_on and (name in known_now or said == ledger):
                being_committed += 1
            else:
                self._findings.add("extra", f"{path} is not in the ledger")
        if being_committed:
            self._not_checked.append(f"{being_committed} shards that the run has committed since, or is committing")
        if others:
            self._not_checked.append(f"{others} files of other data sets in {folder}")
        if unfinished:
            self._not_checked.append(f"{unfinished} unfinished files in {folder}")

    def _ledger_of(self, path: str) -> bytes:
        """The run's ledger that a file names."""
        try:
            metadata = pq.read_metadata(self._files.source(path)).metadata or {}
        except UNREADABLE:
            return b""
        return bytes(metadata.get(KEY_LEDGER, b""))


def _merged(folder: Path, merge: MergeState) -> set[str]:
    """Shards whose rows recorded outputs hold."""
    merged: set[str] = set()
    for plan in merge.plans.values():
        file = PlanFile(folder, plan.record)
        for group in range(plan.n_groups):
            if plan.done or (not plan.sorted and group in plan.merged):
                merged |= {item.name for item in file.group(group)}
    return merged


def _of_folder(config: VerifyConfig, folder: Path, not_checked: list[str]) -> Subject:
    subject = Subject()
    for name in list_folder(folder, folder / ".none").names:
        subject.add(str(folder / bytes(name).decode(errors="surrogateescape")), LIVE_SHARD)
    if not subject.files:
        raise ConfigError(f"{folder} holds no Parquet file: name the folder of the Parquet files")
    files = ((item.path, Path(item.path)) for item in subject.files)
    subject.schema = schema_of_folder(files, config.id_column, config.vector_column)
    not_checked.append("level 0 (size and SHA-256): no ledger says what these files should be")
    return subject
