"""The limit of open files: one clear sentence, no hang, and never a server that gets the blame."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.supervision.open_files import files_of_run
from tests.crash.job import Job, tweets

pytestmark = pytest.mark.crash

NEEDED = files_of_run(n_servers=2, in_flight=64)


def limit(monkeypatch: pytest.MonkeyPatch, folder: Path, *, soft: int, hard: int, n_open: int = 0) -> None:
    """Let every command of a job start with these limits, and with so many files that were left open for it."""
    python = folder / "limited-python"
    python.write_text(
        f"#!{sys.executable}\n"
        "import os, resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        f"for _ in range({n_open}): os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])\n"
    )
    python.chmod(0o700)
    monkeypatch.setattr("tests.crash.job.sys", SimpleNamespace(executable=str(python)))


def test_a_hard_limit_that_is_too_low_is_refused_before_anything_is_read(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 1: how many there are, how many are needed, what to do."""
    job.insert(tweets(20))
    limit(monkeypatch, tmp_path, soft=32, hard=32)

    ended = job.run("--max-concurrency", "64")

    assert ended.code == 1, ended.err
    assert f"may open 32 files and needs up to {NEEDED}: raise the limit" in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not job.rows()


def test_a_soft_limit_is_raised_for_all_processes_of_a_run(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a shell usually gives must not bound the requests in flight."""
    job.insert(tweets(200))
    limit(monkeypatch, tmp_path, soft=32, hard=4096)

    ended = job.run("--concurrency", "40", "--batch-size", "2")

    assert ended.code == 0, ended.err
    job.assert_exact()


def test_children_that_cannot_be_started_are_one_sentence(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the limit is reached all the same: here by files that whoever started the run left open."""
    job.insert(tweets(20))
    limit(monkeypatch, tmp_path, soft=NEEDED, hard=NEEDED, n_open=NEEDED - 26)

    ended = job.run()

    assert ended.code == 1, ended.err
    assert "cannot start the child processes (Too many open files): raise the limits" in ended.err
    assert not job.rows()
