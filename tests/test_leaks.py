"""What a test leaves behind is that test's failure, in one process of pytest and in several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SUITE = """
import subprocess
import pytest
from tests import conftest
from tests.conftest import leaves_nothing_behind

conftest.LEAVE_S = 0.0
started = []

@pytest.fixture(scope="session", autouse=True)
def end():
    yield
    for process in started:
        process.kill()
        process.wait()

def test_that_leaves_a_process():
    started.append(subprocess.Popen(["sleep", "300"]))

def test_that_waits_for_its_process():
    subprocess.run(["true"], check=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_process_left_behind_fails_its_own_test_and_no_other(tmp_path: Path, workers: str) -> None:
    (tmp_path / "test_it.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "-p", "no:cacheprovider", "--dist", "worksteal"]

    done = subprocess.run(
        [*command, "--numprocesses", workers, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "2 passed, 1 error" in done.stdout
    assert "ERROR at teardown of test_that_leaves_a_process" in done.stdout
    assert "processes left behind: [" in done.stdout and "sleep 300" in done.stdout
