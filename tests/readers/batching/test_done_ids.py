"""Done ids: those of committed shards are found by page, and not read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st
from pymongo.collection import Collection

from bench.parts.local_mongod import LocalMongod
from engine.errors import ConfigError
from engine.memory.ids import IdType
from readers.batching.done_ids import DoneIds, build
from tests.readers.harness import ReaderHarness, make_queue, numbered, settings_for

Documents = Collection[dict[str, Any]]


def test_without_marks_ids_of_committed_shards_are_not_read_again(
    documents: Documents, mongod: LocalMongod, tmp_path: Path
) -> None:
    make_queue(documents, numbered(100))
    path = tmp_path / "done-ids"
    build(path, IdType.INT64, [list(range(0, 100, 3)), [1]])
    with ReaderHarness(settings_for(documents, mongod.uri, mark=False, done_ids_file=str(path))) as reader:
        reader.drain_until("pass_done")
        expected = [number for number in range(100) if number % 3 and number != 1]
        assert sorted(reader.ids) == expected
        reader.command(do="settled", sequence=1000)  # committed: their ids move into the list of done ones
        documents.insert_one({"_id": 555, "text": "new"})
        reader.command(do="rescan")
        assert reader.drain_until("pass_done", count=2)["found"] == 1
        assert reader.events.last("reader")["unsettled"] == 1
    assert sorted(reader.ids) == [*expected, 555]


def test_a_part_comes_with_what_others_have_committed_of_it(
    documents: Documents, mongod: LocalMongod, tmp_path: Path
) -> None:
    make_queue(documents, numbered(100))
    first, second = tmp_path / "first", tmp_path / "second"
    build(first, IdType.INT64, [list(range(10))])
    build(second, IdType.INT64, [list(range(50, 60))])
    made = settings_for(documents, mongod.uri, mark=False, done_ids_file=str(first), by_ranges=True)
    with ReaderHarness(made) as reader:
        part = {"number": 1, "range": {"low": None, "high": None}, "counts": True}
        reader.command(do="part", limit=20, done_ids=str(second), **part)
        cut_short = reader.drain_until("part_done")
        assert (cut_short["read"], cut_short["is_whole"]) == (20, 0)
        assert len(reader.ids) == 20
        reader.command(do="settled", sequence=1000)
        reader.command(do="part", limit=None, **part)
        whole = reader.drain_until("part_done", count=2)
        assert (whole["read"], whole["is_whole"]) == (60, 1)
    assert sorted(reader.ids) == [*range(10, 50), *range(60, 100)]


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
