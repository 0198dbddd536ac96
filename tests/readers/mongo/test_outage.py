"""A MongoDB that really goes away: killed and started again, or stepping down, while it is read and marked."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pymongo
import pytest
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect

from bench.parts.local_mongod import LocalMongod
from readers.mongo.marker import Marker, MarkResult
from tests.conftest import QUICK_JOURNAL
from tests.readers.harness import DONE, WAIT_S, ReaderHarness, make_queue, settings_for

Documents = Collection[dict[str, Any]]
N_ROWS = 2000


@pytest.fixture
def server() -> Iterator[LocalMongod]:
    with LocalMongod(arguments=QUICK_JOURNAL) as found:
        yield found


@pytest.fixture
def documents(server: LocalMongod) -> Iterator[Documents]:
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(server.uri)
    with client:
        found = client.shop.tweets
        make_queue(found, [{"_id": number, "text": f"text {number}"} for number in range(N_ROWS)])
        yield found


@pytest.mark.seconds
def test_a_killed_database_is_waited_for_and_nothing_is_lost_or_doubled(
    server: LocalMongod, documents: Documents
) -> None:
    settings = settings_for(documents, server.uri, page_rows=50, max_outage_s=60.0)
    with ReaderHarness(settings, n_slots=4) as reader:
        reader.take_rows(100)
        server.kill()
        reader.drain_while_it_waits_for_the_source()
        server.start()
        reader.drain_until("pass_done")
    assert sorted(reader.ids) == list(range(N_ROWS))


@pytest.mark.seconds
def test_a_primary_that_steps_down_costs_nothing(server: LocalMongod, documents: Documents) -> None:
    settings = settings_for(documents, server.uri, page_rows=50, max_outage_s=60.0)
    with ReaderHarness(settings, n_slots=4) as reader:
        reader.take_rows(100)
        # some versions close the connection that asked for it
        with pymongo.MongoClient[dict[str, Any]](server.uri) as client, contextlib.suppress(AutoReconnect):
            client.admin.command("replSetStepDown", 1, force=True)
        reader.drain_until("pass_done")
    assert sorted(reader.ids) == list(range(N_ROWS))


@pytest.mark.seconds
def test_marking_outlives_a_killed_database(server: LocalMongod, documents: Documents) -> None:
    marker = Marker(server.uri, "shop", "tweets", DONE, max_outage_s=60.0)
    results: list[MarkResult] = []
    server.kill()
    marking = threading.Thread(target=lambda: results.append(marker.mark(list(range(N_ROWS)), ours_before=False)))
    marking.start()
    server.start()
    marking.join(WAIT_S)
    marker.close()
    assert results == [MarkResult(matched=N_ROWS)]
    assert documents.count_documents({DONE: True}) == N_ROWS
