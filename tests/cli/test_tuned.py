"""`--tuned`: the operating point that the tuner wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.tuner.tuned import Tuned, write_tuned
from commands.tuned import apply_tuned
from engine.config import ServersConfig
from engine.errors import ConfigError
from engine.records import Fingerprint

TUNED = Tuned(
    batch_size=64,
    concurrency=7,
    max_concurrency=9,
    bucketing="off",
    target_p95_s=2.5,
    docs_per_second=100.0,
    tokens_per_second=1000.0,
    tokens_per_document=10.0,
    p95_s=1.5,
    fingerprint=Fingerprint(
        model_id="m",
        model_sha=None,
        dtype="float32",
        pooling="mean",
        prompt=None,
        dim=8,
        normalize=True,
        server_version="1.9.3",
    ),
    servers=({"url": "http://127.0.0.1:1"},),
    written_at="2026-01-01T00:00:00+00:00",
    engine_version="0",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file as the tuner writes it."""
    path = tmp_path / "tuned.toml"
    write_tuned(path, TUNED)
    return path


def test_the_files_point_is_taken(path: Path) -> None:
    """All of it."""
    servers = apply_tuned(ServersConfig(), path, frozenset())

    assert (servers.batch_size, servers.concurrency, servers.max_concurrency) == (64, 7, 9)
    assert (servers.target_p95_s, servers.bucketing) == (2.5, "off")


def test_what_a_person_gave_wins(path: Path) -> None:
    """A flag, the environment or the configuration file."""
    servers = apply_tuned(ServersConfig(batch_size=16), path, frozenset({"batch_size", "target_p95"}))

    assert (servers.batch_size, servers.concurrency, servers.target_p95_s) == (16, 7, None)


@pytest.mark.parametrize("text", ["[tuned", "[other]\n", "[tuned]\nbatch_size = 3\n"])
def test_a_file_of_another_kind_is_refused(path: Path, text: str) -> None:
    """Exit 2, naming the file."""
    path.write_text(text)

    with pytest.raises(ConfigError, match=r"tuned\.toml"):
        apply_tuned(ServersConfig(), path, frozenset())


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """Named."""
    with pytest.raises(ConfigError, match=r"gone\.toml cannot be read"):
        apply_tuned(ServersConfig(), tmp_path / "gone.toml", frozenset())
