"""The reference page and the manual page, made from `--help`: `make docs`."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

from engine import __version__
from engine.errors import Exit
from engine.supervision.interpreter import python

_HEAD = """# Commands

Made from `engine COMMAND --help` by `make docs`; a test compares. Every option can be set by the environment variable
`ENGINE_` + its name in capitals, and in a TOML file (`--config`) under its name with underscores. A flag beats the
environment, the environment beats the file. `engine --debug COMMAND` shows a traceback with an error.
"""

_EXIT_MEANINGS = {
    Exit.DONE: "done, sums agree",
    Exit.UNEXPECTED: "unexpected error",
    Exit.USAGE: "wrong usage or configuration, or a mismatch on resume",
    Exit.QUARANTINED: "done, but some documents are in quarantine",
    Exit.VERIFICATION: "verification failed, or data are damaged",
    Exit.OUTPUT_DEVICE: "output device full or failing",
    Exit.MONGODB: "MongoDB unavailable beyond the limit",
    Exit.SERVERS: "no healthy server beyond the limit",
    Exit.LIMIT: "stopped by a limit, work is left",
    Exit.NO_OPERATING_POINT: "no operating point meets the target",
    Exit.LOCKED: "another run holds the lock",
    Exit.SIGINT: "stopped by SIGINT after a clean stop",
    Exit.SIGTERM: "stopped by SIGTERM after a clean stop",
}


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
        if not inner or "Example" in _help(name):  # a group that does something by itself
            names.append(name)
        names += [f"{name} {one}" for one in inner]
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


def manual() -> str:
    """The page for `man engine`, in roff; help texts stand in it as they are."""
    parts = [
        f'.TH ENGINE 1 "" "embedding-engine {__version__}" "User Commands"',
        ".SH NAME",
        "engine \\- embed documents through a fleet of embedding servers into Parquet",
        ".SH SYNOPSIS",
        ".B engine",
        ".I COMMAND",
        "[OPTIONS]",
        ".SH DESCRIPTION",
        "Every option can be set by the environment variable ENGINE_ and its name in capitals, and in a TOML file",
        "(--config) under its name with underscores. A flag beats the environment, the environment beats the file.",
    ]
    for name, text in commands().items():
        parts += [f".SH ENGINE {name.upper()}", ".nf", *map(_roff, text.splitlines()), ".fi"]
    parts += [".SH EXIT STATUS"]
    for code in Exit:
        parts += [".TP", f".B {int(code)}", _roff(_EXIT_MEANINGS[code])]
    return "\n".join(parts) + "\n"


def _roff(line: str) -> str:
    escaped = line.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def main() -> None:
    """Write both pages into a folder, `docs` unless another is named."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    (folder / "cli.md").write_text(reference(), encoding="utf-8")
    (folder / "engine.1").write_text(manual(), encoding="utf-8")


if __name__ == "__main__":
    main()
