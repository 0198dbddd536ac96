"""The tuned file: whole or not at all, read back as written, refused when it is something else."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from bench.tuner.report.tuned import fleet_changes, read_tuned, write_tuned
from engine.errors import ConfigError
from engine.ledger import durable
from gpu_clients.servers.doctor import Fleet
from tests.bench.tuner.tuned_file import FACTS, FINGERPRINT, TUNED, fleet


@pytest.mark.parametrize("target", [None, 10.0])
def test_a_tuned_file_is_read_back_as_it_was_written(tmp_path: Path, target: float | None) -> None:
    """Quotes, emoji, control characters and absent values included."""
    tuned = dataclasses.replace(TUNED, target_p95_s=target)
    path = tmp_path / "tuned.toml"

    write_tuned(path, tuned)

    found = read_tuned(path)
    assert dataclasses.replace(found, servers=()) == dataclasses.replace(tuned, servers=())
    # a limit that a server does not tell is not in the file
    assert found.servers == tuple({k: v for k, v in server.items() if v is not None} for server in tuned.servers)


def test_a_failed_write_leaves_the_old_file_and_no_half_one(tmp_path: Path) -> None:
    """Temporary, fsync, rename."""
    path = tmp_path / "tuned.toml"
    write_tuned(path, TUNED)
    before = path.read_bytes()
    durable.arm("bench", "durable.rename=ENOSPC")
    try:
        with pytest.raises(OSError, match="injected"):
            write_tuned(path, dataclasses.replace(TUNED, batch_size=8))
    finally:
        durable.arm("bench", "")

    assert path.read_bytes() == before
    assert read_tuned(path).batch_size == 32


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[run]\nbatch_size = 3\n", "was not written by `engine bench`"),
        ("batch_size = ", "is not TOML"),
        ("[tuned]\nformat = 99\n[measured]\n", "has format 99, this version knows 1"),
        ("[tuned]\nformat = 1\nbatch_size = 0\n[measured]\n", "is damaged"),
        ("[tuned]\nformat = 1\nbatch_size = 8\nconcurrency = 1\nmax_concurrency = 1\n[measured]\n", "is damaged"),
    ],
)
def test_another_file_is_refused_in_one_sentence(tmp_path: Path, content: str, message: str) -> None:
    """Never half believed."""
    path = tmp_path / "other.toml"
    path.write_text(content)

    with pytest.raises(ConfigError, match=message):
        read_tuned(path)


def test_a_missing_file_and_one_without_rights_are_told_apart_from_a_wrong_one(tmp_path: Path) -> None:
    """With what to do."""
    with pytest.raises(ConfigError, match=r"cannot be read .*run `engine bench` first"):
        read_tuned(tmp_path / "absent.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(os.urandom(64) + b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_tuned(binary)


def test_the_same_fleet_has_not_changed(tmp_path: Path) -> None:
    """In whatever order."""
    path = tmp_path / "tuned.toml"
    write_tuned(path, TUNED)

    assert fleet_changes(read_tuned(path), fleet("http://b:1", "http://a:1")) == []


@pytest.mark.parametrize(
    ("now", "phrase"),
    [
        (fleet("http://a:1"), "1 servers are not 2"),
        (fleet("http://a:1", "http://c:1"), "http://c:1 instead of http://b:1"),
        (
            fleet("http://a:1", "http://b:1", facts=dataclasses.replace(FACTS, max_batch_tokens=8192)),
            "max_batch_tokens 8192 is not 16384",
        ),
        (
            fleet("http://a:1", "http://b:1", fingerprint=dataclasses.replace(FINGERPRINT, dtype="float16")),
            "dtype 'float16' is not 'float32'",
        ),
    ],
)
def test_what_has_changed_about_the_fleet_is_said(now: Fleet, phrase: str) -> None:
    """Number, addresses, limits, and what decides the vectors."""
    assert phrase in fleet_changes(TUNED, now)
