"""The command line within the test's own process: fast, for everything that starts no children."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

import cli
from commands.terminal import edge


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str


class Terminal:
    """Calls `engine ARGUMENTS` as a shell would; the environment's own ENGINE_ variables are taken away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str, **environment: str) -> Said:
        with self._monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["engine", *arguments])
            patch.setattr(edge, "raise_when_terminated", lambda: None)  # the test's own process keeps its handlers
            patch.setattr(edge, "leave_undisturbed", lambda: None)
            for name, value in environment.items():
                patch.setenv(name, value)
            self._capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                cli.main()
        out, err = self._capsys.readouterr()
        return Said(int(ended.value.code or 0), out, err)
