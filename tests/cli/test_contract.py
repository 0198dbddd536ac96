"""The options that users' scripts and files rely on: names, defaults, where a value may come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

import cli
from tests.cli.terminal import Terminal

RUN: dict[str, Any] = {
    "--mongo-uri": "mongodb://localhost:27017",
    "--mongo-uri-file": None,
    "--database": "twitter_data",
    "--collection": "tweets",
    "--text-field": "text",
    "--done-field": "gemma_embedded_768",
    "--lang": None,
    "--filter": None,
    "--columns": None,
    "--tei-urls": ",".join(f"http://localhost:{port}/embed" for port in (18080, 18081, 18082, 18083)),
    "--batch-size": 32,
    "--concurrency": "auto",
    "--target-p95": None,
    "--prompt": None,
    "--dimensions": None,
    "--normalize": True,
    "--truncate": True,
    "--hot-dir": Path("hot"),
    "--cold-dir": "cold",
    "--shard-bytes": "256MiB",
    "--shard-seconds": 60.0,
    "--vector-type": "float32",
    "--tuned": None,
    "--limit": None,
    "--max-time": None,
    "--max-outage": 600.0,
    "--no-mark": False,
    "--progress": None,
    "--keep-text": False,
    "--http": None,
    "--metrics-port": None,
    "--log-format": "text",
    "--json": False,
}
SWITCHES = {"--normalize": "--no-normalize", "--truncate": "--no-truncate", "--progress": "--no-progress"}


def options(command: str) -> dict[str, Any]:
    """Every option of a command by its long name."""
    found = typer.main.get_command(cli.app).commands[command]  # type: ignore[attr-defined]  # a group has commands
    return {name: parameter for parameter in found.params for name in parameter.opts if name.startswith("--")}


@pytest.mark.parametrize("name", sorted(RUN))
def test_run_has_each_option_with_its_default_and_its_variable(name: str) -> None:
    """ENGINE_ and the option in capitals."""
    option = options("run")[name]

    assert option.default == RUN[name]
    assert option.envvar == "ENGINE_" + name[2:].upper().replace("-", "_")
    assert SWITCHES.get(name, "") in ("", *option.secondary_opts)


@pytest.mark.parametrize("command", ["run", "status", "index", "doctor", "plan", "verify", "merge"])
def test_every_option_can_be_set_by_the_environment_and_stands_in_a_file(command: str) -> None:
    """All but --help."""
    for name, option in options(command).items():
        assert name == "--help" or option.envvar == "ENGINE_" + name[2:].upper().replace("-", "_"), name
    assert "--config" in options(command)


def test_a_commands_own_table_beats_the_runs_and_the_runs_serves_it_too(engine: Terminal, tmp_path: Path) -> None:
    """One file for all: `engine status --config` looks where [run] wrote; what only a run knows is passed over."""
    (tmp_path / "engine.toml").write_text('[run]\ndatabase = "of_run"\nlimit = 3\nhot_dir = "warm"\n')
    by_run = engine("status", "--config", "engine.toml")
    (tmp_path / "engine.toml").write_text('[run]\ndatabase = "of_run"\n[status]\ndatabase = "own"\n')
    by_own = engine("status", "--config", "engine.toml")

    assert "warm/of_run.tweets." in by_run.err
    assert "hot/own.tweets." in by_own.err


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[run]\nlimti = 1\n", "limti"),
        ("run = 3\n", "[run]"),
        ("[run\n", "not TOML"),
        ('[run]\nprompt = "\u00e9"\n', "not TOML"),
        ('[run]\nbatch_size = "many"\n', "--batch-size"),
        ("[run]\nbatch_size = 0\n", "--batch-size"),
    ],
)
def test_a_bad_file_is_one_sentence_and_exit_2(engine: Terminal, tmp_path: Path, text: str, word: str) -> None:
    """Misspelt options are not passed over."""
    (tmp_path / "engine.toml").write_text(text, encoding="latin-1")

    said = engine("run", "--config", "engine.toml")

    assert said.code == 2, said.err
    assert word in said.err
    assert len(said.err.splitlines()) == 1


def test_a_flag_beats_the_environment_and_the_environment_beats_the_file(engine: Terminal, tmp_path: Path) -> None:
    """Shown by which value is refused."""
    (tmp_path / "engine.toml").write_text("[run]\nbatch_size = -1\n")

    by_file = engine("run", "--config", "engine.toml")
    by_environment = engine("run", "--config", "engine.toml", ENGINE_BATCH_SIZE="-2")
    by_flag = engine("run", "--config", "engine.toml", "--batch-size", "-3", ENGINE_BATCH_SIZE="-2")

    assert "is -1;" in by_file.err
    assert "is -2;" in by_environment.err
    assert "is -3;" in by_flag.err
