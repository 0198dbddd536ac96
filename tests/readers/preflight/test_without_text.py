"""Documents without a text that are in quarantine are not read again, and none that is not is missed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from bench.parts.local_mongod import LocalMongod
from engine.ledger.quarantine import Quarantine, each_entry
from readers.batching.screening import Screening
from readers.mongo import work_queue
from readers.mongo.connection import Documents
from readers.mongo.ids import canonical
from readers.preflight import without_text
from readers.preflight.without_text import KnownSums, hash_of
from tests.readers.harness import ReaderHarness, entries_of, make_queue, settings_for

IDS: dict[str, Callable[[int], Any]] = {
    "int64": lambda number: (number - 5) * 7**19,
    "string": lambda number: f"Grüße \U0001f600 {number}",
    "objectid": lambda number: ObjectId(f"{number:024x}"),
    "extjson": lambda number: [number, f"s{number}", ObjectId(f"{number:024x}"), number + 0.5, b"%d" % number][
        number % 5
    ],
}
NO_TEXT: tuple[dict[str, Any], ...] = ({}, {"text": ""}, {"text": None}, {"text": 5}, {"text": " \u3000\n"})


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the collection were a thousand times larger."""
    monkeypatch.setattr(without_text, "WORTH_FROM", 20)
    monkeypatch.setattr(work_queue, "STRETCH_KEYS", 7)


