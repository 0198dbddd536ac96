"""SIGKILL anywhere: the real command line on a real mongod, killed, run again, compared with every document."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from bench.local_mongod import LocalMongod
from bench.standin import StandinFleet
from tests.crash.job import Job, finish, roles, slow_down, tweets, wait_for_commit, wait_until

pytestmark = pytest.mark.crash

N = 900
SLOW = ("--shard-bytes", "64KiB", "--batch-size", "4", "--concurrency", "2")

STEPS = {
    "reader": ["reader.slot_filled#20", "reader.slot_ready#20"],
    "client": ["client.sent#5", "client.answered#5"],
    "writer": [
        "writer.before_row_group#2",
        "writer.before_close",
        "writer.after_close",
        "writer.after_check",
        "writer.after_fsync",
        "writer.after_link",
        "writer.after_folder_fsync",
    ],
    "supervisor": [
        "recovery.after_epoch",
        "commit.before",
        "commit.after",
        "mark.before",
        "mark.mid",
        "mark.after",
        "marked.before",
        "marked.after",
    ],
}


def in_steps(*role_names: str) -> list[str]:
    """Fail points of some roles as `role/point`."""
    return [f"{role}/{step}" for role in role_names for step in STEPS[role]]


@pytest.mark.parametrize("point", in_steps("supervisor"))
def test_g6_the_supervisor_killed_at_each_step_is_continued_by_the_same_command(job: Job, point: str) -> None:
    """G1, G2, G4, G6: children end within 2 s, and the next start finds exactly what is missing."""
    job.insert(tweets(N))
    process = job.start_run(ENGINE_FAILPOINTS=f"{point}=kill")
    children: dict[str, int] = {}
    while process.poll() is None:
        children.update(roles(process))
        time.sleep(0.02)
    finish(process)

    assert process.returncode == -signal.SIGKILL
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in children.values()), 2.0, "the end of all children")
    again = job.run()

    assert again.code == 0, again.err
    job.assert_exact()
    assert again.summary["embedded"] + again.summary["resumed"] == len(job.rows())


@pytest.mark.parametrize("point", in_steps("reader", "client", "writer"))
def test_g6_a_child_killed_at_each_step_starts_a_new_generation_and_loses_nothing(job: Job, point: str) -> None:
    """One kill, one restart within the run, every document once."""
    job.insert(tweets(N))
    witness = job.folder / "killed"

    ended = job.run(ENGINE_FAILPOINTS=f"{point}=kill_once:{witness}")

    assert witness.exists()
    assert ended.code == 0, ended.err
    assert ended.summary["restarts"] == 1
    job.assert_exact()


def test_g6_a_child_that_always_dies_ends_the_run_with_exit_1_and_the_next_is_whole(job: Job) -> None:
    """Restarts are limited; what is committed stays."""
    job.insert(tweets(N))

    broken = job.run(ENGINE_FAILPOINTS="writer/writer.after_fsync=kill")
    again = job.run()

    assert broken.code == 1, broken.err
    assert "restarts within an hour" in broken.err
    assert again.code == 0, again.err
    job.assert_exact()


@pytest.mark.parametrize("role", ["reader", "client-2", "writer"])
def test_g2_a_killed_child_restarts_within_the_run(job: Job, fleet: StandinFleet, role: str) -> None:
    """An operator's kill -9 of one process: exit 0 in the end, one restart, every document once."""
    job.options = SLOW
    slow_down(fleet)
    job.insert(tweets(4 * N))
    process = job.start_run()
    wait_for_commit(job, process)

    os.kill(roles(process)[role], signal.SIGKILL)
    ended = finish(process)

    assert ended.code == 0, ended.err
    assert ended.summary["restarts"] == 1
    job.assert_exact()


def test_g6_the_whole_group_killed_at_random_times_until_the_job_is_done(job: Job, fleet: StandinFleet) -> None:
    """The seed is printed; every start is the same command."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    job.options = SLOW
    slow_down(fleet)
    job.insert(tweets(3 * N))
    for _ in range(8):
        process = job.start_run()
        deadline = time.monotonic() + rng.uniform(0.3, 3.0)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        finish(process)

    last = job.run()

    assert last.code == 0, last.err
    job.assert_exact()


def test_g6_no_shared_memory_is_left_after_a_kill(job: Job) -> None:
    """Rings have no name: whatever is killed, /dev/shm stays as it was."""
    before = set(Path("/dev/shm").iterdir())
    job.insert(tweets(N))
    process = job.start_run()
    wait_until(lambda: len(roles(process)) == 6, what="all children")

    os.killpg(process.pid, signal.SIGKILL)
    finish(process)

    assert set(Path("/dev/shm").iterdir()) == before


def test_g4_a_stopped_writer_that_wakes_in_another_generation_changes_nothing(job: Job, fleet: StandinFleet) -> None:
    """SIGSTOP, kill of the supervisor, a new run, SIGCONT: the old writer is dead before the new epoch begins."""
    job.options = SLOW
    slow_down(fleet)
    job.insert(tweets(2 * N))
    process = job.start_run()
    wait_for_commit(job, process)
    writer = roles(process)["writer"]
    os.kill(writer, signal.SIGSTOP)
    os.kill(process.pid, signal.SIGKILL)
    finish(process)

    again = job.run()

    assert again.code == 0, again.err
    assert not psutil.pid_exists(writer)
    job.assert_exact()


def test_mongodb_restarted_midway_is_waited_for(job: Job, fleet: StandinFleet, mongod: LocalMongod) -> None:
    """Pages and marks are tried again; nothing is lost or doubled."""
    job.options = SLOW
    slow_down(fleet)
    job.insert(tweets(4 * N))
    process = job.start_run()
    wait_for_commit(job, process)

    mongod.restart()
    ended = finish(process)

    assert ended.code == 0, ended.err
    job.assert_exact()


def test_the_oracle_notices_a_doubled_and_a_lost_document(job: Job) -> None:
    """A crash test that cannot fail is worth nothing: break the guarantee on purpose and see it go red."""
    job.insert(tweets(50))
    assert job.run().code == 0
    job.assert_exact()

    job.database[job.collection].update_one({"_id": 7}, {"$unset": {"embedded": ""}})
    assert job.run().code == 0
    with pytest.raises(AssertionError, match="is in two committed rows"):
        job.assert_exact()

    job.database[job.collection].insert_one({"_id": 1000, "text": "never read", "embedded": True})
    with pytest.raises(AssertionError):
        job.assert_exact()
