"""`engine quarantine list` and `retry`: whatever the file's size, and killed at any step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tracemalloc
from pathlib import Path

import pytest

from commands.quarantine.quarantine import as_text, entries_with, retry
from commands.terminal.output import list_as_json
from engine.ledger.log import frame
from engine.ledger.quarantine import each_entry
from engine.ledger.runfolder import RunFolders
from engine.supervision.interpreter import python
from tests.cli.terminal import Terminal

N_ENTRIES = 20_000


@pytest.fixture
def folders(tmp_path: Path) -> RunFolders:
    """A run that has left many documents in quarantine, every other one for another reason."""
    found = RunFolders.of(tmp_path / "hot", tmp_path / "cold", "twitter_data", "tweets", "gemma_embedded_768")
    found.quarantine.parent.mkdir(parents=True)
    (found.quarantine.parent / "ledger").write_bytes(frame({"type": "EPOCH", "epoch": 1, "at": 1.0}))
    with found.quarantine.open("w") as stream:
        for number in range(N_ENTRIES):
            entry = {"_id": number, "reason": ["empty", "backend"][number % 2], "attempts": 0, "detail": "x" * 60}
            stream.write(json.dumps(entry) + "\n")
    return found


@pytest.mark.seconds
def test_a_long_list_is_never_in_memory_as_a_whole(folders: RunFolders) -> None:
    """As text, as JSON, and while some of it are taken out."""
    size = folders.quarantine.stat().st_size
    tracemalloc.start()
    try:
        shown = sum(1 for _ in as_text(entries_with(folders, ())))
        as_json = sum(map(len, list_as_json(entries_with(folders, ("empty",)))))
        released = retry(folders, ("backend",), ())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (shown, released) == (N_ENTRIES + 1, N_ENTRIES // 2)
    assert as_json > size // 3
    assert peak < size // 3


@pytest.mark.seconds
def test_the_list_is_one_json_array_and_lines_for_people(folders: RunFolders, engine: Terminal) -> None:
    listed = json.loads(engine("quarantine", "list", "--json", "--reason", "backend").out)
    assert [entry["_id"] for entry in listed] == list(range(1, N_ENTRIES, 2))
    lines = engine("quarantine", "list").out.splitlines()
    assert len(lines) == N_ENTRIES + 1
    assert lines[-1].startswith(f"{N_ENTRIES:,} documents; ")
    assert engine("quarantine", "list", "--reason", "too_long", "--json").out == "[]\n"
    assert engine("quarantine", "list", "--reason", "too_long").out == "the quarantine is empty\n"


@pytest.mark.seconds
@pytest.mark.parametrize("step", ["write", "write#3", "fsync_file", "rename", "fsync_folder"])
def test_a_retry_that_is_killed_has_taken_out_all_or_nothing_and_leaves_no_temporary(
    folders: RunFolders, tmp_path: Path, step: str
) -> None:
    def retried(**environment: str) -> int:
        command = python("cli", "quarantine", "retry", "--reason", "empty")
        return subprocess.run(command, cwd=tmp_path, env={**os.environ, **environment}, check=False).returncode

    assert retried(ENGINE_FAILPOINTS=f"durable.{step}=kill") == -signal.SIGKILL
    left = sum(1 for _ in each_entry(folders.quarantine))
    assert left == (N_ENTRIES // 2 if step == "fsync_folder" else N_ENTRIES)
    assert retried() == 0
    assert [entry["_id"] for entry in each_entry(folders.quarantine)] == list(range(1, N_ENTRIES, 2))
    assert not list(folders.quarantine.parent.glob(".*.tmp"))
