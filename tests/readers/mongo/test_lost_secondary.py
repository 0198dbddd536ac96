"""A replica set whose secondary is lost: the primary works, but no majority confirms a write."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest
from pymongo.errors import PyMongoError

from bench.parts.local_mongod import REPLICA_SET, LocalMongod
from engine.errors import SourceError
from readers.mongo import connection, index_build
from readers.mongo.connection import open_client, open_collection, silent_members
from readers.mongo.index import create_indexes
from readers.mongo.marker import Marker, probe_write_right
from tests.readers.harness import DONE, WAIT_S

LOST = "127.0.0.1:1"


class _Arbiter(LocalMongod):
    """A mongod that waits for a replica set to take it in."""

    def _become_primary(self) -> None:
        pass


@pytest.fixture(scope="module")
def lame() -> Iterator[LocalMongod]:
    """The primary of a set of three: itself, an arbiter, and a secondary that is not there."""
    with LocalMongod(cache_gb=0.25) as primary, _Arbiter(cache_gb=0.25) as arbiter, open_client(primary.uri) as client:
        database = client.get_database("lame")
        database["tweets"].insert_many([{"_id": number, "text": "x"} for number in range(10)])
        client.admin.command("setDefaultRWConcern", defaultWriteConcern={"w": 1})
        config = client.admin.command("replSetGetConfig")["config"]
        assert config["_id"] == REPLICA_SET
        config["version"] += 1
        config["members"] += [
            {"_id": 1, "host": f"127.0.0.1:{arbiter.port}", "arbiterOnly": True},
            {"_id": 2, "host": LOST, "priority": 0},
        ]
        client.admin.command("replSetReconfig", config, force=True)
        deadline = time.monotonic() + WAIT_S
        while True:
            states = {member["stateStr"] for member in client.admin.command("replSetGetStatus")["members"]}
            if {"PRIMARY", "ARBITER"} <= states:
                break
            assert time.monotonic() < deadline, states
            time.sleep(0.05)
        yield primary


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAJORITY_WAIT_MS", 300)
    monkeypatch.setattr(index_build, "STANDSTILL_S", 0.5)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("engine"), "propagate", True)
    return caplog


@pytest.mark.seconds
def test_marks_that_no_majority_confirms_say_what_is_waited_for_and_end_in_time(
    lame: LocalMongod, said: pytest.LogCaptureFixture
) -> None:
    marker = Marker(lame.uri, "lame", "tweets", DONE, max_outage_s=1.0)
    try:
        with pytest.raises(SourceError, match=r"no majority of the replica set has confirmed it .*--max-outage 1"):
            marker.mark(list(range(10)), ours_before=False)
    finally:
        marker.close()
    lines = [line for line in said.messages if line.startswith("waiting_for_a_majority")]
    assert len(lines) == 1
    assert f"not_answering={LOST}" in lines[0]


def test_the_right_to_mark_is_not_proved_by_a_write_that_no_majority_confirms(lame: LocalMongod) -> None:
    """It ends with the cause, and not with a MongoDB that does not answer."""
    with pytest.raises(SourceError, match="start the secondary that is down or far behind"):
        probe_write_right(lame.uri, "lame", "tweets", DONE)


def test_an_index_build_that_waits_for_a_lost_member_says_so(lame: LocalMongod, said: pytest.LogCaptureFixture) -> None:
    """It would wait in silence for as long as the member is away."""
    with open_client(lame.uri) as client:
        documents = open_collection(client, "lame", "tweets")
        failures: list[BaseException] = []

        def build() -> None:
            try:
                create_indexes(documents, DONE, on_progress=lambda name, share: None)
            except Exception as error:  # noqa: BLE001 - dropped below
                failures.append(error)

        builder = threading.Thread(target=build)
        builder.start()
        deadline = time.monotonic() + WAIT_S
        while not any(line.startswith("index_build_waits") for line in said.messages):
            assert time.monotonic() < deadline, "nothing was said"
            assert builder.is_alive(), failures
            time.sleep(0.05)
        assert any(f"not_answering={LOST}" in line for line in said.messages)
        client.get_database("lame")["tweets"].with_options(write_concern=connection.WriteConcern(w=1)).drop_indexes()
        builder.join(WAIT_S)
        assert not builder.is_alive()


def test_a_set_whose_members_all_answer_has_no_silent_ones(mongod: LocalMongod) -> None:
    with open_client(mongod.uri) as client:
        client.admin.command("ping")
        assert silent_members(client) == ()


def test_a_server_without_a_set_has_no_silent_members() -> None:
    with open_client("mongodb://127.0.0.1:1/", selection_ms=200) as client:
        with pytest.raises(PyMongoError):
            client.admin.command("ping")
        assert silent_members(client) == ()
