"""Fetching while MongoDB fails, for a while or for good, and when the index goes away."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.collection import Collection

from bench.parts.local_mongod import LocalMongod
from engine.errors import ConfigError, SourceError
from tests.readers.harness import ReaderHarness, make_queue, numbered, settings_for

Documents = Collection[dict[str, Any]]


def test_an_index_dropped_while_reading_is_refused_too(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, numbered(3000))
    with ReaderHarness(settings_for(documents, mongod.uri, page_rows=50), n_slots=4) as reader:
        reader.take_rows(1)
        documents.drop_index("embedding_work_queue")
        with pytest.raises(AssertionError, match="engine index"):
            reader.drain_until("pass_done")
        assert isinstance(reader.wait_for_error(), ConfigError)


@pytest.mark.seconds
@pytest.mark.parametrize(
    "fault",
    [
        {"failCommands": ["find"], "closeConnection": True},
        {"failCommands": ["find"], "errorCode": 11602},
        {"failCommands": ["find"], "errorCode": 10107},
        {"failCommands": ["find"], "errorCode": 43},
        {"failCommands": ["find", "listIndexes", "explain"], "errorCode": 189},
    ],
)
def test_a_database_that_fails_for_a_while_costs_nothing(
    documents: Documents, mongod: LocalMongod, fault: dict[str, Any]
) -> None:
    make_queue(documents, numbered(300))
    admin = documents.database.client.admin
    fault = {**fault, "appName": "engine-reader"}
    with ReaderHarness(settings_for(documents, mongod.uri, page_rows=20)) as reader:
        admin.command("configureFailPoint", "failCommand", mode={"times": 4}, data=fault)
        try:
            reader.drain_until("pass_done")
        finally:
            admin.command("configureFailPoint", "failCommand", mode="off")
    assert sorted(reader.ids) == list(range(300))


@pytest.mark.seconds
def test_a_database_that_stays_away_is_waited_for_and_ends_the_run_after_the_limit(
    documents: Documents, mongod: LocalMongod
) -> None:
    make_queue(documents, numbered(300))
    admin = documents.database.client.admin
    fault = {"failCommands": ["find"], "errorCode": 189, "appName": "engine-reader"}
    admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=fault)
    try:
        with ReaderHarness(settings_for(documents, mongod.uri, max_outage_s=600.0)) as reader:
            reader.drain_while_it_waits_for_the_source()
        with ReaderHarness(settings_for(documents, mongod.uri, max_outage_s=0.5)) as reader:
            error = reader.wait_for_error()
    finally:
        admin.command("configureFailPoint", "failCommand", mode="off")
    assert isinstance(error, SourceError)
    assert "--max-outage" in str(error)
