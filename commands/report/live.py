"""The live page of a run: made by a process of its own, so that the run has neither its memory nor its work."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from engine.errors import EngineError, Exit
from engine.supervision.interpreter import python, tie_to_parent

MAKING_S = 60
"""How long the making of a page may take."""
_NICENESS = 19


class PageNotMade(Exception):
    """The page could not be made; says why."""


def live_page(history: Path, name: str, refresh_s: int) -> bytes:
    """The page of a recording, made by another process.

    Args:
        history: `RunFolders.history`.
        name: Of the run.
        refresh_s: Seconds after which a browser asks for it anew.

    Raises:
        PageNotMade: it was not to be had.
    """
    command = python("commands.report.live", str(os.getpid()), str(history), name, str(refresh_s))
    try:
        made = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=MAKING_S,
            start_new_session=True,  # Ctrl-C is for the run
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PageNotMade(f"the page was not made: {error}") from error
    if made.returncode != Exit.DONE:
        said = made.stderr.decode(errors="replace").strip().splitlines()
        raise PageNotMade(f"the page was not made: {said[-1] if said else f'exit code {made.returncode}'}")
    return made.stdout


def main() -> int:
    """Entry point of that process: `parent_pid history name refresh_s`; the page on standard output."""
    parent_pid, history, name, refresh_s = sys.argv[1:]
    tie_to_parent("page", int(parent_pid))
    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_CPU, (MAKING_S, MAKING_S))
    from bench.page.page import page  # noqa: PLC0415 - whoever only starts this process pays for none of it
    from bench.recording.recording import read_recording  # noqa: PLC0415

    try:
        text = page(read_recording(Path(history)), name=name, refresh_s=int(refresh_s))
    except (EngineError, OSError) as error:
        print(error, file=sys.stderr)
        return Exit.UNEXPECTED
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()
    return Exit.DONE
