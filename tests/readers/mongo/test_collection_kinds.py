"""Collections as people have them: with a collation, clustered, views, time series, indexes under way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bson import ObjectId
from pymongo.database import Database

from bench.parts.local_mongod import LocalMongod
from engine.errors import ConfigError
from readers.mongo.collection_kind import require_ordinary
from readers.mongo.connection import Client, Documents, open_collection
from readers.mongo.estimate import QueueSize, queue_size
from readers.mongo.index import IndexState, check_indexes, create_indexes, require_queue_index
from readers.mongo.marker import Marker, MarkResult
from readers.mongo.sample import sample_queue
from readers.mongo.work_queue import WorkQuery
from tests.readers.harness import DONE, WAIT_S, ReaderHarness, insert_raw, read_all, settings_for

MIXED_IDS: list[Any] = [1, 2.5, "a", "Z", "ä", True, ObjectId(), {"k": 1}, b"x", -7]


@pytest.fixture
def make(client: Client, mongo_db: Database[dict[str, Any]]) -> Callable[..., Documents]:
    """Makes a collection with options of its own."""

    def create(name: str = "tweets", **options: Any) -> Documents:
        mongo_db.create_collection(name, **options)
        return open_collection(client, mongo_db.name, name)

    return create


def ids_by_pages(documents: Documents, query: WorkQuery, n_rows: int = 3) -> list[Any]:
    """All ids of the queue, read in small pages."""
    queue = require_queue_index(documents, query, ("text",))
    position, found = queue.start(), []
    while position is not None:
        page = queue.read(position, n_rows)
        found += [document["_id"] for document in page.documents]
        position = page.position
    return found


@pytest.mark.seconds
@pytest.mark.parametrize(
    "collation",
    [
        {"locale": "en", "strength": 2},
        {"locale": "de", "strength": 1},
        {"locale": "en", "numericOrdering": True},
        {"locale": "fr", "backwards": True},
    ],
)
def test_a_collection_with_a_collation_of_its_own_is_indexed_read_and_marked(
    make: Callable[..., Documents], mongod: LocalMongod, collation: dict[str, Any]
) -> None:
    """What `engine index` makes is what `--check` and a run take, and upper and lower case stay apart in the queue."""
    documents = make(collation=collation)
    names = [f"a{number}" for number in range(23)] + ["Zz", "zy", "12", "3"]
    documents.insert_many(
        [{"_id": name, "text": "x", "lang": ("en", "EN", "é")[at % 3]} for at, name in enumerate(names)]
    )
    assert [report.state for report in create_indexes(documents, DONE)] == [IndexState.CREATED] * 2
    assert [report.state for report in check_indexes(documents, DONE)] == [IndexState.PRESENT] * 2
    for scan in ("queue", "id"):
        query = WorkQuery(done_field=DONE, scan=scan)
        assert sorted(ids_by_pages(documents, query)) == sorted(names)
        assert sample_queue(documents, query, "text", 50).n_drawn == len(names)
    english = WorkQuery(done_field=DONE, langs=("en",))
    assert sorted(ids_by_pages(documents, english)) == sorted(names[::3])
    assert queue_size(documents, english, "embedding_work_queue") == QueueSize(9, True)
    marker = Marker(mongod.uri, documents.database.name, documents.name, DONE)
    try:
        assert marker.mark(names, ours_before=False) == MarkResult(matched=len(names))
        assert sum(map(len, marker.marked_ids())) == len(names)
    finally:
        marker.close()


def test_a_queue_index_with_a_collation_is_refused_with_what_is_wrong(make: Callable[..., Documents]) -> None:
    documents = make(collation={"locale": "en", "strength": 2})
    documents.create_index(
        [("lang", 1), ("classified", 1), ("_id", 1)],
        name="embedding_work_queue",
        partialFilterExpression={"retweeted": None, DONE: None},
    )
    documents.create_index([(DONE, 1)], name="processed_monitor_idx", sparse=True)
    states = check_indexes(documents, DONE)
    assert [report.state for report in states] == [IndexState.DIFFERS, IndexState.PRESENT]
    assert "and the simple collation): drop it and run `engine index" in states[0].detail


@pytest.mark.parametrize("name", ["_id_", "by_id"])
@pytest.mark.parametrize("scan", ["id", "queue"])
def test_a_clustered_collection_is_read_completely_and_marked(
    make: Callable[..., Documents], mongod: LocalMongod, name: str, scan: str
) -> None:
    """Its index of `_id` has any name, is no index scan in a plan, and tells no keys."""
    documents = make(clusteredIndex={"key": {"_id": 1}, "unique": True, "name": name})
    documents.insert_many([{"_id": value, "text": "x"} for value in MIXED_IDS])
    create_indexes(documents, DONE)
    found = ids_by_pages(documents, WorkQuery(done_field=DONE, scan=scan))
    assert len(found) == len(MIXED_IDS)
    assert all(value in found for value in MIXED_IDS)
    marker = Marker(mongod.uri, documents.database.name, documents.name, DONE)
    try:
        assert marker.mark(MIXED_IDS, ours_before=False) == MarkResult(matched=len(MIXED_IDS))
        assert sum(map(len, marker.marked_ids())) == len(MIXED_IDS)
    finally:
        marker.close()


def test_a_clustered_collection_with_invalid_text_as_an_id_is_read_to_its_end(
    make: Callable[..., Documents], mongod: LocalMongod
) -> None:
    documents = make(clusteredIndex={"key": {"_id": 1}, "unique": True})
    for letter in "abcdef":
        documents.insert_one({"_id": f"{letter}1", "text": "x"})
        insert_raw(documents, {"_id": f"{letter}0XX", "text": "x"}, b"XX", b"\xff\xfe")
    settings = settings_for(documents, mongod.uri, id_type="string", scan="id", page_rows=1)
    reader: ReaderHarness = read_all(settings)
    assert sorted(reader.ids) == [f"{letter}1" for letter in "abcdef"]
    assert list(reader.events.quarantined().values()) == ["id_type"] * 6


@pytest.fixture
def odd(mongo_db: Database[dict[str, Any]]) -> Database[dict[str, Any]]:
    """A database with a view, a view of a view and a time series."""
    mongo_db["tweets"].insert_one({"text": "x"})
    mongo_db.create_collection("plain_view", viewOn="tweets", pipeline=[{"$match": {"lang": "en"}}])
    mongo_db.create_collection("view_of_view", viewOn="plain_view", pipeline=[])
    mongo_db.create_collection("series", timeseries={"timeField": "at", "metaField": "who"})
    return mongo_db


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("plain_view", "is a view on tweets"),
        ("view_of_view", "is a view on plain_view"),
        ("series", "is a time-series collection"),
        ("system.buckets.series", "belongs to MongoDB itself"),
        ("system.views", "belongs to MongoDB itself"),
    ],
)
def test_what_is_no_ordinary_collection_is_refused_by_name_wherever_it_is_named(
    client: Client, odd: Database[dict[str, Any]], name: str, phrase: str
) -> None:
    documents = open_collection(client, odd.name, name)
    for scan in ("queue", "id"):
        query = WorkQuery(done_field=DONE, scan=scan)
        with pytest.raises(ConfigError, match=phrase):
            require_queue_index(documents, query, ("text",))
        with pytest.raises(ConfigError, match=phrase):
            sample_queue(documents, query, "text", 5)
    for act in (create_indexes, check_indexes):
        with pytest.raises(ConfigError, match=phrase):
            act(documents, DONE)


def test_a_user_who_may_read_only_this_collection_is_not_refused_for_that(
    client: Client, make: Callable[..., Documents]
) -> None:
    documents = make()
    fault = {"failCommands": ["listCollections"], "errorCode": 13}
    client.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=fault)
    try:
        require_ordinary(documents)
    finally:
        client.admin.command("configureFailPoint", "failCommand", mode="off")


@pytest.fixture
def build_held(client: Client, make: Callable[..., Documents]) -> Iterator[Documents]:
    """A collection whose queue index is being built and does not get on until the test is over."""
    documents = make()
    documents.insert_many([{"text": "x"} for _ in range(500)])
    pause = "hangAfterStartingIndexBuild"
    client.admin.command("configureFailPoint", pause, mode="alwaysOn")
    builder = threading.Thread(target=lambda: create_indexes(documents, DONE))
    builder.start()
    try:
        deadline = time.monotonic() + WAIT_S
        while check_indexes(documents, DONE)[0].state is IndexState.MISSING:
            assert time.monotonic() < deadline, "the build never began"
            time.sleep(0.02)
        yield documents
    finally:
        client.admin.command("configureFailPoint", pause, mode="off")
        builder.join()


def test_an_index_that_is_still_being_built_is_not_called_present(build_held: Documents, client: Client) -> None:
    """A run says to wait, and `engine index` waits for that very build."""
    report = check_indexes(build_held, DONE)[0]
    assert (report.state, report.usable) == (IndexState.BUILDING, False)
    assert "is still being built" in report.detail
    with pytest.raises(ConfigError, match=r"still being built.*wait for it \(`engine index"):
        require_queue_index(build_held, WorkQuery(done_field=DONE), ("text",))

    ended: list[list[IndexState]] = []
    second = threading.Thread(
        target=lambda: ended.append([report.state for report in create_indexes(build_held, DONE)])
    )
    second.start()
    second.join(0.5)
    assert not ended, "it did not wait"
    client.admin.command("configureFailPoint", "hangAfterStartingIndexBuild", mode="off")
    second.join(WAIT_S)
    assert ended[0][0] is IndexState.CREATED
    assert [report.state for report in check_indexes(build_held, DONE)] == [IndexState.PRESENT] * 2


def test_a_server_that_does_not_tell_of_builds_lists_its_indexes_all_the_same(
    client: Client, make: Callable[..., Documents]
) -> None:
    documents = make()
    create_indexes(documents, DONE)
    fault = {"failCommands": ["listIndexes"], "errorCode": 323}
    client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=fault)
    assert [report.state for report in check_indexes(documents, DONE)] == [IndexState.PRESENT] * 2


@pytest.mark.parametrize(
    ("retweeted", "wanted", "expression"),
    [
        ("null", [1, 2], {"retweeted": None, DONE: None}),
        ("false", [3], {"retweeted": False, DONE: None}),
        ("any", [1, 2, 3, 4, 5], {DONE: None}),
    ],
)
def test_each_value_of_retweeted_has_an_index_of_its_own_that_fits_its_queue(
    make: Callable[..., Documents], retweeted: str, wanted: list[int], expression: dict[str, Any]
) -> None:
    documents = make()
    documents.insert_many(
        [
            {"_id": 1, "text": "x"},
            {"_id": 2, "text": "x", "retweeted": None},
            {"_id": 3, "text": "x", "retweeted": False},
            {"_id": 4, "text": "x", "retweeted": True},
            {"_id": 5, "text": "x", "retweeted": {"id": 7}},
            {"_id": 6, "text": "x", "retweeted": False, DONE: True},
        ]
    )
    query = WorkQuery(done_field=DONE, retweeted=retweeted)
    for other in {"null", "false", "any"} - {retweeted}:
        create_indexes(documents, DONE, retweeted=other)
    with pytest.raises(ConfigError, match="run `engine index ") as refused:
        require_queue_index(documents, query, ("text",))
    assert (f"--retweeted {retweeted}`" in str(refused.value)) == (retweeted != "null")
    created = create_indexes(documents, DONE, retweeted=retweeted)
    assert [report.state for report in created] == [IndexState.CREATED, IndexState.PRESENT]
    found = {index["name"]: index for index in documents.list_indexes()}
    assert found[created[0].name]["partialFilterExpression"] == expression
    for scan in ("queue", "id"):
        query = WorkQuery(done_field=DONE, retweeted=retweeted, scan=scan)
        assert sorted(ids_by_pages(documents, query, 2)) == wanted
    for value in ("null", "false", "any"):
        assert all(report.usable for report in check_indexes(documents, DONE, retweeted=value))


def test_a_capped_collection_is_read_and_marked(make: Callable[..., Documents], mongod: LocalMongod) -> None:
    documents = make(capped=True, size=1 << 20)
    documents.insert_many([{"_id": number, "text": "x"} for number in range(20)])
    create_indexes(documents, DONE)
    for scan in ("queue", "id"):
        assert sorted(ids_by_pages(documents, WorkQuery(done_field=DONE, scan=scan))) == list(range(20))
    marker = Marker(mongod.uri, documents.database.name, documents.name, DONE)
    try:
        assert marker.mark(list(range(20)), ours_before=False) == MarkResult(matched=20)
    finally:
        marker.close()
