"""What every source of documents owes the reader's stage, whatever it reads: the same tests for all of them.

A source to be added is one more `Kind`: how documents become its data, and how a reader is told of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymongo.collection import Collection

from bench.parts.local_mongod import LocalMongod
from bench.parts.s3_server import CREDENTIALS, S3Server
from engine.objects.url import SourceUrl
from readers.files.catalogue import SourceFile, write_plan
from readers.files.objects import ObjectPath, SourceStore
from readers.settings import ReaderSettings
from tests.readers.harness import (
    ReaderHarness,
    entries_of,
    make_queue,
    numbered,
    read_all,
    settings_for,
)

N = 103
Texts = list[Any]


@dataclass(frozen=True, slots=True)
class Source:
    """A source that holds some documents, the n-th with the id n.

    Attributes:
        settings: What a reader of it is told.
        settle: Let some documents be settled: marked, or in the ledger.
        quarantine: The line of the quarantine file for a document.
    """

    settings: Callable[..., ReaderSettings]
    settle: Callable[[list[int]], None]
    quarantine: Callable[[int], str]


@pytest.fixture(params=["mongodb", "parquet", "jsonl", "parquet-object", "jsonl-object"])
def make(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    documents: Collection[dict[str, Any]],
    mongod: LocalMongod,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Texts], Source]:
    """Makes a source of each kind from the texts of its documents."""
    if request.param == "mongodb":
        return lambda texts: _mongodb(documents, mongod, texts)
    kind, _, is_object = request.param.partition("-")
    if not is_object:
        return lambda texts: _files(tmp_path, documents, texts, kind)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    server = request.getfixturevalue("s3")
    return lambda texts: _files(tmp_path, documents, texts, kind, server)


def _mongodb(documents: Collection[dict[str, Any]], mongod: LocalMongod, texts: Texts) -> Source:
    make_queue(documents, [{"_id": number, "text": text, "n": number} for number, text in enumerate(texts)])

    def settle(ids: list[int]) -> None:
        documents.update_many({"_id": {"$in": ids}}, {"$set": {"gemma_embedded_768": True}})

    return Source(
        lambda **changes: settings_for(documents, mongod.uri, **changes), settle, lambda number: f'{{"_id":{number}}}'
    )


def _files(
    folder: Path, documents: Collection[dict[str, Any]], texts: Texts, kind: str, server: S3Server | None = None
) -> Source:
    """Two files, here or on a store; ids are positions, and those of the first file begin with 0."""
    path = folder / f"a.{kind}"
    other = folder / "b.jsonl"
    other.write_text("")
    if kind == "parquet":
        pq.write_table(pa.table({"text": texts, "n": list(range(len(texts)))}), path, row_group_size=20)
    else:
        path.write_text("".join(json.dumps({"text": text, "n": n}) + "\n" for n, text in enumerate(texts)))
    plan = folder / "plan"
    url = None if server is None else _uploaded((path, other), documents.name, server)
    store = None if url is None else SourceStore(url, 60.0)

    def write(settled: tuple[tuple[int, int], ...]) -> None:
        files = []
        for number, one in enumerate((path, other)):
            stat = one.stat()
            where: Path | ObjectPath = one
            if store is not None:
                (found,) = (found for found in store.list() if found.name == one.name)
                where = store.path(found.name, found.size_bytes, found.e_tag)
            files.append(
                SourceFile(number, one.name, where, stat.st_size, stat.st_mtime_ns, settled if not number else ())
            )
        write_plan(plan, files)

    write(())
    told = {"plan": str(plan), "id_field": None, "id_type": "string", "estimate": len(texts)}
    told["store"] = None if url is None else url.as_dict()
    return Source(
        lambda **changes: settings_for(documents, "", mark=False, files=told, **changes),
        lambda ids: write(tuple((row, row) for row in sorted(ids))),
        lambda number: json.dumps({"_id": f"{path.name}#{number}"}),
    )


def _uploaded(paths: tuple[Path, ...], name: str, server: S3Server) -> SourceUrl:
    """Where some files are once they are objects."""
    bucket = f"contract-{name.replace('_', '-')}"
    server.make_bucket(bucket)
    for path in paths:
        server.put(bucket, f"deep/{path.name}", path.read_bytes())
    return SourceUrl(url=f"s3://{bucket}/deep", endpoint=server.endpoint)


@pytest.fixture
def texts() -> Texts:
    """The texts of `N` documents."""
    return [document["text"] for document in numbered(N)]


@pytest.mark.seconds
def test_every_document_is_read_once_with_its_own_text(make: Callable[[Texts], Source], texts: Texts) -> None:
    reader = read_all(make(texts).settings())
    assert sorted(reader.ids) == list(range(N))
    assert {row.id: row.text for row in reader.rows} == dict(enumerate(texts))
    assert reader.events.last("pass_done")["found"] == N


def test_a_settled_document_is_not_offered_to_the_next_reader(make: Callable[[Texts], Source], texts: Texts) -> None:
    source = make(texts)
    settled = [0, 1, 2, 50, *range(60, 103)]
    source.settle(settled)
    reader = read_all(source.settings())
    assert set(reader.ids) == set(range(N)) - set(settled)


def test_a_second_pass_offers_nothing_that_is_in_flight(make: Callable[[Texts], Source], texts: Texts) -> None:
    with ReaderHarness(make(texts).settings()) as reader:
        reader.drain_until("pass_done")
        reader.command(do="rescan")
        again = reader.drain_until("pass_done", count=2)
    assert again["found"] == 0
    assert len(reader.ids) == N


def test_a_document_without_a_text_is_refused_and_counts(make: Callable[[Texts], Source], texts: Texts) -> None:
    texts[7], texts[9] = None, "  "
    reader = read_all(make(texts).settings())
    assert {entry["id"]: entry["reason"] for entry in entries_of(reader)} == {"7": "missing", "9": "empty"}
    assert len(reader.ids) == N - 2
    assert reader.events.last("reader")["quarantined"] == 2


def test_a_document_in_quarantine_is_passed_over_and_counted_once(
    make: Callable[[Texts], Source], texts: Texts, tmp_path: Path
) -> None:
    source = make(texts)
    path = tmp_path / "quarantine.jsonl"
    path.write_text("".join(source.quarantine(number) + "\n" for number in (3, 80)))
    reader = read_all(source.settings(quarantine_file=str(path)))
    assert set(reader.ids) == set(range(N)) - {3, 80}
    assert reader.events.last("reader")["skipped"] == 2


@pytest.mark.parametrize(("limit", "is_left"), [(N - 1, True), (N, False)])
def test_a_limit_is_kept_by_every_source(
    make: Callable[[Texts], Source], texts: Texts, limit: int, is_left: bool
) -> None:
    reader = read_all(make(texts).settings(limit=limit))
    assert len(reader.ids) == limit
    assert reader.events.last("stopped")["work_left"] == is_left


def test_columns_travel_with_their_document(make: Callable[[Texts], Source], texts: Texts) -> None:
    reader = read_all(make(texts).settings(columns=(("n", "int64"), ("absent", "string"))))
    assert {row.id: row.columns for row in reader.rows} == {number: [number, None] for number in range(N)}


def test_a_stop_ends_the_reading_and_says_that_work_is_left(make: Callable[[Texts], Source], texts: Texts) -> None:
    with ReaderHarness(make(texts).settings(), n_slots=4) as reader:
        reader.wait_until_full()
        reader.command(do="stop")
        assert reader.drain_until("stopped")["work_left"]
    assert 0 < len(reader.ids) < N
