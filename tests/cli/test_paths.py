"""Options that are paths: expanded wherever they come from, and refused when they are none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import cli
from commands.options.paths import expanded_path
from engine.errors import ConfigError
from tests.cli.terminal import Terminal


def path_options() -> Iterator[tuple[str, str]]:
    """Command and name of every option of every command that holds a path."""

    def walk(command: Any, name: str) -> Iterator[tuple[str, str]]:
        for parameter in command.params:
            if parameter.type_descriptor.annotation is Path:
                yield name, parameter.opts[0]
        for inner_name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, f"{name} {inner_name}".strip())

    yield from walk(typer.main.get_command(cli.app), "")


PATH_OPTIONS = list(path_options())


def test_every_command_that_keeps_folders_is_seen() -> None:
    """A check over nothing would always pass."""
    assert {("run", "--hot-dir"), ("merge", "--target"), ("quarantine list", "--hot-dir"), ("run", "--config")} <= {
        *PATH_OPTIONS
    }
    assert len(PATH_OPTIONS) > 30


@pytest.mark.parametrize(("command", "option"), PATH_OPTIONS)
def test_no_path_option_of_any_command_takes_a_url(engine: Terminal, tmp_path: Path, command: str, option: str) -> None:
    """`s3://bucket` would be a folder of that name; a new option is covered by being there."""
    said = engine(*command.split(), option, "s3://bucket/folder")

    assert said.code == 2
    assert f"{option} is s3://bucket/folder, but only a folder or a file of this machine's file system" in said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["flag", "environment", "file"])
def test_a_home_is_expanded_wherever_the_option_comes_from(
    engine: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "engine.toml").write_text('[run]\nhot_dir = "~/hot"\n')
    arguments = {"flag": ("--hot-dir=~/hot",), "environment": (), "file": ("--config", "engine.toml")}[place]
    environment = {"ENGINE_HOT_DIR": "~/hot"} if place == "environment" else {}

    said = engine("status", *arguments, **environment)

    assert said.code == 2
    assert f"no run in {tmp_path}/home/hot/" in said.err


def test_the_file_of_options_itself_may_stand_in_a_home(
    engine: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "engine.toml").write_text('[run]\nhot_dir = "elsewhere"\n')

    assert "no run in elsewhere/" in engine("status", ENGINE_CONFIG="~/engine.toml").err


@pytest.mark.parametrize("url", ["gs://b/c", "az://b", "file:///nvme/x", "hdfs://h:1/x", "S3://b"])
def test_every_scheme_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="only a folder or a file of this machine's file system"):
        expanded_path("--cold-dir", Path(url))


def test_a_variable_that_nobody_expanded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a TOML file, say; a name with a dollar that is no variable is a name."""
    monkeypatch.setenv("SCRATCH", "/nvme")
    for text in ("$SCRATCH/hot", "/mnt/${SCRATCH}/hot"):
        with pytest.raises(ConfigError, match="nothing expands the variable"):
            expanded_path("--hot-dir", Path(text))

    assert expanded_path("--hot-dir", Path("/mnt/$RECYCLE.BIN")) == Path("/mnt/$RECYCLE.BIN")


def test_a_home_of_nobody_is_refused_and_a_file_of_such_a_name_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="nobody's home is ~nosuchuser here"):
        expanded_path("--hot-dir", Path("~nosuchuser/hot"))

    Path("~saved-copy").mkdir()

    assert expanded_path("--hot-dir", Path("~saved-copy")) == Path("~saved-copy")
    assert expanded_path("--hot-dir", Path("hot~1/x")) == Path("hot~1/x")
