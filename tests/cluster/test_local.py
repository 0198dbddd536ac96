"""`--ray local:N`: a cluster that is there for one run, and gone with it whatever ends that."""

from __future__ import annotations

import importlib.util
import signal

import psutil
import pytest

from tests.cluster.job import CLUSTER_S, are_gone, tree
from tests.crash.cold_job import ColdJob
from tests.crash.conftest import cold_job, fleet, job, proxy, shared_fleet  # noqa: F401 - fixtures
from tests.crash.job import Job, finish, tweets, wait_for_commit, wait_until

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'embedding-engine[ray]'"
)
LOCAL = ("--ray", "local:2")


@needs_ray
@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.ray
def test_g6_a_local_cluster_ends_with_its_run_and_with_a_killed_driver(
    cold_job: ColdJob,  # noqa: F811
) -> None:
    """Its nodes have the credentials of the store that the driver has."""
    cold_job.insert(tweets(900))
    process = cold_job.start_run(*LOCAL, ENGINE_FAILPOINTS="supervisor/commit.after=stop")
    wait_for_commit(cold_job, process)
    below = tree(psutil.Process(process.pid))[1:]
    assert any("raylet" in " ".join(member.cmdline()) for member in below)

    process.send_signal(signal.SIGKILL)
    wait_until(lambda: are_gone(below), CLUSTER_S, "the end of the whole cluster")
    finish(process)
    ended = finish(cold_job.start_run(*LOCAL), CLUSTER_S)

    assert ended.code == 0, ended.err
    assert [node["node"] for node in ended.summary["nodes"]] == ["local-1", "local-2"]
    cold_job.assert_exact()


@pytest.mark.seconds
def test_ray_is_not_imported_by_a_run_without_it(job: Job) -> None:  # noqa: F811
    job.insert(tweets(60))
    seen = job.folder / "imported"
    (job.folder / "sitecustomize.py").write_text(
        "import atexit, os, sys\n"
        f"path = {str(seen)!r} + str(os.getpid())\n"
        "atexit.register(lambda: open(path, 'w').write(chr(10).join(sys.modules)))\n"
    )

    ended = job.run(PYTHONPATH=str(job.folder))

    assert ended.code == 0, ended.err
    modules = [path.read_text().splitlines() for path in job.folder.glob("imported*")]
    assert any("commands.run.run" in names for names in modules)
    assert not any(name == "ray" or name.startswith(("ray.", "engine.cluster")) for names in modules for name in names)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--ray", "local:0"), "expected local:N"),
        (("--ray", "nowhere"), "expected auto, HOST:PORT"),
        (("--ray", "auto", "--part", "1/2"), "--part is of machines without one ledger"),
        (("--ray", "auto", "--ray-resource", " "), "--ray-resource is empty"),
        (("--ray", "auto", "--serve"), "--serve starts servers on this machine alone"),
    ],
)
def test_what_cannot_go_together_is_one_sentence(job: Job, arguments: tuple[str, ...], said: str) -> None:  # noqa: F811
    refused = job.run(*arguments)

    assert refused.code == 2
    assert said in refused.err
    assert not refused.out or "Traceback" not in refused.out
