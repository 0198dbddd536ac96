"""SIGKILL anywhere: the real command line on a real mongod, killed, run again, compared with every document."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from bench.parts.local_mongod import LocalMongod
from bench.standin import StandinFleet
from tests.crash.job import SLOW, Job, finish, full_speed, roles, slow_down, tweets, wait_for_commit, wait_until

pytestmark = pytest.mark.crash

N = 900
STEPS = {
    "reader": ["reader.page", "reader.slot_filled#20", "reader.slot_ready#20"],
    "client": ["client.sent#5", "client.answered#5", "client.before_proof"],
    "writer": [
        "writer.before_row_group#2",
        "writer.before_proof",
        "writer.before_close",
        "writer.after_close",
        "writer.after_check",
        "writer.after_fsync",
        "writer.after_proof",
        "writer.after_link",
        "writer.after_folder_fsync",
    ],
    "supervisor": [
        "recovery.after_epoch",
        "proof.after_asked",
        "proof.after_told",
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


def lives(pid: int) -> bool:
    """Whether a process still runs; a zombie that nobody has waited for does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("point", in_steps("supervisor"))
def test_g6_the_supervisor_killed_at_each_step_is_continued_by_the_same_command(job: Job, point: str) -> None:
    """G1, G2, G4, G6: no child outlives it, and the next start finds exactly what is missing."""
    job.insert(tweets(N))
    process = job.start_run(ENGINE_FAILPOINTS=f"{point}=kill")
    children: dict[str, int] = {}
    while process.poll() is None:
        children.update(roles(process))
        time.sleep(0.02)
    finish(process)

    assert process.returncode == -signal.SIGKILL
    wait_until(lambda: not any(lives(pid) for pid in children.values()), what="the end of all children")
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


@pytest.mark.parametrize("role", ["reader", "client-1", "writer"])
def test_g2_a_killed_child_restarts_within_the_run(job: Job, fleet: StandinFleet, role: str) -> None:
    """An operator's kill -9 of one process: exit 0 in the end, one restart, every document once."""
    job.options = SLOW
    slow_down(fleet)
    job.insert(tweets(4 * N))
    process = job.start_run()
    wait_for_commit(job, process)

    os.kill(roles(process)[role], signal.SIGKILL)
    full_speed(fleet)
    ended = finish(process)

    assert ended.code == 0, ended.err
    assert f"{role} (process " in ended.err
    assert "SIGKILL (killed, by an operator or for lack of memory)" in ended.err
    assert ended.summary["restarts"] == 1
    job.assert_exact()


