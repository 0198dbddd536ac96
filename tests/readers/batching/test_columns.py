"""Carried columns: their types, and what becomes of values that do not fit."""

from __future__ import annotations

from typing import Any

from bson import ObjectId
from bson.datetime_ms import DatetimeMS
from pymongo.collection import Collection

from bench.parts.local_mongod import LocalMongod
from readers.batching.columns import ColumnReader
from readers.mongo.columns import BSON_TYPES
from tests.readers.harness import make_queue, read_all, settings_for

Documents = Collection[dict[str, Any]]


def test_carried_columns_travel_beside_their_rows(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(
        documents,
        [
            {"_id": 1, "text": "one", "lang": "en", "user": {"id": 2**40, "name": "a"}, "score": 1, "ok": True},
            {"_id": 2, "text": "two", "lang": 3, "user": {"id": "no number"}, "score": 2.5},
            {"_id": 3, "text": "three", "user": None, "score": float("nan"), "ok": "yes", "extra": {"k": [1]}},
        ],
    )
    columns = (("lang", "string"), ("user.id", "int64"), ("score", "double"), ("ok", "bool"), ("extra", "json"))
    reader = read_all(settings_for(documents, mongod.uri, columns=columns, bucketing=True, dedup=True))
    assert {row.id: row.columns for row in reader.rows} == {
        1: ["en", 2**40, 1.0, True, None],
        2: [None, None, 2.5, None, None],
        3: [None, None, None, None, '{"k": [1]}'],
    }
    assert reader.events.last("reader")["misfits"] == {"lang": 1, "user.id": 1, "score": 1, "ok": 1}
    assert sorted(log["facts"]["column"] for log in reader.events.all("log")) == ["lang", "ok", "score", "user.id"]


def test_column_values_become_what_their_type_says() -> None:
    met: list[tuple[str, str, str]] = []
    columns = (("i", "int64"), ("d", "double"), ("s", "string"), ("t", "timestamp"), ("j", "json"), ("b", "bool"))
    reader = ColumnReader(columns, BSON_TYPES, lambda *facts: met.append(facts))
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
