"""`engine run` stopped by a limit, signals, another run, a full or closed folder; what `engine status` says then."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.standin import StandinFleet
from commands.options.secrets import RunSecrets
from commands.run.run import run
from engine.config import LimitsConfig, RunConfig, ServersConfig, SinkConfig, SourceConfig
from engine.errors import Exit
from engine.telemetry.status import read_status
from tests.crash.job import (
    DONE,
    SLOW,
    Job,
    finish,
    full_speed,
    roles,
    slow_down,
    tweets,
    wait_for_commit,
    wait_for_phase,
    wait_until,
)


class Interrupting:
    """Servers of a run's own at whose end somebody presses Ctrl-C."""

    def start(self, tell: object) -> None:
        pass

    def stop(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("urls", "code"), [(2, Exit.LIMIT), (0, Exit.SERVERS)], ids=["a limit", "no server"])
def test_ctrl_c_while_a_run_lets_its_servers_go_leaves_its_result_as_it_is(job: Job, urls: int, code: Exit) -> None:
    """The rows are committed and marked by then, and what the run came to is known."""
    job.insert(tweets(30))
    config = RunConfig(
        source=SourceConfig(database=job.database.name, collection=job.collection, done_field=DONE),
        servers=ServersConfig(urls=job.urls[:urls] or ("http://127.0.0.1:1",), batch_size=8),
        sink=SinkConfig(hot_dir=job.folders.hot.parent, cold_dir=job.folders.cold.parent),
        limits=LimitsConfig(limit=20, max_outage_s=1.0),
    )

    result = run(config, RunSecrets(mongo_uri=job.uri), show_progress=False, own_servers=Interrupting())

    assert result.summary["exit"] == code
    assert result.summary["embedded"] == len(job.rows()) == (20 if urls else 0)
    assert (result.error is None) == bool(urls)


def test_limit_stops_with_exit_8_until_nothing_is_left(job: Job) -> None:
    """Exactly that many documents, then the rest."""
    job.insert([{"_id": number, "text": f"t{number}"} for number in range(100)])

    first = job.run("--limit", "60")
    second = job.run("--limit", "40")

    assert (first.code, first.summary["read"], first.summary["embedded"]) == (8, 60, 60), first.err
    assert (second.code, second.summary["embedded"]) == (0, 40), second.err
    job.assert_exact()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_one_signal_drains_commits_and_marks(job: Job, fleet: StandinFleet, number: signal.Signals, code: int) -> None:
    """To the whole group, as a terminal does; what is committed is marked; the next run finishes."""
    job.options = SLOW
    slow_down(fleet)
    job.insert(tweets(1500))
    process = job.start_run()
    wait_for_commit(job, process)

    os.killpg(process.pid, number)
    ended = finish(process)

    assert ended.code == code, ended.err
    assert "run the same command again" in ended.err
    state = job.state()
    assert not state.unmarked()
    assert ended.summary["embedded"] == state.rows
    full_speed(fleet)
    assert job.run().code == 0
    job.assert_exact()


@pytest.mark.parametrize(("second", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_two_signals_give_up_the_open_shard_and_stay_exact(
    job: Job, fleet: StandinFleet, second: signal.Signals, code: int
) -> None:
    """Faster, still consistent; also when an init system loses its patience. A held writer keeps them waiting."""
    job.options = SLOW
    slow_down(fleet)
    job.insert(tweets(1500))
    process = job.start_run()
    wait_for_commit(job, process)
    os.kill(roles(process)["writer"], signal.SIGSTOP)

    os.killpg(process.pid, signal.SIGINT)
    wait_for_phase(job, process, "sealing")
    os.killpg(process.pid, second)
    ended = finish(process)
    full_speed(fleet)

    assert ended.code == code, ended.err
    assert ("giving_up" in ended.err) == (second is signal.SIGINT)
    assert job.run().code == 0
    job.assert_exact()


def test_a_second_run_on_the_same_folder_is_exit_11_at_once(job: Job, fleet: StandinFleet) -> None:
    """The first one is not disturbed."""
    job.options = SLOW
    slow_down(fleet, 1.0)
    job.insert(tweets(1500))
    process = job.start_run()
    wait_for_commit(job, process)

    second = job.run()
    full_speed(fleet)
    first = finish(process)

    assert second.code == 11
    assert str(process.pid) in second.err
    assert first.code == 0, first.err
    job.assert_exact()


def test_a_second_run_in_another_folder_is_noticed_by_its_marks(job: Job, fleet: StandinFleet, tmp_path: Path) -> None:
    """Two runs on one collection: at least one stops with exit 11, neither calls itself done unnoticed."""
    job.options = SLOW
    slow_down(fleet, 1.0)  # both have read before either gets far
    job.insert(tweets(1500))
    second = dataclasses.replace(job, folder=tmp_path / "other")
    process, other = job.start_run(), second.start_run()

    def both_have_read() -> bool:
        if process.poll() is not None or other.poll() is not None:
            return True  # noticed already
        figures = [read_status(one.folders.status) or {} for one in (job, second)]
        return all(figure.get("reader", {}).get("documents", 0) > 0 for figure in figures)

    wait_until(both_have_read, what="documents in the rings of both")
    full_speed(fleet)

    codes = {finish(process).code, finish(other).code}

    assert 11 in codes


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A device of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting a tmpfs needs rights that this test does not have")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.crash
def test_a_full_cold_disk_is_exit_5_and_the_run_goes_on_when_there_is_space(job: Job, small_disk: Path) -> None:
    """Nothing is marked that is not durable; the error names the free space."""
    job.insert([{"_id": number, "text": f"text {number}"} for number in range(40_000)])
    job.cold = small_disk
    job.options = ("--shard-bytes", "256KiB", "--batch-size", "32")

    full = job.run()

    assert full.code == 5, full.err
    assert "MiB free" in full.err
    assert job.state().stop is not None
    assert job.database["tweets"].count_documents({DONE: True}) == sum(
        commit["rows"] for name, commit in job.state().commits.items() if name in job.state().marked
    )
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    again = job.run()
    assert again.code == 0, again.err
    job.assert_exact()


def test_folders_that_cannot_be_written_are_exit_5_or_2(job: Job, tmp_path: Path) -> None:
    """A file where a folder should be."""
    job.insert(tweets(5))
    (tmp_path / "file").write_text("in the way")

    ended = job.run("--cold-dir", str(tmp_path / "file"))

    assert ended.code in (2, 5)
    assert str(tmp_path / "file") in ended.err


def test_status_works_while_a_run_is_going_and_after_a_crash(job: Job, fleet: StandinFleet) -> None:
    """From the run folder alone."""
    job.options = SLOW
    slow_down(fleet, 1.0)
    job.insert(tweets(1500))
    process = job.start_run()
    wait_for_commit(job, process)
    going = json.loads(job.call("status", "--json").out)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    crashed = json.loads(job.call("status", "--json").out)
    text = job.call("status").out
    full_speed(fleet)
    assert job.run().code == 0
    ended = json.loads(job.call("status", "--json").out)

    assert going["running"]
    assert going["pid"] == process.pid
    assert not crashed["running"]
    assert "crashed" in crashed["state"]
    assert "crashed" in text
    assert ended["exit"] == 0
    assert ended["documents"]["committed"] == len(job.rows())
    assert (ended["documents"]["unmarked_shards"], ended["documents"]["left"]) == (0, 0)