def test_g6_the_group_or_one_process_killed_at_random_times_until_the_job_is_done(
    job: Job, fleet: StandinFleet
) -> None:
    """The seed is printed; every start is the same command. SOAK_ROUNDS=1000 makes a night of it."""
    rounds = int(os.environ.get("SOAK_ROUNDS", "6"))
    seed = int(os.environ.get("SOAK_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"SOAK_SEED={seed}")
    rng = random.Random(seed)
    job.options = SLOW
    job.urls = fleet.urls
    slow_down(fleet)
    job.insert(tweets(450 * rounds))
    for _ in range(rounds):
        process = job.start_run()
        victim = rng.choice(("group", "supervisor", "reader", "client-0", "writer"))
        wait_at_most(process, rng.uniform(0.3, 3.0))
        if victim == "supervisor" and process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        elif (pid := roles(process).get(victim)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait_at_most(process, rng.uniform(0.0, 2.0))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        finish(process)

    full_speed(fleet)
    last = job.run()

    assert last.code == 0, last.err
    job.assert_exact()


def wait_at_most(process: subprocess.Popen[str], seconds: float) -> None:
    """Let a run go on for some time, or to its end."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)


def test_g6_no_shared_memory_is_left_after_a_kill(job: Job) -> None:
    """Rings have no name: whatever is killed, /dev/shm stays as it was."""
    before = set(Path("/dev/shm").iterdir())
    job.insert(tweets(N))
    process = job.start_run()
    wait_until(lambda: len(roles(process)) == 4, what="all children", process=process)

    os.killpg(process.pid, signal.SIGKILL)
    finish(process)

    # others on this machine (a browser) have files there for a while; ours would stay
    wait_until(lambda: set(Path("/dev/shm").iterdir()) <= before, what="nothing left in /dev/shm")


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
    full_speed(fleet)

    again = job.run()

    assert again.code == 0, again.err
    assert not lives(writer)
    job.assert_exact()


def test_mongodb_restarted_midway_is_waited_for(job: Job, fleet: StandinFleet, mongod: LocalMongod) -> None:
    """Pages and marks are tried again; nothing is lost or doubled."""
    job.options = SLOW
    slow_down(fleet)
    job.insert(tweets(4 * N))
    process = job.start_run()
    wait_for_commit(job, process)

    mongod.restart()
    full_speed(fleet)
    ended = finish(process)

    assert ended.code == 0, ended.err
    job.assert_exact()


def test_mongodb_that_stays_away_is_exit_6_and_what_was_committed_is_marked_later(
    job: Job, fleet: StandinFleet, mongod: LocalMongod
) -> None:
    """Beyond --max-outage: the rest is finished and committed, the sum agrees, the next run marks it first."""
    job.options = SLOW
    slow_down(fleet)
    job.insert(tweets(2 * N))
    process = job.start_run("--max-outage", "3")
    wait_for_commit(job, process)

    mongod.halt()
    try:
        ended = finish(process)
    finally:
        mongod.start()
    full_speed(fleet)
    again = job.run()

    assert ended.code == 6, ended.err
    assert ended.summary["embedded"] == job.state().rows - again.summary["embedded"]
    assert again.code == 0, again.err
    job.assert_exact()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("supervisor/commit.after", "supervisor/mark.mid"),
        ("supervisor/commit.after", "supervisor/mark.after"),
        ("writer/writer.after_link", "supervisor/recovery.before_adopt"),
        ("writer/writer.after_folder_fsync", "supervisor/recovery.before_adopt"),
    ],
)
def test_g6_a_recovery_that_is_killed_is_recovered_from(job: Job, first: str, second: str) -> None:
    """What a crash left is completed by the start after the next: a shard without a record, one without marks."""
    job.insert(tweets(N))
    if first.startswith("writer"):  # the generation's own recovery is the one that is killed
        killed = job.run(ENGINE_FAILPOINTS=f"{first}=kill;{second}=kill")
        assert killed.code == -signal.SIGKILL
    else:
        assert job.run(ENGINE_FAILPOINTS=f"{first}=kill").code == -signal.SIGKILL
        assert job.run(ENGINE_FAILPOINTS=f"{second}=kill").code == -signal.SIGKILL

    again = job.run()

    assert again.code == 0, again.err
    job.assert_exact()


def test_a_committed_shard_that_was_changed_is_never_marked_from(job: Job) -> None:
    """Exit 4 and the file's name; nothing is marked. Put back, the same command continues."""
    job.insert(tweets(N))
    assert job.run(ENGINE_FAILPOINTS="supervisor/commit.after=kill").code == -signal.SIGKILL
    path = job.folders.shards / next(iter(job.state().commits.values()))["file"]
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])

    refused = job.run()
    marked = job.database[job.collection].count_documents({"embedded": True})
    path.write_bytes(whole)
    again = job.run()

    assert refused.code == 4, refused.err
    assert path.name in refused.err
    assert marked == 0
    assert again.code == 0, again.err
    job.assert_exact()


def test_shards_without_their_ledger_are_refused(job: Job) -> None:
    """A lost hot folder: exit 2, nothing is embedded twice; restored, the same command continues."""
    job.insert(tweets(N))
    assert job.run("--limit", "100").code == 8
    ledger = job.folders.ledger
    ledger.rename(ledger.with_name("lost"))

    refused = job.run()
    ledger.with_name("lost").rename(ledger)
    again = job.run()

    assert refused.code == 2, refused.err
    assert "restore its ledger" in refused.err
    assert again.code == 0, again.err
    job.assert_exact()


@pytest.mark.parametrize(
    "fault",
    [
        "writer/durable.write#3=ENOSPC",
        "writer/durable.fsync_file=EIO",
        "writer/durable.link=ENOSPC",
        "writer/durable.fsync_folder=EIO",
        "supervisor/durable.write#2=ENOSPC",
    ],
)
def test_a_device_that_fails_at_any_step_is_exit_5_and_the_next_run_is_whole(job: Job, fault: str) -> None:
    """Data, fsync, name, folder, ledger: nothing is marked that is not durable."""
    job.insert(tweets(N))

    failed = job.run(ENGINE_FAILPOINTS=fault)
    marked = job.database[job.collection].count_documents({"embedded": True})
    rows = job.state().rows
    again = job.run()

    assert failed.code == 5, failed.err
    assert failed.summary["exit"] == 5
    assert failed.summary["embedded"] == rows >= marked
    assert again.code == 0, again.err
    job.assert_exact()


def test_a_cold_folder_that_vanishes_midway_is_exit_5_and_the_run_goes_on_once_it_is_back(
    job: Job, fleet: StandinFleet
) -> None:
    """A disk that was unmounted: what is committed and marked by then is all that counts."""
    job.options = SLOW
    slow_down(fleet)
    job.insert(tweets(N))
    process = job.start_run()
    wait_for_commit(job, process)
    cold = job.folders.cold

    cold.rename(cold.with_name("away"))
    ended = finish(process)
    cold.with_name("away").rename(cold)
    full_speed(fleet)
    again = job.run()

    assert ended.code == 5, ended.err
    assert str(job.folders.shards) in ended.err
    assert again.code == 0, again.err
    job.assert_exact()


def test_a_start_says_when_no_committed_shard_is_where_shards_go(job: Job) -> None:
    """A disk that is not mounted, or another --cold-dir: nothing is lost, but somebody should know."""
    job.insert(tweets(40))
    assert job.run("--limit", "20").code == 8

    elsewhere = job.run("--cold-dir", str(job.folder / "elsewhere"))

    assert elsewhere.code == 0
    assert "shards_not_there" in elsewhere.err
    assert str(job.folder / "elsewhere") in elsewhere.err
