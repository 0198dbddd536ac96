"""The preflight of folders, on real file systems that cannot do everything and by injected refusals."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import EngineError, SinkError
from engine.ledger import durable, preflight
from engine.ledger.runfolder import RunLock
from tests.parts.poor_disk import mounted


def poor_disk(folder: Path, *refusals: str) -> Iterator[Path]:
    """A mounted file system with these refusals; where root may not mount FUSE the test is skipped."""
    try:
        with mounted(folder / "disk", *refusals) as mount:
            yield mount
    except PermissionError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    """No fail point outlives its test."""
    yield
    durable.arm("test", "")


def check(folder: Path) -> None:
    """Both checks over one folder."""
    lock = RunLock(folder / "lock")
    try:
        preflight.check_ledger_folder(folder, folder / "lock", 1 << 20, "run")
        preflight.check_shards_folder(folder, 1 << 16, "done")
    finally:
        lock.release()


@pytest.mark.parametrize(
    "refusals",
    [
        (),
        ("LINK=EPERM",),
        ("LINK=ENOSYS",),
        ("FSYNCDIR=EINVAL",),
        ("LINK=EOPNOTSUPP", "FSYNCDIR=EINVAL", "FALLOCATE=EOPNOTSUPP"),
        ("RENAME_NEW=EINVAL",),
    ],
    ids=" ".join,
)
def test_a_disk_on_which_everything_can_be_done_in_one_way_or_another_passes(
    tmp_path: Path, refusals: tuple[str, ...]
) -> None:
    """Links or a rename that never replaces; fsync of the folder or of the file system. Nothing is left behind."""
    for disk in poor_disk(tmp_path, *refusals):
        check(disk)

        assert [path.name for path in disk.iterdir()] == ["lock"]


@pytest.mark.parametrize(
    ("refusals", "phrase"),
    [
        (("LINK=EPERM", "RENAME_NEW=EINVAL"), "neither hard links nor a rename that never replaces"),
        (("FSYNC=EIO",), "fsync a file (Input/output error)"),
        (("FSYNCDIR=EIO",), "(Input/output error)"),
        (("RENAME2=EXDEV", "RENAME=EXDEV"), "replace a file by rename (Invalid cross-device link)"),
        (("UNLINK=EPERM",), "remove a file (Operation not permitted)"),
        (("SPACE=",), "is full: 0 KiB are free, 1,024 KiB are needed"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_disk_that_cannot_do_what_a_run_needs_is_refused_by_what_is_missing(
    tmp_path: Path, refusals: tuple[str, ...], phrase: str
) -> None:
    for disk in poor_disk(tmp_path, *refusals):
        with pytest.raises(SinkError) as refused:
            check(disk)

        assert phrase in str(refused.value)
        assert str(disk) in str(refused.value)


@pytest.mark.parametrize("code", ["EPERM", "EOPNOTSUPP", "ENOSYS", "EMLINK"])
def test_a_new_name_without_links_is_given_by_a_rename_that_never_replaces(tmp_path: Path, code: str) -> None:
    """Wherever FUSE cannot be mounted, too."""
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    durable.arm("test", f"durable.link#0={code}")

    durable.name_new(tmp_path / "a", tmp_path / "final")
    with pytest.raises(FileExistsError):
        durable.name_new(tmp_path / "b", tmp_path / "final")

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"final": "a", "b": "b"}


@pytest.mark.parametrize("code", ["EIO", "ENOSPC", "EACCES", "EROFS", "EDQUOT"])
def test_a_device_that_fails_is_not_taken_for_one_that_has_no_links(tmp_path: Path, code: str) -> None:
    """Nor is a second way tried on it."""
    (tmp_path / "a").write_text("a")
    durable.arm("test", f"durable.link#0={code}")

    with pytest.raises(OSError, match=r"injected at durable\.link"):
        durable.name_new(tmp_path / "a", tmp_path / "final")

    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_whose_fsync_fails_is_not_taken_for_one_that_has_none(tmp_path: Path) -> None:
    """After EIO what was lost stays lost: syncing the file system would report success."""
    durable.arm("test", "durable.fsync_folder_alone=EIO")
    with pytest.raises(OSError, match="injected"):
        durable.fsync_folder(tmp_path)

    durable.arm("test", "durable.fsync_folder_alone=EINVAL")
    durable.fsync_folder(tmp_path)


def test_what_a_killed_preflight_left_does_not_stop_the_next(tmp_path: Path) -> None:
    for name in (".run.preflight", ".done.preflight", ".done.preflight-named"):
        (tmp_path / name).write_text("torn")

    check(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_lock_that_two_can_hold_is_refused(tmp_path: Path) -> None:
    """As on a mount that says yes to every lock: here nobody has taken it, which looks the same."""
    (tmp_path / "lock").touch()

    with pytest.raises(SinkError, match="two hold it at once"):
        preflight.check_ledger_folder(tmp_path, tmp_path / "lock", 1, "run")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """What NFS without its lock service and Lustre say; a mount that says so cannot be had here."""

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("engine.ledger.runfolder.fcntl.flock", refuse)

    with pytest.raises(SinkError, match="keeps no locks"):
        RunLock(tmp_path / "lock")


def test_a_limit_of_file_size_below_a_shard_is_refused_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 20, resource.RLIM_INFINITY))

    with pytest.raises(SinkError, match="ulimit -f"):
        preflight.check_shards_folder(tmp_path, 1 << 20, "done")


@pytest.mark.parametrize("call", ["create", "write", "fsync_file", "link", "unlink", "fsync_folder"])
@pytest.mark.parametrize("visit", [1, 2])
def test_whatever_fails_is_a_sentence(tmp_path: Path, call: str, visit: int) -> None:
    durable.arm("test", f"durable.{call}#{visit}=EIO")

    with pytest.raises(EngineError, match="cannot do what is needed there"):
        check(tmp_path)
