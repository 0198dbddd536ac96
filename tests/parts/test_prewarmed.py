"""Forks of a process that has imported everything are as good as processes that have been started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bench.standin.arguments import to_arguments
from bench.standin.config import StandinConfig
from engine.supervision.interpreter import python
from tests.crash.job import wait_until
from tests.parts import prewarmed

PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
POPENS = pytest.mark.parametrize("popen", [subprocess.Popen, prewarmed.Popen])
VERSION = [sys.executable, "-m", "cli", "--version"]
SERVER = python("bench.standin.__main__", *to_arguments(StandinConfig(ports=(0,))))


def is_forked(process: subprocess.Popen[str]) -> bool:
    """Whether it comes from the process that forks."""
    return psutil.Process(process.pid).ppid() in prewarmed.pids()


@pytest.mark.seconds
@POPENS
@pytest.mark.parametrize("words", ["--version", "run --no-such-option", "status --hot-dir ."])
def test_a_command_says_and_ends_as_it_does_otherwise(
    popen: type[subprocess.Popen[str]], words: str, tmp_path: Path
) -> None:
    """Both streams and the exit code; the environment and the folder are those that were asked for."""
    command = [sys.executable, "-m", "cli", *words.split()]
    environment = {**os.environ, "ENGINE_DATABASE": "the_other_one"}
    plain = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    process = popen(command, env=environment, cwd=tmp_path, text=True, start_new_session=True, **PIPES)
    out, err = process.communicate()

    assert (process.returncode, out, err) == (plain.returncode, plain.stdout, plain.stderr)
    assert out or err
    if words.startswith("status"):
        assert "the_other_one" in err


@POPENS
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_has_a_session_of_its_own_no_foreign_file_and_ends_by_a_signal(
    popen: type[subprocess.Popen[str]], number: signal.Signals
) -> None:
    """A server: SIGKILL ends it as that, SIGTERM and SIGINT in order."""
    with popen(SERVER, text=True, start_new_session=True, **PIPES) as process:
        assert process.stdout is not None
        assert "ports" in process.stdout.readline()
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        assert is_forked(process) == (popen is prewarmed.Popen)
        assert os.getpgid(process.pid) == os.getsid(process.pid) == process.pid
        assert not psutil.Process(process.pid).open_files()
        kinds = [path.readlink().name.partition(":")[0] for path in Path(f"/proc/{process.pid}/fd").iterdir()]
        assert kinds.count("socket") == 2  # its port and its control port

        process.send_signal(number)

        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE, what="its end")
        os.killpg(process.pid, signal.SIGKILL)  # what nobody has waited for can still be signalled
        assert process.wait(60) == (-number if number == signal.SIGKILL else 0)
        assert not psutil.pid_exists(process.pid)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ([sys.executable, "-c", "pass"], {"start_new_session": True}),
        ([sys.executable, "-m", "cli", "--version"], {}),
        (
            [sys.executable, "-m", "cli", "--version"],
            {"env": {**os.environ, "PYTHONHASHSEED": "1"}, "start_new_session": True},
        ),
        ([sys.executable, "-m", "cli", "--version"], {"preexec_fn": os.getpid, "start_new_session": True}),
    ],
    ids=["another module", "this session", "a variable of the interpreter", "a function before it"],
)
def test_what_a_fork_cannot_be_is_started(command: list[str], options: dict[str, object]) -> None:
    with prewarmed.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options) as process:
        assert psutil.Process(process.pid).ppid() == os.getpid()
        process.communicate()
    assert process.returncode == 0
