"""The text policy: what is embedded, what is cut, and what goes into quarantine with which reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pymongo.collection import Collection

from bench.parts.local_mongod import LocalMongod
from engine.memory.slots import TRUNCATED
from readers.mongo.ids import canonical
from tests.readers.harness import entries_of, insert_raw, make_queue, read_all, settings_for

Documents = Collection[dict[str, Any]]


def test_stray_ids_are_quarantined(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, [{"_id": value, "text": "t"} for value in (1, 2.5, "three", True, None)])
    reader = read_all(settings_for(documents, mongod.uri))
    assert reader.ids == [1]
    assert reader.events.quarantined() == {
        canonical(2.5): "id_type",
        canonical("three"): "id_type",
        canonical(True): "id_type",
        canonical(None): "id_type",
    }


def test_texts_that_cannot_be_embedded_are_quarantined_with_their_reason(
    documents: Documents, mongod: LocalMongod
) -> None:
    make_queue(
        documents,
        [
            {"_id": 1, "text": "good"},
            {"_id": 2},
            {"_id": 3, "text": None},
            {"_id": 4, "text": 17},
            {"_id": 5, "text": ["a", "list"]},
            {"_id": 6, "text": {"of": "things"}},
            {"_id": 7, "text": ""},
            {"_id": 8, "text": " \t\n\u2003 "},
            {"_id": 9, "text": "with a \0 inside"},
            {"_id": 10, "text": b"bytes"},
            {"_id": 11, "text": "\u202eright to left \U0001f468\u200d\U0001f469\u200d\U0001f467"},
        ],
    )
    insert_raw(documents, {"_id": 12, "text": "lone QQQ surrogate"}, b"QQQ", b"\xed\xa0\x80")
    insert_raw(documents, {"_id": 13, "text": "cut off QQQ"}, b"QQQ", b"\xe2\x82 ")
    reader = read_all(settings_for(documents, mongod.uri))
    assert sorted(reader.ids) == [1, 9, 11]
    assert {row.id: row.text for row in reader.rows}[9] == "with a \0 inside"
    assert reader.events.quarantined() == {
        "2": "missing",
        "3": "missing",
        "4": "not_text",
        "5": "not_text",
        "6": "not_text",
        "7": "empty",
        "8": "empty",
        "10": "not_text",
        "12": "invalid_unicode",
        "13": "invalid_unicode",
    }
    assert reader.events.last("reader")["quarantined"] == 10
    assert all("text" not in entry or entry["text"] is None for entry in entries_of(reader))


def test_quarantine_carries_the_text_only_when_asked(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, [{"_id": 1, "text": "a" * 5000}])
    insert_raw(documents, {"_id": 2, "text": "bad QQQ"}, b"QQQ", b"\xed\xa0\x80")
    settings = settings_for(
        documents, mongod.uri, keep_text=True, truncate=False, prompt="query: ", max_text_bytes=4096
    )
    kept = {entry["reason"]: entry["text"] for entry in entries_of(read_all(settings))}
    assert kept["too_long"] == "a" * 5000
    assert kept["invalid_unicode"] == "bad \\udced\\udca0\\udc80"


def test_many_quarantined_texts_fit_into_messages(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, [{"_id": number, "text": "x" * 60_000} for number in range(200)])
    reader = read_all(settings_for(documents, mongod.uri, keep_text=True, truncate=False))
    assert len(entries_of(reader)) == 200
    assert {len(entry["text"]) for entry in entries_of(reader)} == {(32 << 10) - 2}  # as JSON, with its quotes
    assert reader.events.last("reader")["quarantined"] == 200


def test_absurd_ids_and_texts_still_fit_into_a_quarantine_message(
    documents: Documents, mongod: LocalMongod, tmp_path: Path
) -> None:
    make_queue(
        documents,
        [
            {"_id": '"' * 300_000, "text": "\0" * 300_000},
            {"_id": "\u20ac" * 100_000, "text": "fine"},
            {"_id": "plain", "text": "fine"},
        ],
    )
    log = tmp_path / "quarantine.jsonl"
    settings = settings_for(
        documents, mongod.uri, id_type="string", keep_text=True, truncate=False, quarantine_file=str(log)
    )
    reader = read_all(settings)
    assert reader.ids == ["plain"]
    entries = entries_of(reader)
    assert sorted(entry["reason"] for entry in entries) == ["too_large", "too_long"]
    log.write_text("".join(json.dumps({"_id": entry["id"], **entry}) + "\n" for entry in entries))
    assert read_all(settings).ids == ["plain"]  # ids that were cut are no reason to fail


def test_long_texts_are_cut_and_flagged(documents: Documents, mongod: LocalMongod) -> None:
    texts = {
        1: "short",
        2: "a" * 10_000,
        3: "\0" * 2_000,  # six bytes each as JSON
        4: "\U0001f30d" * 1_500,
        5: "a" * 4094,  # fits exactly, with its quotes
        6: "a" * 4095,
        7: '"' * 2047,
    }
    make_queue(documents, [{"_id": number, "text": text} for number, text in texts.items()])
    reader = read_all(settings_for(documents, mongod.uri, max_text_bytes=4096, bucketing=True))
    rows = {row.id: row for row in reader.rows}
    assert {number for number, row in rows.items() if row.flag == TRUNCATED} == {2, 3, 4, 6}
    for number, row in rows.items():
        assert texts[number].startswith(row.text)
        assert len(json.dumps(row.text, ensure_ascii=False).encode()) <= 4096
    assert len(rows[2].text) == 4094
    assert len(rows[3].text) > 600
    assert reader.events.last("reader")["truncated"] == 4


def test_long_texts_are_quarantined_when_they_may_not_be_cut(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, [{"_id": 1, "text": "b" * 4094}, {"_id": 2, "text": "b" * 4095}])
    reader = read_all(settings_for(documents, mongod.uri, max_text_bytes=4096, truncate=False, max_characters=100))
    assert reader.ids == [1]
    assert list(reader.events.quarantined().values()) == ["too_long"]


def test_texts_are_cut_to_so_many_characters_prompt_included(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, [{"_id": 1, "text": "0123456789abc"}, {"_id": 2, "text": "0123"}])
    reader = read_all(settings_for(documents, mongod.uri, max_characters=12, prompt="q: "))
    assert {row.id: (row.text, row.flag) for row in reader.rows} == {1: ("q: 012345678", TRUNCATED), 2: ("q: 0123", 0)}


def test_a_text_of_five_megabytes_is_cut(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, [{"_id": number, "text": "word " * (1 << 20)} for number in range(9)])
    reader = read_all(settings_for(documents, mongod.uri, max_text_bytes=20_000, max_request_bytes=60_000))
    assert sorted(reader.ids) == list(range(9))
    assert {row.flag for row in reader.rows} == {TRUNCATED}
    assert all(19_900 <= len(row.text) <= 20_000 for row in reader.rows)


def test_a_dotted_text_field_is_followed(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(
        documents,
        [
            {"_id": 1, "tweet": {"full": {"text": "deep"}}},
            {"_id": 2, "tweet": {"full": "shallow"}},
            {"_id": 3, "tweet": [{"full": {"text": "in an array"}}]},
            {"_id": 4},
        ],
    )
    reader = read_all(settings_for(documents, mongod.uri, text_field="tweet.full.text"))
    assert [(row.id, row.text) for row in reader.rows] == [(1, "deep")]
    assert set(reader.events.quarantined().values()) == {"missing"}


def test_a_broken_text_among_equal_ones_takes_only_its_own_rows_along(
    documents: Documents, mongod: LocalMongod
) -> None:
    make_queue(documents, [{"_id": number, "text": "same"} for number in range(3)])
    for number in (3, 4):
        insert_raw(documents, {"_id": number, "text": "QQQ"}, b"QQQ", b"\xed\xa0\x80")
    documents.insert_one({"_id": 5, "text": "other"})
    reader = read_all(settings_for(documents, mongod.uri, batch_size=8, dedup=True, bucketing=True))
    assert {row.id: row.text for row in reader.rows} == {0: "same", 1: "same", 2: "same", 5: "other"}
    assert set(reader.events.quarantined().values()) == {"invalid_unicode"}
