"""`--log-format json`: one object a line, times with zone, no secrets."""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from engine.telemetry import logs

LOGGER = logging.getLogger("engine.test")


@pytest.fixture(autouse=True)
def as_json(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lines in JSON, and two secrets, one of which JSON spells in another way."""
    monkeypatch.setattr(logs, "_SECRETS", {"t0ken", 'pa"ß\\'})
    logs.use_format("json")
    logs.configure(level=logging.INFO)
    yield
    logs.use_format("text")
    logs.configure(level=logging.INFO)


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The one line that was written."""
    (line,) = capsys.readouterr().err.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_line_is_an_object_with_a_full_time(capsys: pytest.CaptureFixture[str]) -> None:
    before = datetime.datetime.now(datetime.timezone.utc)

    LOGGER.warning("two\nlines %d", 7, extra={"facts": {"shard": "a", "rows": 3, "none": None}})

    line = said(capsys)
    time = datetime.datetime.fromisoformat(line.pop("time"))
    assert before - datetime.timedelta(milliseconds=1) <= time <= datetime.datetime.now(datetime.timezone.utc)
    assert line == {
        "level": "warning",
        "logger": "engine.test",
        "message": "two\nlines 7",
        "facts": {"shard": "a", "rows": 3, "none": None},
    }


def test_secrets_are_taken_out_wherever_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    """Also one that JSON writes with backslashes: a search in the finished line would not find it."""
    try:
        raise ValueError('mongodb://me:hunter2@host t0ken pa"ß\\')
    except ValueError:
        LOGGER.exception('t0ken pa"ß\\', extra={"facts": {"t0ken": [{"inner": 'pa"ß\\'}], "header": "Bearer abc"}})

    text = json.dumps(line := said(capsys), ensure_ascii=False)
    for secret in ("t0ken", "hunter2", "pa\\", "abc"):
        assert secret not in text
    assert "ValueError" in line["exception"]
    assert line["facts"]["***"] == [{"inner": "***"}]


def test_a_sentence_of_a_command_is_a_line_too() -> None:
    line = json.loads(logs.sentence_line("error", "engine: t0ken is wrong"))

    assert (line["level"], line["message"], line["logger"]) == ("error", "engine: *** is wrong", "engine")
