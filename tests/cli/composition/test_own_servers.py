"""From the options of `serve`, a tuned file and flags to a plan: what goes over what."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bench.tuner.report.tuned import TunedServer, read_tuned, write_tuned
from commands.composition.own_servers import ServeOptions, numbers, own_servers
from engine.errors import ConfigError
from tests.bench.tuner.tuned_file import TUNED


def options(**fields: Any) -> ServeOptions:
    known: dict[str, Any] = dict.fromkeys(("serve", "backend", "model", "gpus", "ports", "binary", "docker", "flags"))
    known |= {"model": "m", "start_timeout_s": 1.0, "further": (), "hot_dir": Path("hot")}
    return ServeOptions(**{**known, **fields})


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """A file whose servers have two flags."""
    path = tmp_path / "tuned.toml"
    server = TunedServer(backend="tei", flags="--max-batch-tokens=32768 --dtype=float16")
    write_tuned(path, dataclasses.replace(TUNED, server=server))
    assert read_tuned(path).server == server
    return path


def test_flags_behind_the_dashes_go_over_those_of_the_line_and_both_over_tuned_ones(tuned: Path) -> None:
    plan = options(tuned=tuned, flags="--dtype float32 --a=1", further=("--a", "2")).plan()
    assert plan.flags == {"max-batch-tokens": "32768", "dtype": "float32", "a": "2"}


def test_flags_that_were_tuned_for_another_backend_are_left_alone(tuned: Path) -> None:
    assert options(tuned=tuned, backend="vllm").plan().flags == {}


def test_a_tuned_file_without_servers_has_no_flags(tmp_path: Path) -> None:
    write_tuned(tmp_path / "tuned.toml", TUNED)
    assert options(tuned=tmp_path / "tuned.toml").plan().flags == {}


def test_servers_are_asked_for_by_name_or_by_a_backend_and_no_serve_refuses() -> None:
    assert options(serve=True).wanted
    assert options(backend="tei").wanted
    assert not options().wanted
    assert not options(backend="tei", serve=False).wanted
    assert own_servers(options(), urls_given=False) == (None, ())


def test_urls_on_the_command_line_go_over_a_backend_of_a_file() -> None:
    assert own_servers(options(backend="tei"), urls_given=True) == (None, ())
    with pytest.raises(ConfigError, match="exclude each other"):
        own_servers(options(backend="tei", serve=True), urls_given=True)


def test_numbers_are_read_as_lists_and_ranges() -> None:
    assert numbers("--gpus", "0,2-4") == (0, 2, 3, 4)
    assert numbers("--gpus", "all") == numbers("--gpus", None) == ()
    with pytest.raises(ConfigError, match="--gpus is '1-'"):
        numbers("--gpus", "1-")
