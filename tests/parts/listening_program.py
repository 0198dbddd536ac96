"""A program of another maker that serves on a port for tests: started, waited for, and ended with the tests."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

START_S = 180.0
"""Only a failure waits that long."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now, for programs that take no port 0."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start_listening(
    command: Sequence[str], port: int, *, kill: str = "kill", environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a program that ends when its standard input does, so also with the tests; it listens when this returns.

    Args:
        kill: How the shell ends it.
    """
    until_stdin_ends = f'"$@" & pid=$!; cat > /dev/null; {kill} $pid; wait $pid'
    process = subprocess.Popen(
        ["sh", "-c", until_stdin_ends, "sh", *command],
        env={**os.environ, **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    name, deadline = Path(command[0]).name, time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process
        except OSError:
            assert process.poll() is None, f"{name} did not start"
            assert time.monotonic() < deadline, f"{name} does not listen"
            time.sleep(0.05)


def pids_of(process: subprocess.Popen[str]) -> list[int]:
    """The shell, `cat`, and the program."""
    return [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
