"""The durable calls and their fail points."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.ledger import durable


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A raw write may take less than it was given and say nothing."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[: max(1, len(data) // 3)]))
    fd = durable.create_exclusive(tmp_path / "file")

    durable.write_all(fd, bytes(range(256)) * 10)
    os.close(fd)

    assert (tmp_path / "file").read_bytes() == bytes(range(256)) * 10


def test_a_file_size_limit_is_an_error_and_not_a_torn_file_taken_for_whole(tmp_path: Path) -> None:
    """The first write past the limit is short, only the one after it fails."""
    code = (
        "import sys; from engine.ledger import durable; from pathlib import Path\n"
        "try: durable.write_all(durable.create_exclusive(Path(sys.argv[1])), b'x' * 10_000)\n"
        "except OSError as error: print(error.strerror)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "file")],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )

    assert done.stdout.strip() == "File too large"


def test_a_name_that_is_taken_is_never_replaced(tmp_path: Path) -> None:
    """Neither by a new file nor by a link."""
    (tmp_path / "taken").write_text("theirs")
    (tmp_path / "ours").write_text("ours")

    with pytest.raises(FileExistsError):
        durable.create_exclusive(tmp_path / "taken")
    with pytest.raises(FileExistsError):
        durable.name_new(tmp_path / "ours", tmp_path / "taken")

    assert (tmp_path / "taken").read_text() == "theirs"


def test_a_small_file_is_replaced_as_a_whole_and_a_failure_leaves_the_old_one(tmp_path: Path) -> None:
    """Whatever call fails."""
    path = tmp_path / "small"
    durable.replace_file(path, b"old")
    for call in ("write", "fsync_file", "rename"):
        durable.arm("test", f"durable.{call}=EIO")
        with pytest.raises(OSError, match="injected"):
            durable.replace_file(path, b"new")
        assert path.read_bytes() == b"old"

    durable.arm("test", "")
    durable.replace_file(path, b"new")

    assert path.read_bytes() == b"new"


def test_a_fail_point_fires_for_its_role_at_its_visit(tmp_path: Path) -> None:
    """`client` means every client."""
    durable.arm("client-3", "writer/step=EIO; client/step#2=ENOSPC")
    durable.point("step")
    with pytest.raises(OSError, match="No space left"):
        durable.point("step")
    durable.point("step")
    durable.arm("test", "")


@pytest.mark.parametrize("text", ["step", "step="])
def test_a_fail_point_that_cannot_be_read_is_refused(text: str) -> None:
    """A crash test with a typing mistake must not pass."""
    with pytest.raises(ConfigError, match="ENGINE_FAILPOINTS"):
        durable.arm("test", text)


def test_an_action_that_is_none_is_refused_when_it_fires() -> None:
    """By name."""
    durable.arm("test", "step=EXPLODE")
    with pytest.raises(ConfigError, match="EXPLODE"):
        durable.point("step")
    durable.arm("test", "")
