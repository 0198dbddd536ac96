"""The page that a run serves, made by a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench.page.page import page
from bench.recording.recording import read_recording
from commands.report.live import PageNotMade, live_page
from engine.recording.history import RESOLUTIONS
from tests.bench.diagnosis.model import Model


def test_the_page_is_that_of_the_report_with_a_refresh(tmp_path: Path) -> None:
    Model.of("live", n_servers=1).write(tmp_path, 120)

    made = live_page(tmp_path, "db.c.done", 15).decode()

    assert made == page(read_recording(tmp_path), name="db.c.done", refresh_s=15)
    assert '<meta http-equiv="refresh" content="15">' in made


def test_without_a_recording_it_is_said_why_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(PageNotMade, match="no recording in"):
        live_page(tmp_path / "history", "db.c.done", 15)


@pytest.mark.seconds
def test_g6_the_making_of_a_page_ends_with_its_run(tmp_path: Path) -> None:
    """A run that is killed leaves nobody behind who still reads: here its recording never ends, it is a pipe."""
    os.mkfifo(tmp_path / RESOLUTIONS[0])
    code = (
        f"import pathlib; from commands.report.live import live_page; live_page(pathlib.Path({str(tmp_path)!r}), '', 5)"
    )
    run = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 100
    while not (children := psutil.Process(run.pid).children()) and time.monotonic() < deadline:
        time.sleep(0.01)
    (child,) = children
    while child.name() != "engine-page" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert child.name() == "engine-page"

    run.kill()
    run.wait()

    psutil.wait_procs([child], timeout=100)
    assert not child.is_running()
