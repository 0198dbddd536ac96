"""What a command says: its result on standard output, complaints and logs on standard error."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from engine.errors import SinkError
from engine.telemetry.logs import configure, sentence_line


def set_up_logs(verbose: bool, *, quiet: bool = False) -> None:
    """Log to standard error: debug events too, or (`quiet`) only warnings."""
    configure(level=logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


def to_json(value: Any) -> str:
    """A result for a program, on one line."""
    return json.dumps(value, default=str)


def list_as_json(values: Iterable[Any]) -> Iterator[str]:
    """A list for a program, on one line, in parts."""
    yield "["
    for number, value in enumerate(values):
        yield f"{', ' if number else ''}{to_json(value)}"
    yield "]"


def print_result(text: str) -> None:
    """Print a result. That nobody reads on changes nothing; that it cannot be written does.

    Raises:
        SinkError: standard output is a file on a device that is full or failing.
    """
    print_parts((text,))


def print_parts(parts: Iterable[str]) -> None:
    """Print a result that may be too long for the memory, and a line's end behind it; see `print_result`."""
    try:
        for part in parts:
            print(part, end="")
        print(flush=True)
    except OSError as error:
        discard_output()
        if not isinstance(error, BrokenPipeError):
            raise SinkError(f"the result cannot be written to standard output ({error.strerror})") from error


def discard_output() -> None:
    """Write to nowhere from now on: the interpreter's last flush may not fail either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(sentence: str) -> None:
    """Say on standard error why a command failed or ended early."""
    say(f"engine: {' '.join(sentence.split())}", level="error")


def say(sentence: str, *, level: str = "info") -> None:
    """Say something on standard error, without secrets; a line of the log where that is JSON.

    Args:
        level: Of that line.
    """
    with contextlib.suppress(OSError):  # nobody reads: the exit code says it all the same
        print(sentence_line(level, sentence), file=sys.stderr, flush=True)
