"""The folder of a node process: what a killed one has left goes, what a living one has stays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands.cluster.node_folder import HOT_DIR_ENV, NodeFolder
from engine.errors import SinkError

_NODE = """
import subprocess, sys
from pathlib import Path
from commands.cluster.node_folder import NodeFolder
folder = NodeFolder(Path(sys.argv[1]))
(folder.path / "shard").write_text("half")
child = subprocess.Popen(["sleep", "600"], pass_fds=[folder.lock_fd]) if sys.argv[2] == "child" else None
print(folder.path, child.pid if child else 0, flush=True)
sys.stdin.read()
"""


class OtherNode:
    """Another node process on the machine, and a child that holds its lock."""

    def __init__(self, base: Path, kind: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _NODE, str(base), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None  # asked for
        path, child = self.process.stdout.readline().split()
        self.path, self.child = Path(path), int(child)

    def kill(self) -> None:
        """Kill the node process."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """Where nodes' folders are made."""
    yield tmp_path / "nvme"


def test_what_a_killed_node_process_has_left_is_removed_by_the_next_one(base: Path) -> None:
    other = OtherNode(base, "alone")
    assert (other.path / "shard").exists()

    NodeFolder(base).close()
    assert other.path.exists()
    other.kill()
    NodeFolder(base).close()

    assert not list(base.iterdir())


def test_a_folder_stays_while_a_process_lives_that_works_in_it(base: Path) -> None:
    other = OtherNode(base, "child")
    other.process.kill()  # its child lives on, as a writer does for a moment
    other.process.wait()
    try:
        NodeFolder(base).close()
        assert other.path.exists()
    finally:
        os.kill(other.child, 9)
        other.process.communicate()  # until the child, which has its end of a pipe, is gone, too
    NodeFolder(base).close()

    assert not other.path.exists()


def test_the_environment_of_the_node_says_where_and_a_place_that_cannot_be_is_one_sentence(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOT_DIR_ENV, str(base))
    folder = NodeFolder()
    assert folder.path.parent == base
    folder.close()

    (base / "file").touch()
    monkeypatch.setenv(HOT_DIR_ENV, str(base / "file"))
    with pytest.raises(SinkError, match=HOT_DIR_ENV):
        NodeFolder()
