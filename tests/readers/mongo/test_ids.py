"""The id column's type, and the way of an `_id` into it."""

from __future__ import annotations

from typing import Any

import pytest
from bson import ObjectId
from bson.int64 import Int64
from hypothesis import given
from hypothesis import strategies as st
from pymongo.database import Database

from engine.memory.ids import IdType, unpack
from readers.batching.ports import IdTypeMismatch
from readers.mongo.connection import Client, open_collection
from readers.mongo.ids import MongoIds, canonical, decide_id_type, from_bson_ids, from_canonical, key_of, to_bson_ids
from tests.readers.mongo.test_work_queue import EVERY_ID


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([], IdType.INT64),
        ([1, Int64(2**40)], IdType.INT64),
        (["a", "b"], IdType.STRING),
        ([ObjectId()], IdType.OBJECTID),
        ([1, 2.5, 3], IdType.EXTJSON),
        ([1.5], IdType.EXTJSON),
        ([1, "a"], IdType.EXTJSON),
        ([1, True], IdType.EXTJSON),
        ([{"a": 1}], IdType.EXTJSON),
        (EVERY_ID, IdType.EXTJSON),
    ],
)
def test_the_type_of_the_id_column_follows_from_the_ends_of_the_index(
    client: Client, mongo_db: Database[dict[str, Any]], ids: list[Any], expected: IdType
) -> None:
    if ids:
        mongo_db["tweets"].insert_many([{"_id": value} for value in ids])
    assert decide_id_type(open_collection(client, mongo_db.name, "tweets")) is expected


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50))
def test_integers_survive_the_column(values: list[int]) -> None:
    blob = MongoIds(IdType.INT64).pack(values)
    assert to_bson_ids(IdType.INT64, unpack(IdType.INT64, blob, len(values))) == values


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=50))
def test_strings_survive_the_column(values: list[str]) -> None:
    blob = MongoIds(IdType.STRING).pack(values)
    assert to_bson_ids(IdType.STRING, unpack(IdType.STRING, blob, len(values))) == values


def test_every_type_survives_extended_json() -> None:
    for value in EVERY_ID:
        blob = MongoIds(IdType.EXTJSON).pack([value])
        (back,) = to_bson_ids(IdType.EXTJSON, unpack(IdType.EXTJSON, blob, 1))
        assert key_of(back) == key_of(from_canonical(canonical(value)))
        assert canonical(back) == canonical(value)


def test_object_ids_survive_the_column() -> None:
    values = [ObjectId(), ObjectId()]
    assert to_bson_ids(IdType.OBJECTID, unpack(IdType.OBJECTID, MongoIds(IdType.OBJECTID).pack(values), 2)) == values
    assert from_bson_ids(IdType.OBJECTID, values) == [value.binary for value in values]


def test_keys_tell_apart_what_mongodb_tells_apart() -> None:
    keys = [key_of(value) for value in EVERY_ID]
    assert len(set(keys)) == len(EVERY_ID)
    assert key_of(1) == key_of(Int64(1))
    assert key_of(True) != key_of(1)
    assert key_of({"a": 1, "b": 2}) != key_of({"b": 2, "a": 1})


@pytest.mark.parametrize(
    ("id_type", "value", "words"),
    [
        (IdType.INT64, True, "type bool"),
        (IdType.INT64, 1.0, "type float"),
        (IdType.STRING, 5, "type int"),
        (IdType.OBJECTID, "f" * 24, "type str"),
        (IdType.STRING, "\udc80", "not valid UTF-8"),
        (IdType.EXTJSON, "\udc80", "not valid UTF-8"),
        (IdType.EXTJSON, {"a": "\udc80"}, "not valid UTF-8"),
    ],
)
def test_an_id_that_does_not_fit_is_named(id_type: IdType, value: Any, words: str) -> None:
    assert words in str(MongoIds(id_type).misfit(value))
    assert not MongoIds(id_type).fit([value])
    if id_type is not IdType.EXTJSON:
        with pytest.raises(IdTypeMismatch):
            MongoIds(id_type).pack([value])


@pytest.mark.parametrize("id_type", list(IdType))
def test_ids_that_fit_are_not_refused(id_type: IdType) -> None:
    examples: dict[IdType, list[Any]] = {
        IdType.INT64: [1, Int64(2)],
        IdType.STRING: ["", "\0"],
        IdType.OBJECTID: [ObjectId()],
        IdType.EXTJSON: EVERY_ID,
    }
    assert [MongoIds(id_type).misfit(value) for value in examples[id_type]] == [None] * len(examples[id_type])
