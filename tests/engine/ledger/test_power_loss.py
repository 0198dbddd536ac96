"""Power cuts: after every durable call the disk is what was fsynced, and nothing else.

The model is the strict one: bytes count when their file was fsynced, names when their folder was (as in LevelDB's
fault injection tests). After each call the disk that a power cut would leave is built in another folder, and the
recovery that every start takes runs on it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import EngineError
from engine.ledger import durable
from engine.ledger.log import Ledger, RunState
from engine.ledger.recovery import Recovery, commit_record
from engine.ledger.runfolder import RunFolders
from engine.ports import IdList
from tests.writers.shards.test_shard import FINGERPRINT, LEDGER, SCHEMA, identity, rows
from writers.shards.shard import OpenShard
from writers.shards.store import ParquetShards

PREFIX = "done-012345-"


@dataclass
class Disk:
    """What would be left of a folder tree after a power cut.

    Attributes:
        bytes_of: Fsynced content by inode.
        names: Fsynced names: path -> inode.
        cuts: The disk after each durable call: path -> content.
    """

    root: Path
    bytes_of: dict[int, bytes] = field(default_factory=dict)
    names: dict[Path, int] = field(default_factory=dict)
    cuts: list[tuple[str, dict[Path, bytes]]] = field(default_factory=list)

    def sync_file(self, fd: int) -> None:
        """A file's bytes are durable now."""
        size = os.fstat(fd).st_size
        self.bytes_of[os.fstat(fd).st_ino] = os.pread(fd, size, 0)

    def sync_folder(self, folder: Path) -> None:
        """The names in a folder are durable now, and those that went are gone."""
        self.names = {path: inode for path, inode in self.names.items() if path.parent != folder}
        for path in folder.iterdir():
            if path.is_file():
                self.names[path] = path.stat().st_ino

    def note(self, call: str) -> None:
        """Remember the disk as a power cut right now would leave it."""
        left = {path: self.bytes_of.get(inode, b"") for path, inode in self.names.items()}
        self.cuts.append((call, left))

    def build(self, number: int, target: Path) -> str:
        """Lay out the disk of a cut below another root; returns the call it came after."""
        call, left = self.cuts[number]
        shutil.rmtree(target, ignore_errors=True)
        for folder in ("hot", "cold/shards"):
            (target / folder).mkdir(parents=True)
        for path, content in left.items():
            (target / path.relative_to(self.root)).write_bytes(content)
        return call


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A disk that watches every durable call."""
    model = Disk(tmp_path / "live")

    def watch(name: str, after: Callable[..., None] | None) -> None:
        real = getattr(durable, name)

        def call(*arguments: Any, **named: Any) -> Any:
            result = real(*arguments, **named)
            if after is not None:
                after(arguments[0])
            model.note(name)
            return result

        monkeypatch.setattr(durable, name, call)

    watch("create_exclusive", None)
    watch("write_all", None)
    watch("fsync_file", model.sync_file)
    watch("fsync_folder", model.sync_folder)
    watch("name_new", None)
    watch("unlink", None)
    return model


class NoMarks:
    """Marks everything it is given and remembers it."""

    def __init__(self) -> None:
        self.ids: list[Any] = []

    def mark(self, ids: IdList, *, ours_before: bool) -> Any:
        """Mark."""
        self.ids += ids

        @dataclass
        class Outcome:
            matched: int = len(ids)
            already: int = 0
            gone: int = 0
            foreign: int = 0

        return Outcome()


def live(disk: Disk) -> RunFolders:
    """The folders of the run that is going to lose its power."""
    folders = RunFolders(hot=disk.root / "hot", cold=disk.root / "cold")
    (disk.root / "hot").mkdir(parents=True)
    (disk.root / "cold" / "shards").mkdir(parents=True)
    return folders


def commit_two_shards(disk: Disk) -> int:
    """Two shards through the whole commit order; returns how many rows are promised in the end."""
    folders = live(disk)
    ledger = Ledger(folders.ledger, RunState())
    ledger.append({"type": "EPOCH", "epoch": 1, "at": 0})
    for number in (1, 2):
        shard = OpenShard(folders.shards, identity(f"{PREFIX}e0001-00000{number}"), SCHEMA)
        shard.append(rows(number * 100, 4), truncated=0, sequences=(0, 1))
        shard.append(rows(number * 100 + 4, 3), truncated=0, sequences=(2, 3))
        shard.seal()
        ledger.append(commit_record(shard.name()))
        ledger.append(
            {"type": "MARKED", "shard": f"{PREFIX}e0001-00000{number}", "matched": 7, "already": 0, "gone": 0}
        )
    ledger.close()
    return 14


def recover(folder: Path) -> tuple[RunState, list[Any]]:
    """What a start finds and does after a power cut; every rule of the commit protocol is asserted."""
    folders = RunFolders(hot=folder / "hot", cold=folder / "cold")
    store = ParquetShards(folders.shards, SCHEMA, FINGERPRINT, LEDGER)
    before = RunState.of(folders.ledger) if folders.ledger.exists() else RunState()
    for commit in before.commits.values():
        store.check_committed(commit["file"], commit["bytes"], commit["sha256"])  # a COMMIT never outruns its file
    for path in folders.shards.glob("*.parquet"):
        assert pq.read_table(path).num_rows == 7, f"{path.name} has its final name and is not whole"  # G3
    ledger = Ledger(folders.ledger, RunState())
    marker = NoMarks()
    Recovery(folders, ledger, store, marker, PREFIX).run()
    ledger.close()
    left = sorted(path.name for path in folders.shards.iterdir())
    assert left == sorted(commit["file"] for commit in ledger.state.commits.values())
    assert not ledger.state.unmarked()
    return ledger.state, marker.ids


@pytest.mark.seconds
def test_g3_g4_after_a_power_cut_at_any_call_every_shard_is_whole_and_every_commit_has_its_file(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exhaustively: cut after every durable call of two shards, recover, count."""
    promised = commit_two_shards(disk)
    monkeypatch.undo()
    seen = set()

    for number in range(len(disk.cuts)):
        call = disk.build(number, tmp_path / "cut")
        state, marked = recover(tmp_path / "cut")
        assert len(set(marked)) == len(marked), f"cut {number} after {call}"
        seen.add(state.rows)

    assert len(disk.cuts) > 20
    assert seen == {0, 7, 14}
    assert state.rows == promised


@pytest.mark.parametrize("forgotten", ["fsync_file", "fsync_folder"])
def test_the_power_cut_test_notices_a_forgotten_fsync(disk: Disk, tmp_path: Path, forgotten: str) -> None:
    """Break the guarantee on purpose: without either fsync some cut loses a promise."""
    with pytest.MonkeyPatch.context() as broken:
        if forgotten == "fsync_file":
            # the ledger stays honest: only the shard's own fsync is left out
            real = durable.fsync_file
            broken.setattr(
                durable,
                "fsync_file",
                lambda fd: None if "parquet" in str(Path(f"/proc/self/fd/{fd}").readlink()) else real(fd),
            )
        else:
            real_folder = durable.fsync_folder
            broken.setattr(
                durable, "fsync_folder", lambda folder: None if folder.name == "shards" else real_folder(folder)
            )
        commit_two_shards(disk)

    failures = 0
    for number in range(len(disk.cuts)):
        disk.build(number, tmp_path / "cut")
        try:
            recover(tmp_path / "cut")
        except (AssertionError, EngineError, OSError, pa.ArrowException):
            failures += 1
    assert failures > 0
