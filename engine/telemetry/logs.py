"""Logging of a command: one process writes, one line an event, no secrets.

Children never write: they send events to the supervisor, which logs them here. Lines go to stderr; stdout belongs to
what a command reports.
"""

from __future__ import annotations

import datetime
import json
import logging
import re
import sys
from typing import Any

FORMATS = ("text", "json")

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


class _JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": iso_time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if facts := getattr(record, "facts", None):
            line["facts"] = facts
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(_redacted(line))


def iso_time(seconds: float) -> str:
    """A Unix time as ISO 8601 says it, in this machine's time zone, to the millisecond."""
    return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="milliseconds")


def _redacted(value: Any) -> Any:
    """A value for JSON without secrets; redacted before it is encoded, because JSON may spell a secret otherwise."""
    if isinstance(value, dict):
        return {_redacted(str(name)): _redacted(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(inner) for inner in value]
    return value if value is None or isinstance(value, int | float) else redact(str(value))


_format = "text"


def use_format(name: str) -> None:
    """Choose the format of all lines on stderr from now on, one of `FORMATS`."""
    global _format  # noqa: PLW0603 - as the level of a logger, it is a matter of the process
    _format = name


def is_json() -> bool:
    """Whether every line on stderr is a JSON object."""
    return _format == "json"


def sentence_line(level: str, sentence: str) -> str:
    """A sentence for stderr that is no log line, without secrets: as it is, or in the chosen format."""
    if not is_json():
        return redact(sentence)
    record = logging.LogRecord("engine", logging.getLevelName(level.upper()), "", 0, sentence, None, None)
    return _JsonFormatter().format(record)


def configure(*, level: int) -> None:
    """Send this process's log lines to stderr, in the format that was chosen."""
    handler = _StderrHandler()
    if is_json():
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(_RedactingFormatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    root = logging.getLogger("engine")
    root.handlers = [handler]
    root.setLevel(level)
    root.propagate = False
