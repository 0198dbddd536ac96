"""The two indexes: made, recognised, refused."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from bson.son import SON
from pymongo.collection import Collection
from pymongo.database import Database

from engine.errors import ConfigError
from readers.mongo.connection import Client, open_collection
from readers.mongo.index import (
    MONITOR_NAME,
    QUEUE_NAME,
    IndexState,
    check_indexes,
    create_indexes,
    require_queue_index,
)
from readers.mongo.index_build import build_progress
from readers.mongo.work_queue import WorkQuery
from tests.readers.harness import DONE, WAIT_S

Documents = Collection[dict[str, Any]]
KEYS = [("lang", 1), ("classified", 1), ("_id", 1)]


@pytest.fixture
def documents(client: Client, mongo_db: Database[dict[str, Any]]) -> Documents:
    mongo_db["tweets"].insert_one({"_id": 1, "text": "x"})
    return open_collection(client, mongo_db.name, "tweets")


def states(documents: Documents, done_field: str = DONE) -> list[IndexState]:
    return [report.state for report in check_indexes(documents, done_field)]


def queue_filter(done_field: str = DONE) -> dict[str, Any]:
    return {"retweeted": None, done_field: None}


def test_both_indexes_are_created_as_the_contract_says_and_a_second_time_nothing_happens(documents: Documents) -> None:
    assert states(documents) == [IndexState.MISSING, IndexState.MISSING]
    assert [report.state for report in create_indexes(documents, DONE)] == [IndexState.CREATED, IndexState.CREATED]
    found = {index["name"]: index for index in documents.list_indexes()}
    assert list(found[QUEUE_NAME]["key"].items()) == KEYS
    assert found[QUEUE_NAME]["partialFilterExpression"] == queue_filter()
    assert list(found[MONITOR_NAME]["key"].items()) == [(DONE, 1)]
    assert found[MONITOR_NAME]["sparse"] is True
    assert [report.state for report in create_indexes(documents, DONE)] == [IndexState.PRESENT, IndexState.PRESENT]
    assert all(report.usable and not report.detail for report in check_indexes(documents, DONE))


def test_a_report_of_a_missing_index_names_the_command(documents: Documents) -> None:
    report = check_indexes(documents, DONE)[0]
    assert not report.usable
    assert f"engine index --database {documents.database.name} --collection tweets --done-field {DONE}" in report.detail
    assert report.as_dict()["state"] == "missing"


def test_a_second_done_field_gets_indexes_of_its_own_name(documents: Documents) -> None:
    create_indexes(documents, DONE)
    created = create_indexes(documents, "other_model")
    assert [report.name for report in created] == [f"{QUEUE_NAME}_other_model", f"{MONITOR_NAME}_other_model"]
    assert states(documents) == [IndexState.PRESENT, IndexState.PRESENT]
    assert states(documents, "other_model") == [IndexState.PRESENT, IndexState.PRESENT]
    assert require_queue_index(documents, WorkQuery(done_field="other_model"), ("text",)).index.endswith("other_model")


def test_an_index_under_another_name_is_recognised(documents: Documents) -> None:
    keys = SON([("lang", 1.0), ("classified", 1.0), ("_id", 1.0)])  # as the old shell writes numbers
    documents.database.command(
        "createIndexes",
        documents.name,
        indexes=[
            {
                "key": keys,
                "name": "mine",
                "partialFilterExpression": {"retweeted": {"$eq": None}, DONE: {"$eq": None}},
            }
        ],
    )
    assert check_indexes(documents, DONE)[0].name == "mine"
    assert require_queue_index(documents, WorkQuery(done_field=DONE), ("text",)).index == "mine"


@pytest.mark.parametrize(
    ("keys", "options"),
    [
        (KEYS, {}),
        (KEYS, {"partialFilterExpression": {"retweeted": None}}),
        (KEYS, {"partialFilterExpression": {**queue_filter(), "lang": "en"}}),
        (KEYS, {"partialFilterExpression": queue_filter(), "collation": {"locale": "en"}}),
        ([("lang", 1), ("_id", 1)], {"partialFilterExpression": queue_filter()}),
        ([("lang", 1), ("classified", -1), ("_id", 1)], {"partialFilterExpression": queue_filter()}),
    ],
)
def test_an_index_of_our_name_that_differs_is_refused(
    documents: Documents, keys: list[tuple[str, int]], options: dict[str, Any]
) -> None:
    documents.create_index(keys, name=QUEUE_NAME, **options)
    assert states(documents)[0] is IndexState.DIFFERS
    for attempt in (
        lambda: create_indexes(documents, DONE),
        lambda: require_queue_index(documents, WorkQuery(done_field=DONE), ("text",)),
    ):
        with pytest.raises(ConfigError, match=r"drop it and run `engine index"):
            attempt()


def test_a_hidden_index_is_refused(documents: Documents) -> None:
    create_indexes(documents, DONE)
    documents.database.command("collMod", documents.name, index={"name": QUEUE_NAME, "hidden": True})
    assert states(documents)[0] is IndexState.HIDDEN
    with pytest.raises(ConfigError, match="is hidden"):
        require_queue_index(documents, WorkQuery(done_field=DONE), ("text",))
    with pytest.raises(ConfigError, match="is hidden"):
        create_indexes(documents, DONE)


def test_the_id_scan_needs_no_index_of_ours(documents: Documents) -> None:
    assert require_queue_index(documents, WorkQuery(done_field=DONE, scan="id"), ("text",)).index == "_id_"


def test_no_collection_is_created_by_mistake(client: Client, mongo_db: Database[dict[str, Any]]) -> None:
    mongo_db["tweets"].insert_one({})
    with pytest.raises(ConfigError, match=r"has no collection tweet_typo \(it has: tweets\)"):
        create_indexes(open_collection(client, mongo_db.name, "tweet_typo"), DONE)
    assert mongo_db.list_collection_names() == ["tweets"]


def test_checking_a_collection_that_does_not_exist_says_missing(
    client: Client, mongo_db: Database[dict[str, Any]]
) -> None:
    assert states(open_collection(client, mongo_db.name, "nothing")) == [IndexState.MISSING, IndexState.MISSING]


def test_progress_is_told_from_start_to_end(documents: Documents) -> None:
    told: list[tuple[str, float]] = []
    create_indexes(documents, DONE, on_progress=lambda name, share: told.append((name, share)))
    assert told[0] == (QUEUE_NAME, 0.0)
    assert told[-1] == (MONITOR_NAME, 1.0)


def test_the_progress_of_a_build_is_seen_from_outside(documents: Documents, client: Client) -> None:
    documents.insert_many([{"text": "x"} for _ in range(500)])
    pause = "hangAfterStartingIndexBuild"
    client.admin.command("configureFailPoint", pause, mode="alwaysOn")
    builder = threading.Thread(target=lambda: create_indexes(documents, DONE))
    try:
        builder.start()
        deadline = time.monotonic() + WAIT_S
        share = None
        while share is None:
            assert time.monotonic() < deadline, "no progress was ever seen"
            share = build_progress(client, documents.full_name, QUEUE_NAME)
        assert 0.0 <= share <= 1.0
    finally:
        client.admin.command("configureFailPoint", pause, mode="off")
        builder.join()
    assert build_progress(client, documents.full_name, QUEUE_NAME) is None
    assert states(documents) == [IndexState.PRESENT, IndexState.PRESENT]
