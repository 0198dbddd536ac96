"""Fixtures of all tests: a real MongoDB, a real S3 server, and the proof that a test leaves nothing behind."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pymongo
import pytest
from pymongo.database import Database

from bench.parts.local_mongod import LocalMongod
from bench.parts.s3_server import S3Server
from bench.standin import fleet
from tests.parts import prewarmed
from tests.parts.processes import children_of

# a shell that starts pytest in the background lets it ignore Ctrl-C, nohup lets it ignore SIGHUP, and what is ignored
# here is ignored by every child that a test means to interrupt
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

# Assertions that pytest has rewritten are kept beside the tests also where the environment would have no bytecode
# written: every worker would take five seconds to rewrite them all, each time. What tests start is as that says.
sys.dont_write_bytecode = False

# the same examples every time, however slow the machine is; `--hypothesis-profile=explore` tries others
_NO_CLOCK = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], database=None)
hypothesis.settings.register_profile("explore", _NO_CLOCK)
hypothesis.settings.register_profile("same", _NO_CLOCK, derandomize=True)
hypothesis.settings.load_profile("same")

QUICK_JOURNAL = ("--journalCommitInterval", "5")
"""For a mongod of tests: a collection that is dropped and an index that is made wait for the next flush of the journal,
which comes every 100 ms otherwise. What waits for the journal by its write concern is told as before."""

LEAVE_S = 20.0
"""How long a process may take to leave after its test: the kernel may still be taking down what was killed."""

_names = itertools.count(1)
_session_servers: list[LocalMongod] = []  # they outlive a test, and a test may restart them
_session_pids: set[int] = set()


@contextlib.contextmanager
def outlives_tests(*pids: int) -> Iterator[None]:
    """Tell the leak check of processes that belong to a session's fixture."""
    _session_pids.update(pids)
    yield
    _session_pids.difference_update(pids)


@pytest.fixture(scope="session", autouse=True)
def prewarmed_servers() -> Iterator[None]:
    """Stand-in servers are forked from a process that has imported them already; that one ends with the session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fleet._Child, "popen", prewarmed.Popen)
        yield
    prewarmed.close()


@pytest.fixture(scope="session")
def mongod() -> Iterator[LocalMongod]:
    """One real mongod for the whole session (of each worker); a missing one fails the test, it never skips it."""
    with LocalMongod(arguments=QUICK_JOURNAL) as server:
        _session_servers.append(server)
        yield server
        _session_servers.remove(server)


def s3_server(name: str) -> S3Server:
    """A server by its name; the test is skipped when this machine has no such one."""
    if name != "versitygw":
        return S3Server()
    from tests.parts.versitygw import VersityServer, versitygw_binary

    binary = versitygw_binary()
    if binary is None:
        pytest.skip("versitygw is not on the PATH, and VERSITYGW does not name it: see tests/parts/versitygw.py")
    return VersityServer(binary)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """One S3 server for the whole session: moto's, or versitygw with TEST_S3=versitygw (`make test-stores`)."""
    with s3_server(os.environ.get("TEST_S3", "moto")) as server, outlives_tests(*server.pids):
        yield server


@pytest.fixture
def mongo_db(mongod: LocalMongod) -> Iterator[Database[dict[str, Any]]]:
    """A fresh database on the session's mongod, dropped after the test."""
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(mongod.uri)
    name = f"test_{next(_names)}"
    with client:
        yield client[name]
        client.drop_database(name)


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fail a test after which a child process or a file of ours in /dev/shm is left.

    Workers of pytest are siblings: each looks at its own children. No file in /dev/shm is ours, so none of another
    worker's is taken for one of this test.
    """
    children_before = children_of(os.getpid(), recursive=True)
    files_before = set(Path("/dev/shm").glob("engine*"))
    yield
    expected = (
        children_before
        | prewarmed.pids()
        | _session_pids
        | {server.pid for server in _session_servers if server.running}
    )
    deadline = time.monotonic() + LEAVE_S
    while True:
        left = children_of(os.getpid(), recursive=True) - expected
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    assert not left, f"processes left behind: {[_describe(pid) for pid in left]}"
    files = set(Path("/dev/shm").glob("engine*")) - files_before
    assert not files, f"shared memory left behind: {files}"


def _describe(pid: int) -> str:
    try:
        return f"{pid} {' '.join(psutil.Process(pid).cmdline())[:200]}"
    except psutil.Error:
        return f"{pid} (ended)"
