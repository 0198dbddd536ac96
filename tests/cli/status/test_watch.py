"""`engine status --watch` until the end of a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from commands.status import watch as watching
from commands.status.watch import watch


def figures(committed: int, *, running: bool) -> dict[str, Any]:
    """What `collect` finds, as far as it is shown."""
    return {
        "run": "db.c.done",
        "running": running,
        "state": "running" if running else "ended with exit code 0",
        "documents": {"committed": committed, "left": 1000 - committed},
        "rate": 50.0,
        "seconds_left": 10,
        "shards": 1,
        "quarantine": {"documents": 2},
        "last_error": None,
    }


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """A run that is seen twice while it goes on, and then at its end; no time passes."""
    monkeypatch.setattr(watching.time, "sleep", lambda seconds: None)
    seen = [figures(100, running=True), figures(200, running=True), figures(1000, running=False), {}]
    return lambda: seen.pop(0)


def as_text(found: dict[str, Any]) -> str:
    """Two lines."""
    return f"run {found['run']}\ncommitted {found['documents']['committed']}"


def test_without_a_terminal_every_look_is_a_line(
    look: Callable[[], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    watch(look, as_text, as_json=False)

    lines = capsys.readouterr().out.splitlines()
    assert ["100 committed" in lines[0], "200 committed" in lines[1], "1,000 committed" in lines[2]] == [True] * 3
    assert "900 left  50/s  10 s to go" in lines[0]
    assert len(lines) == 3


def test_as_json_every_look_is_an_object(
    look: Callable[[], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    watch(look, as_text, as_json=True)

    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["running"] for one in found] == [True, True, False]


def test_on_a_terminal_the_figures_stay_in_their_place(
    look: Callable[[], dict[str, Any]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    watch(look, as_text, as_json=False)

    first, second, third = capsys.readouterr().out.split("\033[?7l")[1:]
    assert not first.startswith("\033[2A")
    assert second.startswith("\033[2A") and third.startswith("\033[2A")  # up over the two lines of the one before
    assert third.endswith("committed 1000\033[?7h\n")
