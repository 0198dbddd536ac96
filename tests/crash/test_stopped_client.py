"""A client that stands still with a result in hand, and what becomes of the result when it wakes or never does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from engine.supervision.run_plan import StagePlan
from tests.crash.job import Job, finish, roles, tweets, wait_for_phase, wait_until
from tests.engine.supervision.world import N, World

pytestmark = pytest.mark.crash

STOPPED = "client-0/client.answered#3=stop"
"""The third answer has arrived, and nobody has been told of it."""


def wait_for_stopped_client(process: subprocess.Popen[str]) -> int:
    """The process id of client 0 once it stands still."""
    found: list[int] = []

    def stands() -> bool:
        assert process.poll() is None, f"the run ended early: {finish(process).err[-2000:]}"
        with contextlib.suppress(psutil.Error, KeyError):
            pid = roles(process)["client-0"]
            if psutil.Process(pid).status() == psutil.STATUS_STOPPED:
                found.append(pid)
        return bool(found)

    wait_until(stands, timeout_s=60.0, what="a client that stands still")
    return found[0]


def lives(pid: int) -> bool:
    """Whether a process still runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_g2_a_stopped_client_cannot_deliver_into_another_epoch(job: Job) -> None:
    """SIGSTOP, kill of the supervisor, SIGCONT: it is dead before it can wake, and the next run is exact."""
    job.urls = job.urls[:1]  # so that this client is certain to get a third answer
    job.insert(tweets(300))
    process = job.start_run(ENGINE_FAILPOINTS=STOPPED)
    client = wait_for_stopped_client(process)

    os.kill(process.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(client, signal.SIGCONT)
    finish(process)
    again = job.run()

    assert again.code == 0, again.err
    assert not lives(client)
    job.assert_exact()


def test_g2_a_client_that_wakes_in_its_own_generation_delivers_once(job: Job) -> None:
    """All else has been read meanwhile; its late result is waited for, and counts once."""
    job.urls = job.urls[:1]
    job.insert(tweets(300))  # all of them fit into the ring
    process = job.start_run(ENGINE_FAILPOINTS=STOPPED)
    client = wait_for_stopped_client(process)
    wait_for_phase(job, process, "delivering")

    os.kill(client, signal.SIGCONT)
    ended = finish(process)

    assert ended.code == 0, ended.err
    assert ended.summary["restarts"] == 0
    job.assert_exact()


def test_g2_a_client_that_stands_still_for_too_long_takes_its_result_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its generation is ended, it with it; the next one embeds what it held, and nothing twice."""
    monkeypatch.setattr("engine.supervision.watchdog.SILENCE_WARN_S", 1.0)
    monkeypatch.setattr("engine.supervision.watchdog.SILENCE_KILL_S", 4.0)
    world = World(tmp_path)
    original = world.stages

    def stages(epoch: int, remaining: int | None) -> list[StagePlan]:
        if epoch > 1:  # nobody stands still any more, and a start takes longer than that on a slow machine
            monkeypatch.setattr("engine.supervision.watchdog.SILENCE_KILL_S", 180.0)
        stage = "tests.engine.fakes.stopping_client"
        return [
            StagePlan(role=plan.role, stage=stage, settings=plan.settings) if plan.role.startswith("client") else plan
            for plan in original(epoch, remaining)
        ]

    world.stages = stages  # type: ignore[method-assign]

    result = world.run()

    world.assert_exact()
    assert (result["exit"], result["read"], result["embedded"]) == (0, N, N)
    assert result["restarts"] >= 1
    assert "said nothing for" in str(next(f["last_error"] for f in reversed(world.figures) if f["last_error"]))
