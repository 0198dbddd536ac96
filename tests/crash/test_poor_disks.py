"""Runs on file systems that cannot do everything: as exact as elsewhere, or refused before anything is embedded."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.standin import StandinFleet
from tests.crash.job import SLOW, Job, finish, full_speed, slow_down, tweets, wait_for_commit
from tests.parts.poor_disk import mounted

pytestmark = pytest.mark.crash


def on_disk(job: Job, *refusals: str) -> Iterator[Job]:
    """The job with both folders on such a disk; where root may not mount FUSE the test is skipped."""
    try:
        with mounted(job.folder / "disk", *refusals) as mount:
            yield dataclasses.replace(job, hot=mount / "hot", cold=mount / "cold")
    except PermissionError as error:
        pytest.skip(str(error))


def test_a_disk_without_hard_links_gives_the_same_shards(job: Job, fleet: StandinFleet) -> None:
    """Killed midway, continued, merged and verified there. A folder that has no fsync of its own is no obstacle."""
    for there in on_disk(job, "LINK=EPERM", "FSYNCDIR=EINVAL"):
        there.insert(tweets(900))
        slow_down(fleet)
        there.options = SLOW
        process = there.start_run()
        wait_for_commit(there, process)
        os.killpg(process.pid, signal.SIGKILL)
        finish(process)
        full_speed(fleet)

        ended = there.run()
        there.assert_exact()
        merged = there.call("merge", "--json")
        verified = there.call("verify", "--level", "4", "--json")

        assert (ended.code, merged.code, verified.code) == (0, 0, 0), ended.err + merged.err + verified.err


def test_a_disk_that_cannot_name_a_file_safely_is_refused_before_anything_is_embedded(job: Job) -> None:
    """Not after the first shard, and the device is not to blame."""
    for there in on_disk(job, "LINK=EPERM", "RENAME_NEW=EINVAL"):
        there.insert(tweets(30))

        ended = there.run()

        assert ended.code == 5
        assert "neither hard links nor a rename that never replaces" in ended.err
        assert len(ended.err.strip().splitlines()) == 1
        assert ended.summary["read"] == 0
        assert not list(there.folders.shards.iterdir())


@pytest.mark.parametrize("code", ["EPERM", "EOPNOTSUPP"])
def test_a_writer_whose_links_are_refused_renames(job: Job, code: str) -> None:
    """Wherever FUSE cannot be mounted, too."""
    job.insert(tweets(300))

    ended = job.run(ENGINE_FAILPOINTS=f"writer/durable.link#0={code}")

    assert ended.code == 0, ended.err
    job.assert_exact()


def test_a_run_killed_right_after_such_a_rename_goes_on(job: Job, tmp_path: Path) -> None:
    """The shard has its name and no COMMIT: it is adopted."""
    job.insert(tweets(300))
    witness = tmp_path / "killed"

    ended = job.run(ENGINE_FAILPOINTS=f"writer/durable.link#0=EPERM;writer/writer.after_link=kill_once:{witness}")

    assert ended.code == 0, ended.err
    assert witness.exists()
    job.assert_exact()
