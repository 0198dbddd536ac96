"""Logging of a command: one process writes, one line an event, no secrets.

Children never write: they send events to the supervisor, which logs them here. Lines go to stderr; stdout belongs to
what a command reports.
"""

from __future__ import annotations

import logging
import re
import sys

_SECRETS: set[str] = set()
_URI_CREDENTIALS = re.compile(r"(\w+://)(?!\[user:password@\])[^/\s@]*:[^/\s@]*@")  # not the pattern in our own errors
_BEARER = re.compile(r"(?i)(bearer\s+)\S+")


def keep_secret(value: str | None) -> None:
    """Never let this value into a log line or an error message of this process (G10)."""
    if value:
        _SECRETS.add(value)


def redact(text: str) -> str:
    """`text` without known secrets, URI credentials and bearer tokens."""
    for secret in _SECRETS:
        text = text.replace(secret, "***")
    return _BEARER.sub(r"\1***", _URI_CREDENTIALS.sub(r"\1***:***@", text))


class _StderrHandler(logging.Handler):
    """Writes to what stderr is at the moment: while the live panel stands, lines go above it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001 - as every handler of the standard library: a log line never ends a run
            self.handleError(record)


class _RedactingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def configure(*, level: int) -> None:
    """Send this process's log lines to stderr."""
    handler = _StderrHandler()
    handler.setFormatter(_RedactingFormatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    root = logging.getLogger("engine")
    root.handlers = [handler]
    root.setLevel(level)
    root.propagate = False
