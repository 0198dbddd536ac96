"""One life of a server process: its keeper, whether it is healthy yet, and how it ended."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
from pathlib import Path

from bench.fleet.keeper import GRACE_S, ORDERLY
from bench.fleet.plan import HOST, ServerSpec
from engine.supervision.interpreter import python

_HEALTH_TIMEOUT_S = 2.0
_LAST_LINES = 8
_LINE_CHARACTERS = 400


class ServerProcess:
    """A server that has been started; `stop` must be called in the end.

    Attributes:
        pid: The server's own process, None when it never came to start.
        fd: Readable when the keeper has ended, and with it the server.
    """

    def __init__(self, spec: ServerSpec) -> None:
        self._spec = spec
        job = {"name": spec.name, "command": spec.command, "log": str(spec.log), "container": spec.container}
        self._log_start = spec.log.stat().st_size if spec.log.exists() else 0
        self._keeper = subprocess.Popen(
            python("bench.fleet.keeper", json.dumps(job)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **spec.environment},
            start_new_session=True,
        )
        assert self._keeper.stdout is not None and self._keeper.stdin is not None
        said = self._keeper.stdout.readline()
        self.pid = int(said) if said else None
        self._group_is_ended = False
        self.fd = self._keeper.stdout.fileno()

    def ended(self) -> int | None:
        """The server's exit code once it has ended, else None; 128 + signal for one that was killed."""
        code = self._keeper.poll()
        if code is not None and code < 0:
            self._end_group()  # the keeper was killed: nobody else ends what the server has started
            return 128 - code
        return code

    def is_healthy(self) -> bool:
        """Whether every port says so on `/health`: a real server listens, or answers 503, while it loads its model."""
        return all(_is_healthy(port) for port in self._spec.ports)

    def begin_stop(self) -> None:
        """Ask the server to end; it may finish what it has."""
        line = self._keeper.stdin
        assert line is not None
        if not line.closed:
            with contextlib.suppress(OSError):
                line.write(ORDERLY)
                line.flush()
            with contextlib.suppress(OSError):
                line.close()

    def stop(self) -> int:
        """End the server, and return its exit code when it and all that it started are gone."""
        self.begin_stop()
        try:
            self._keeper.wait(GRACE_S + 60.0)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
        code = self.ended()
        assert code is not None and self._keeper.stdout is not None
        self._keeper.stdout.close()
        return code

    def last_words(self) -> str:
        """The last lines that this life has left in the log, on one line."""
        return last_lines(self._spec.log, self._log_start)

    def _end_group(self) -> None:
        if self.pid is not None and not self._group_is_ended:
            self._group_is_ended = True  # once: its number may be another's later
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)


def last_lines(log: Path, start: int = 0) -> str:
    """The end of a log from a byte on, on one line; empty when nothing was written."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start if start <= size else 0, size - 8192))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    said = [line.strip()[:_LINE_CHARACTERS] for line in lines if line.strip()]
    return " | ".join(said[-_LAST_LINES:])


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=_HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
