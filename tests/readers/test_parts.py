"""The reader's smaller parts: columns, done ids, estimates, samples, the preflight's look at the text field."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bson import Decimal128, ObjectId
from bson.datetime_ms import DatetimeMS
from hypothesis import given, settings
from hypothesis import strategies as st
from pymongo.database import Database

from bench.parts.local_mongod import LocalMongod
from engine.errors import ConfigError
from engine.memory.ids import IdType
from readers.batching.columns import ColumnReader, infer_columns
from readers.batching.paths import MISSING, getter
from readers.mongo import estimate
from readers.mongo.connection import Client, Documents, open_client, open_collection
from readers.mongo.done_ids import DoneIds, build
from readers.mongo.estimate import QueueSize, queue_size
from readers.mongo.index import create_indexes, require_queue_index
from readers.mongo.preflight import require_text_field
from readers.mongo.sample import sample_queue
from readers.mongo.work_queue import WorkQuery
from tests.readers.harness import DONE

QUERY = WorkQuery(done_field=DONE)


@pytest.fixture
def client(mongod: LocalMongod) -> Iterator[Client]:
    with open_client(mongod.uri) as found:
        yield found


@pytest.fixture
def documents(client: Client, mongo_db: Database[dict[str, Any]]) -> Documents:
    return open_collection(client, mongo_db.name, "tweets")


def test_paths_find_what_is_there_and_enter_no_array() -> None:
    document = {"a": {"b": {"c": 1}, "n": None}, "list": [{"b": 1}]}
    assert getter("a.b.c")(document) == 1
    assert getter("a.n")(document) is None
    assert getter("a")(document) == document["a"]
    for path in ("x", "a.x", "a.b.c.d", "a.n.x", "list.b", "list.0"):
        assert getter(path)(document) is MISSING


def test_column_types_follow_from_a_sample(documents: Documents) -> None:
    documents.insert_many(
        [
            {
                "_id": 1,
                "i": 5,
                "d": 1.5,
                "b": True,
                "s": "x",
                "t": datetime.datetime(2020, 1, 1),
                "m": 1,
                "o": {"k": 1},
            },
            {
                "_id": 2,
                "i": 2**40,
                "d": 3,
                "b": None,
                "s": "",
                "m": "x",
                "o": [1],
                "u": {"id": 7},
                "x": Decimal128("1"),
            },
        ]
    )
    names = ("i", "d", "b", "s", "t", "m", "o", "u.id", "x", "nowhere")
    inferred = infer_columns(documents, names)
    assert dict(inferred.columns) == {
        "i": "int64",
        "d": "double",
        "b": "bool",
        "s": "string",
        "t": "timestamp",
        "m": "json",
        "o": "json",
        "u.id": "int64",
        "x": "json",
        "nowhere": "string",
    }
    assert inferred.absent == ("nowhere",)
    assert infer_columns(documents, ()).columns == ()


def test_column_values_become_what_their_type_says() -> None:
    met: list[tuple[str, str, str]] = []
    columns = (("i", "int64"), ("d", "double"), ("s", "string"), ("t", "timestamp"), ("j", "json"), ("b", "bool"))
    reader = ColumnReader(columns, lambda *facts: met.append(facts))
    identity = ObjectId("0123456789abcdef01234567")
    rows = reader.rows(
        [
            {"i": 2**62, "d": 2, "s": "a\0ü", "t": DatetimeMS(-5), "j": identity, "b": False},
            {"i": True, "d": float("inf"), "s": "\udc80", "t": 5, "j": None, "b": 0},
            {"i": "7", "d": "1"},
        ]
    )
    assert rows == [
        (2**62, 2.0, "a\0ü", -5, '{"$oid": "0123456789abcdef01234567"}', False),
        (None,) * 6,
        (None,) * 6,
    ]
    assert reader.misfits == {"i": 2, "d": 2, "s": 1, "t": 1, "b": 1}
    assert len(met) == 5


@settings(max_examples=40, deadline=None)
@given(
    done=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=60),
    added=st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5), max_size=30),
    asked=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20),
)
def test_done_ids_are_found_and_no_others(
    tmp_path_factory: pytest.TempPathFactory, done: list[int], added: list[list[int]], asked: list[int]
) -> None:
    path = tmp_path_factory.mktemp("done") / "ids"
    assert build(path, IdType.INT64, [done[:7], done[7:]]) == len(done)
    ids = DoneIds(path, IdType.INT64)
    for portion in added:
        ids.add(portion)
    everything = set(done).union(*added)
    asked = [*asked, *done[:5], *(value for portion in added for value in portion)]
    assert ids.contains(asked) == [value in everything for value in asked]
    assert len(ids) == len(done) + sum(map(len, added))


def test_done_ids_of_other_types_are_found_by_their_digest(tmp_path: Path) -> None:
    build(tmp_path / "s", IdType.STRING, [["a", "ü", ""]])
    assert DoneIds(tmp_path / "s", IdType.STRING).contains(["", "b", "ü"]) == [True, False, True]
    objects = [ObjectId().binary for _ in range(5)]
    build(tmp_path / "o", IdType.OBJECTID, [objects[:4]])
    assert DoneIds(tmp_path / "o", IdType.OBJECTID).contains(objects) == [True] * 4 + [False]
    build(tmp_path / "empty", IdType.EXTJSON, [])
    assert DoneIds(tmp_path / "empty", IdType.EXTJSON).contains(["x"]) == [False]
    assert DoneIds(None, IdType.EXTJSON).contains(["x"]) == [False]


def test_a_list_of_done_ids_of_another_type_is_refused(tmp_path: Path) -> None:
    build(tmp_path / "s", IdType.STRING, [["a"]])
    with pytest.raises(ConfigError, match="not a list of done ids of the type int64"):
        DoneIds(tmp_path / "s", IdType.INT64)
    with pytest.raises(ConfigError, match="cannot be read"):
        DoneIds(tmp_path / "nothing", IdType.INT64)


def test_a_short_queue_is_counted_and_a_long_one_estimated(
    documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents.insert_many(
        [{"_id": number, "text": "x", **({DONE: True} if number % 4 == 0 else {})} for number in range(4000)]
    )
    create_indexes(documents, DONE)
    index = require_queue_index(documents, QUERY, ("text",)).index
    assert queue_size(documents, QUERY, index) == QueueSize(3000, True)
    monkeypatch.setattr(estimate, "EXACT_UP_TO_ROWS", 100)
    size = queue_size(documents, QUERY, index)
    assert size is not None and not size.is_exact
    assert 2600 <= size.n_rows <= 3400
    size = queue_size(documents, WorkQuery(done_field=DONE, scan="id"), "_id_")
    assert size is not None and 2600 <= size.n_rows <= 3400


def test_a_size_that_cannot_be_had_is_none(documents: Documents) -> None:
    documents.insert_one({"_id": 1, "text": "x"})
    assert queue_size(documents, QUERY, "no_such_index") is None


def test_a_sample_comes_from_the_queue_alone(documents: Documents) -> None:
    documents.insert_many(
        [
            {"_id": number, "text": f"text {number}" if number % 10 else "", **({DONE: True} if number >= 300 else {})}
            for number in range(3000)
        ]
    )
    create_indexes(documents, DONE)
    sample = sample_queue(documents, QUERY, "text", 200)
    numbers = {int(text.split()[1]) for text in sample.texts}
    assert max(numbers) < 300
    assert sample.n_drawn == 200
    assert sample.n_unusable == 200 - len(sample.texts) > 0
    assert len(numbers) == len(sample.texts)
    assert sample.size == QueueSize(300, True)
    assert sample.characters() == sample.utf8_bytes() == sorted(map(len, sample.texts))


def test_a_text_field_that_nobody_has_is_refused_with_what_there_is(documents: Documents) -> None:
    documents.insert_many([{"_id": number, "body": "x"} for number in range(5)])
    create_indexes(documents, DONE)
    with pytest.raises(ConfigError, match=r"no document of .* has the field 'text'.*_id, body"):
        require_text_field(documents, QUERY, "text")
    require_text_field(documents, QUERY, "body")
    documents.update_many({}, {"$set": {DONE: True}})
    require_text_field(documents, QUERY, "text")  # nothing left to do: no reason to refuse


def test_a_queue_of_nothing_but_documents_without_text_is_not_refused(documents: Documents) -> None:
    documents.insert_many([{"_id": number, "body": "x"} for number in range(150)])
    documents.insert_one({"_id": 1000, "text": "done long ago", DONE: True})
    create_indexes(documents, DONE)
    require_text_field(documents, QUERY, "text")  # they go into quarantine, and are there at the next run
