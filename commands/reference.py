"""The reference page, made from `--help`: `python -m commands.reference docs/cli.md` (or `make docs`)."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

from engine.supervision.interpreter import python

_HEAD = """# Commands

Made from `engine COMMAND --help` by `make docs`; a test compares. Every option can be set by the environment variable
`ENGINE_` + its name in capitals, and in a TOML file (`--config`) under its name with underscores. A flag beats the
environment, the environment beats the file. `engine --debug COMMAND` shows a traceback with an error.
"""


@functools.cache
def commands() -> dict[str, str]:
    """The help text of every command."""
    return {name: _help(name) for name in _names()}


def _names() -> list[str]:
    """Every command as it is called, in the order of `engine --help`; a group's commands behind its name."""
    listed = re.findall(r"^  ([a-z]+)  ", _help("").partition("Commands:")[2], re.MULTILINE)
    names = []
    for name in listed:
        inner = re.findall(r"^  ([a-z]+)  ", _help(name).partition("\nCommands:")[2], re.MULTILINE)
        names += [f"{name} {one}" for one in inner] or [name]
    return names


def _help(name: str) -> str:
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(
        python("cli", *name.split(), "--help"),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def reference() -> str:
    """The whole page."""
    parts = [_HEAD]
    parts += [f"## engine {name}\n\n```\n{text}\n```\n" for name, text in commands().items()]
    return "\n".join(parts)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
