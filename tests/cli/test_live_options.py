"""`--http`, `--metrics-port` and `--log-format` on the command line: what is refused, and how."""

from __future__ import annotations

import json

import pytest

from tests.cli.terminal import Terminal


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--http", "9100"), "--http is '9100'; expected HOST:PORT"),
        (("--metrics-port", "70000"), "--metrics-port is 70000; allowed is 0 to 65535"),
        (("--http", "[::1]:9100", "--metrics-port", "9100"), "name two addresses: drop one of them"),
        (("--log-format", "xml"), "--log-format is 'xml'; expected text or json"),
        (("--progress", "--log-format", "json"), "drop one of them"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_else(
    engine: Terminal, arguments: tuple[str, ...], sentence: str
) -> None:
    said = engine("run", *arguments)

    assert said.code == 2
    assert sentence in said.err


@pytest.mark.parametrize("command", ["run", "plan", "verify", "merge", "search", "doctor", "index", "bench"])
def test_every_command_that_logs_has_the_option(engine: Terminal, command: str) -> None:
    assert "--log-format" in engine(command, "--help").out


def test_the_sentence_of_an_error_is_json(engine: Terminal) -> None:
    said = engine("run", "--tei-urls", "ftp://x", ENGINE_LOG_FORMAT="json")

    (line,) = said.err.splitlines()
    assert said.code == 2
    assert json.loads(line)["level"] == "error"
    assert "ftp" in json.loads(line)["message"]


def test_text_is_the_default_again_for_the_next_command(engine: Terminal) -> None:
    engine("run", "--tei-urls", "ftp://x", "--log-format", "json")

    assert engine("run", "--tei-urls", "ftp://x").err.startswith("engine: ")
