"""`engine report` on the command line, over recordings that are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.ledger.log import Ledger, RunState
from engine.ledger.runfolder import RunFolders
from tests.bench.diagnosis.model import START, Model, longer_texts
from tests.cli.terminal import Terminal


@pytest.fixture
def hot(tmp_path: Path) -> Path:
    """The hot folder of a run whose texts got longer after ten minutes."""
    folders = RunFolders.of(tmp_path / "hot", tmp_path / "cold", "db", "c", "done")
    folders.make()
    Ledger(folders.ledger, RunState()).close()
    model = Model.of("command", n_servers=2)
    model.at(600, longer_texts)
    model.write(folders.history, 1200)
    return tmp_path / "hot"


def options(hot: Path, *more: str) -> tuple[str, ...]:
    """The command line."""
    return ("report", "--hot-dir", str(hot), "--database", "db", "--collection", "c", "--done-field", "done", *more)


def test_a_person_is_told_what_happened_and_what_to_do(engine: Terminal, hot: Path) -> None:
    said = engine(*options(hot))

    assert said.code == 0
    assert "longer_texts: the texts are longer" in said.out
    assert "what to do: Nothing is wrong" in said.out
    assert "tokens a document" in said.out


def test_a_program_gets_stretches_and_events(engine: Terminal, hot: Path) -> None:
    found = json.loads(engine(*options(hot, "--json")).out)

    first, second = found["stretches"]
    assert (first["cause"], second["cause"], second["subject"]) == ("none", "longer_texts", None)
    assert abs(second["from"] - START - 600) <= 30
    assert second["docs_per_second"] < 0.9 * first["docs_per_second"]
    assert second["tokens_per_second"] == pytest.approx(first["tokens_per_second"], rel=0.1)
    assert second["evidence"]
    assert {event["event"] for event in found["events"]} == {"new_run"}


def test_the_page_is_written_and_a_file_that_cannot_be_is_said(engine: Terminal, hot: Path, tmp_path: Path) -> None:
    done = engine(*options(hot, "--html", str(tmp_path / "report.html"), "--gpu-hour-price", "0.3"))
    failed = engine(*options(hot, "--html", str(tmp_path / "nowhere" / "report.html")))

    assert done.code == 0
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert failed.code == 5
    assert "cannot write" in failed.err


def test_a_run_over_files_is_found_by_its_name(engine: Terminal, hot: Path) -> None:
    (hot / "db.c.done").rename(hot / "files.corpus.done")

    assert engine("report", "--hot-dir", str(hot), "--name", "corpus", "--done-field", "done").code == 0


def test_a_run_of_an_earlier_version_has_no_recording(engine: Terminal, hot: Path) -> None:
    (hot / "db.c.done" / "history").rename(hot / "elsewhere")

    said = engine(*options(hot))

    assert said.code == 2
    assert "no recording in" in said.err
