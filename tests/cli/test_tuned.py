"""`--tuned`: an operating point from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands.tuned import apply_tuned, fleet_changed
from engine.config import ServersConfig
from engine.errors import ConfigError
from engine.records import Fingerprint

FINGERPRINT = Fingerprint(
    model_id="m",
    model_sha=None,
    dtype="float32",
    pooling="mean",
    prompt=None,
    dim=8,
    normalize=True,
    server_version="1.9.3",
)
FILE = """
[tuned]
batch_size = 64
concurrency = 7
max_concurrency = 9
target_p95 = 2.5
bucketing = "off"

[tuned.fingerprint]
model_id = "m"
server_version = "1.9.2"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A tuned file."""
    path = tmp_path / "tuned.toml"
    path.write_text(FILE)
    return path


def test_the_files_point_is_taken(path: Path) -> None:
    """All of it."""
    servers = apply_tuned(ServersConfig(), path, frozenset())

    assert (servers.batch_size, servers.concurrency, servers.max_concurrency) == (64, 7, 9)
    assert (servers.target_p95_s, servers.bucketing) == (2.5, "off")


def test_what_a_person_gave_wins(path: Path) -> None:
    """A flag, the environment or the configuration file."""
    servers = apply_tuned(ServersConfig(batch_size=16), path, frozenset({"batch_size"}))

    assert (servers.batch_size, servers.concurrency) == (16, 7)


def test_auto_means_adaptive(path: Path) -> None:
    """With the file's ceiling."""
    path.write_text('[tuned]\nconcurrency = "auto"\nmax_concurrency = 5\n')

    servers = apply_tuned(ServersConfig(concurrency=3), path, frozenset())

    assert (servers.concurrency, servers.max_concurrency) == (None, 5)


def test_another_fleet_is_noticed_by_field(path: Path) -> None:
    """The point may not hold there."""
    assert fleet_changed(path, FINGERPRINT) == ["server_version '1.9.3' is not '1.9.2'"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tuned", "is not TOML"),
        ("[other]\n", "no \\[tuned\\] table"),
        ("[tuned]\nbatch = 3\n", "batch"),
        ('[tuned]\nbatch_size = "many"\n', "expected a whole number"),
        ("[tuned]\nbatch_size = 0\n", "--batch-size is 0"),
    ],
)
def test_a_file_of_another_kind_is_refused_in_one_sentence(path: Path, text: str, words: str) -> None:
    """Exit 2."""
    path.write_text(text)

    with pytest.raises(ConfigError, match=words):
        apply_tuned(ServersConfig(), path, frozenset())


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """Named."""
    with pytest.raises(ConfigError, match=r"gone\.toml cannot be read"):
        apply_tuned(ServersConfig(), tmp_path / "gone.toml", frozenset())
