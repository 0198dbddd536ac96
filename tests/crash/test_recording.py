"""The recording of real runs: after kills, on a disk that takes nothing, and without a secret in it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from bench.recording.recording import read_recording
from tests.crash.job import SECRET, Job, tweets

pytestmark = pytest.mark.crash


@pytest.mark.parametrize("hit", [4, 7])
def test_a_run_killed_while_it_records_loses_nothing_and_the_next_one_records_on(job: Job, hit: int) -> None:
    job.insert(tweets(300))
    killed = job.run(ENGINE_FAILPOINTS=f"supervisor/history.append#{hit}=kill")
    done = job.run()

    found = read_recording(job.folders.history)

    assert killed.code == -signal.SIGKILL
    assert done.code == 0
    assert len(job.rows()) == done.summary["embedded"] + done.summary["resumed"]
    assert [event["event"] for event in found.events].count("new_run") == 2
    assert found.events[-1]["event"] == "end"
    assert found.events[-1]["exit"] == 0
    report = job.call("report", "--json")
    assert report.code == 0
    assert set(json.loads(report.out)) == {"verdict", "stretches", "events"}


def test_a_run_that_cannot_record_is_none_the_worse(job: Job) -> None:
    job.insert(tweets(300))
    done = job.run(ENGINE_FAILPOINTS="supervisor/history.append#0=ENOSPC")

    assert done.code == 0
    assert done.summary["embedded"] == len(job.rows())
    assert done.err.count("history_not_written") == 1


def test_the_recording_of_a_run_adds_up_and_holds_no_secret(job: Job) -> None:
    job.insert(tweets(500))
    secret = job.folder / "key"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    done = job.run(ENGINE_TEI_API_KEY_FILE=str(secret))

    found = read_recording(job.folders.history)

    assert done.code == 0
    embedded = done.summary["embedded"]
    assert found.column("rows").sum() == embedded
    of_servers = sum(found.column(f"server-{index}.rows").sum() for index in range(len(found.servers)))
    assert of_servers <= embedded  # what clients told after the last sample, in the last second, is not there
    assert found.column("committed").sum() <= embedded
    assert all(SECRET.encode() not in path.read_bytes() for path in Path(job.folders.history).iterdir())
