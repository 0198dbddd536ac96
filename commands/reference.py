"""The reference page and the manual page, made from `--help`: `make docs`."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from engine import __version__
from engine.errors import Exit
from engine.supervision.interpreter import full_name, python

_TEXTS = "--texts"
"""Tells a process of this module to print all help texts, as JSON."""

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
    """The help text of every command, as a terminal of 100 columns shows it; one process says them all."""
    done = subprocess.run(
        python("commands.reference", _TEXTS),
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
    )
    texts: dict[str, str] = json.loads(done.stdout)
    return texts


def _texts() -> dict[str, str]:
    """Every command as it is called, in the order of `engine --help`; a group's commands behind its name."""
    texts = {}
    for name in re.findall(r"^  ([a-z]+)  ", _help("").partition("Commands:")[2], re.MULTILINE):
        text = _help(name)
        inner = re.findall(r"^  ([a-z]+)  ", text.partition("\nCommands:")[2], re.MULTILINE)
        if not inner or "Example" in text:  # a group that does something by itself
            texts[name] = text
        texts |= {f"{name} {one}": _help(f"{name} {one}") for one in inner}
    return texts


def _help(name: str) -> str:
    """What `engine NAME --help` prints, in this process. The command line is above this module: it is called by name,
    as a shell calls it."""
    sys.argv = ["engine", *name.split(), "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        importlib.import_module(full_name("cli")).main()
    return "\n".join(line.rstrip() for line in said.getvalue().strip().splitlines())


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
    if sys.argv[1:] == [_TEXTS]:
        print(json.dumps(_texts()))
        return
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    (folder / "cli.md").write_text(reference(), encoding="utf-8")
    (folder / "engine.1").write_text(manual(), encoding="utf-8")


if __name__ == "__main__":
    main()