@pytest.fixture
def screened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The ids of every document that came out of a page."""
    seen: list[Any] = []
    plain = Screening.screen

    def screen(self: Screening, documents: list[dict[str, Any]], room: int | None) -> Any:
        seen.extend(document["_id"] for document in documents)
        return plain(self, documents, room)

    monkeypatch.setattr(Screening, "screen", screen)
    return seen


def in_quarantine(path: Path, reader_entries: list[dict[str, Any]]) -> None:
    """Write down what a reader told, as the supervisor does."""
    quarantine = Quarantine(path)
    quarantine.add(reader_entries)
    quarantine.close()


def a_first_run(documents: Documents, mongod: LocalMongod, log: Path, id_type: str, **changes: Any) -> list[Any]:
    """Read 140 documents, 100 of them without a text; the ids of the others."""
    rows = [{"_id": IDS[id_type](number), "lang": ["en", None][number % 2]} for number in range(140)]
    for number, row in enumerate(rows):
        row.update(NO_TEXT[number % 5] if number % 7 < 5 else {"text": f"text {number}"})
    make_queue(documents, rows)
    with ReaderHarness(settings_for(documents, mongod.uri, id_type=id_type, **changes)) as reader:
        reader.drain_until("pass_done")
        in_quarantine(log, entries_of(reader))
        assert len(reader.events.quarantined()) == 100
        return reader.ids


@pytest.mark.seconds
@pytest.mark.parametrize("id_type", IDS)
@pytest.mark.parametrize("scan", ["queue", "id"])
def test_a_run_does_not_read_again_what_has_no_text_and_is_in_quarantine(
    documents: Documents, mongod: LocalMongod, tmp_path: Path, screened: list[Any], id_type: str, scan: str
) -> None:
    """All others come, with their languages in any order; ids that are no integer, string or ObjectId are read."""
    log = tmp_path / "quarantine.jsonl"
    wanted = a_first_run(documents, mongod, log, id_type, scan=scan)
    screened.clear()
    with ReaderHarness(
        settings_for(documents, mongod.uri, id_type=id_type, scan=scan, quarantine_file=str(log))
    ) as reader:
        reader.drain_until("pass_done")
        assert sorted(map(canonical, reader.ids)) == sorted(map(canonical, wanted))
        assert (reader.events.last("reader")["skipped"], reader.events.quarantined()) == (100, {})
        assert len(screened) - len(wanted) == (40 if id_type == "extjson" else 0)


def test_a_new_document_without_a_text_is_found_among_those_that_are_left_out(
    documents: Documents, mongod: LocalMongod, tmp_path: Path, screened: list[Any]
) -> None:
    """Before a run and between its passes; deleted ones and one that has a text by now change nothing."""
    log = tmp_path / "quarantine.jsonl"
    wanted = a_first_run(documents, mongod, log, "string")
    known = [entry["_id"] for entry in each_entry(log)]
    documents.insert_one({"_id": "new", "text": "\t"})
    documents.delete_many({"_id": {"$in": known[:3]}})
    documents.update_one({"_id": known[3]}, {"$set": {"text": "written by now"}})
    screened.clear()
    with ReaderHarness(settings_for(documents, mongod.uri, id_type="string", quarantine_file=str(log))) as reader:
        reader.drain_until("pass_done")
        assert reader.events.quarantined() == {'"new"': "empty"}
        assert sorted(reader.ids) == sorted(wanted)
        assert reader.events.last("reader")["skipped"] == 97
        assert len(screened) < len(wanted) + 10
        in_quarantine(log, entries_of(reader))
        documents.insert_one({"_id": "later"})
        reader.command(do="rescan")
        reader.drain_until("pass_done", count=2)
        assert reader.events.quarantined() == {'"new"': "empty", '"later"': "missing"}
        assert reader.events.last("reader")["skipped"] == 97


def test_a_queue_of_nothing_else_has_no_page_and_is_counted(
    documents: Documents, mongod: LocalMongod, tmp_path: Path, screened: list[Any]
) -> None:
    log = tmp_path / "quarantine.jsonl"
    a_first_run(documents, mongod, log, "objectid")
    documents.delete_many({"text": {"$regex": "^text"}})
    screened.clear()
    settings = settings_for(documents, mongod.uri, id_type="objectid", quarantine_file=str(log), limit=5)
    with ReaderHarness(settings) as reader:
        reader.drain_until("pass_done")
        assert (reader.events.last("reader")["skipped"], reader.ids, screened) == (100, [], [])


def test_a_server_that_does_not_know_the_hash_has_them_read_and_passed_over(
    documents: Documents, mongod: LocalMongod, tmp_path: Path, screened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "quarantine.jsonl"
    wanted = a_first_run(documents, mongod, log, "int64")
    screened.clear()
    monkeypatch.setattr(without_text, "HASH", "$ofAnotherServer")
    with ReaderHarness(settings_for(documents, mongod.uri, quarantine_file=str(log))) as reader:
        reader.drain_until("pass_done")
        assert sorted(reader.ids) == sorted(wanted)
        assert reader.events.last("reader")["skipped"] == 100
    assert len(screened) == 140


def test_when_too_many_buckets_disagree_all_are_read(
    documents: Documents, mongod: LocalMongod, tmp_path: Path, screened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "quarantine.jsonl"
    a_first_run(documents, mongod, log, "int64")
    documents.insert_many([{"_id": -number} for number in range(1, 10)])
    monkeypatch.setattr(without_text, "MOST_BUCKETS_READ", 5)
    screened.clear()
    with ReaderHarness(settings_for(documents, mongod.uri, quarantine_file=str(log))) as reader:
        reader.drain_until("pass_done")
        assert len(reader.events.quarantined()) == 9
        assert reader.events.last("reader")["skipped"] == 100
    assert len(screened) == 149


def test_what_one_pass_leaves_out_and_the_next_does_not_is_counted_once(
    documents: Documents, mongod: LocalMongod, tmp_path: Path, screened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is taken for new, although its entry was not looked at before."""
    log = tmp_path / "quarantine.jsonl"
    a_first_run(documents, mongod, log, "int64")
    with ReaderHarness(settings_for(documents, mongod.uri, quarantine_file=str(log))) as reader:
        reader.drain_until("pass_done")
        screened.clear()
        monkeypatch.setattr(without_text, "MOST_BUCKETS_READ", 5)
        documents.insert_many([{"_id": -number} for number in range(1, 10)])
        reader.command(do="rescan")
        reader.drain_until("pass_done", count=2)
        assert len(screened) == 149
        assert (len(reader.events.quarantined()), reader.events.last("reader")["skipped"]) == (9, 100)


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        5,
        2**31,
        -(2**63),
        2**63 - 1,
        "",
        "x",
        "Grüße \U0001f600",
        "x" * 5000,
        ObjectId("0123456789abcdef01234567"),
    ],
)
def test_the_hash_is_the_server_s_own(documents: Documents, value: Any) -> None:
    documents.insert_one({"_id": value})
    plain = {"$oid": str(value)} if isinstance(value, ObjectId) else value
    (row,) = documents.aggregate([{"$project": {"hash": {without_text.HASH: "$_id"}}}])
    assert row["hash"] == hash_of(plain)


@pytest.mark.parametrize("value", [True, 2**63, {"$numberDouble": "1.5"}, {"$oid": "no hex"}, None, [1]])
def test_an_id_of_another_type_has_no_hash(value: Any) -> None:
    assert hash_of(value) is None


def test_sums_take_the_same_memory_whatever_their_number() -> None:
    sums = KnownSums()
    sums.note({"_id": 1, "reason": "empty"})
    before = _bytes_of(sums)
    for number in range(2, 30_000):
        sums.note({"_id": number, "reason": "missing"})
        sums.note({"_id": number, "reason": "rejected"})
    assert sums.n_known == 29_999
    assert _bytes_of(sums) == before < 2_000_000


def _bytes_of(sums: KnownSums) -> int:
    return sum(len(one) * one.itemsize for one in (sums._counts, sums._firsts, sums._seconds))
