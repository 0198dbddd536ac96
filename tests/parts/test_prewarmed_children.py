"""Children of a forked command are as those of one that has been started, and are its children."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from pymongo.database import Database

from bench.parts.local_mongod import LocalMongod
from bench.standin import StandinFleet
from engine.telemetry.status import read_status
from tests.crash import job as jobs
from tests.crash.conftest import fleet, shared_fleet  # noqa: F401 - fixtures
from tests.crash.job import Job, finish, roles, wait_until
from tests.parts import prewarmed
from tests.parts.prewarmed_children import NAME

ROLES = {"reader", "writer", "client-0", "client-1", "client-2", "client-3"}
N = 64
OF_STATUS = ("Name", "SigBlk", "SigIgn", "NoNewPrivs", "Umask")


@pytest.fixture
def job(tmp_path: Path, mongod: LocalMongod, mongo_db: Database[dict[str, Any]], fleet: StandinFleet) -> Job:  # noqa: F811
    found = Job(folder=tmp_path, uri=mongod.uri, database=mongo_db, urls=tuple(fleet.urls))
    found.insert([{"_id": number, "text": f"tweet {number}", "lang": "en"} for number in range(N)])
    return found


def start_and_hold(job: Job) -> subprocess.Popen[str]:
    """A run whose writer sleeps before its first commit, and by then has all its children at work."""
    of_this_one = Path(tempfile.mkdtemp(dir=job.folder))
    job.hot, job.cold = of_this_one / "hot", of_this_one / "cold"
    run = job.start_run(ENGINE_FAILPOINTS="writer/writer.before_close=sleep:100")
    wait_until(lambda: bool((read_status(job.folders.status) or {}).get("embedded_now")), what="vectors", process=run)
    return run


def described(run: subprocess.Popen[str]) -> dict[str, dict[str, Any]]:
    """What the kernel says of each child, by role."""
    found = {}
    for role, pid in roles(run).items():
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        files = [path.readlink().name.partition(":")[0] for path in Path(f"/proc/{pid}/fd").iterdir()]
        child = psutil.Process(pid)
        found[role] = {
            "command": child.cmdline()[:4],
            "child": child.ppid() == run.pid,
            "group": os.getpgid(pid) == os.getsid(pid) == run.pid,
            "folder": child.cwd(),
            "nice": child.nice(),
            "limits": [child.rlimit(psutil.RLIMIT_NOFILE), child.rlimit(psutil.RLIMIT_CORE)],
            "shared memory": sum(name.startswith("memfd") for name in files),
            "streams": [Path(f"/proc/{pid}/fd/{number}").readlink().name.partition(":")[0] for number in range(3)],
            **{name: status[name] for name in OF_STATUS},
        }
    return found


@pytest.mark.seconds
def test_children_of_a_fork_are_what_children_of_a_started_command_are(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has the same parent, group, limits, signals, streams and command line."""
    seen = []
    for popen in (subprocess.Popen, prewarmed.Popen):
        with monkeypatch.context() as patch:
            patch.setattr(jobs.prewarmed, "Popen", popen)
            run = start_and_hold(job)
        seen.append(described(run))
        kinds = Counter(child.name() for child in psutil.Process(run.pid).children())
        assert kinds[NAME] == (popen is prewarmed.Popen), "only there do children come from a process that forks"
        jobs.kill(run)
    started, forked = seen
    assert set(started) == set(forked) == ROLES
    assert forked == started
    assert all(child["child"] and child["group"] for child in forked.values())


@pytest.mark.seconds
def test_children_of_a_fork_die_with_it_and_their_ends_are_told_to_it(job: Job) -> None:
    run = start_and_hold(job)
    children = roles(run)
    os.kill(children["client-2"], signal.SIGKILL)
    wait_until(lambda: roles(run).get("client-2") not in (None, children["client-2"]), what="another", process=run)
    below = psutil.Process(run.pid).children()
    run.kill()
    assert finish(run).code == -signal.SIGKILL
    _, alive = psutil.wait_procs(below, timeout=60)
    assert not alive
