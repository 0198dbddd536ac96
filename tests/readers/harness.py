"""Runs the reader's stage without a supervisor: real rings, a real channel, a thread, and a drain for the ring."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import bson
import pymongo
from bson import json_util
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection

from engine.memory.channels import Channel, Message
from engine.memory.ids import IdType, unpack
from engine.memory.shared_rings import RingSizes, SharedRings
from engine.memory.slots import Header, VectorLayout, body_of, fanout_of, meta_of
from engine.supervision.worker import StageContext
from readers import stage
from readers.mongo.ids import to_bson_ids
from readers.mongo.index import create_indexes
from readers.settings import ReaderSettings

DONE = "gemma_embedded_768"
WAIT_S = 120.0  # only a failure waits that long

Documents = Collection[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Row:
    """One document as it stood in a slot."""

    id: Any
    text: str
    flag: int
    columns: list[Any] | None


@dataclass(slots=True)
class ReadBatch:
    """One slot, taken apart."""

    header: Header
    rows: list[Row]
    texts: list[str]


@dataclass(slots=True)
class Events:
    """What the reader told, by kind; `changed` is notified with every message."""

    messages: list[Message] = field(default_factory=list)

    def all(self, event: str) -> list[Message]:
        return [message for message in self.messages if message["event"] == event]

    def last(self, event: str) -> Message:
        return self.all(event)[-1]

    def quarantined(self) -> dict[str, str]:
        """Reason by id in canonical extended JSON."""
        return {entry["id"]: entry["reason"] for message in self.all("quarantine") for entry in message["entries"]}


class ReaderHarness:
    """A reader in a thread; the test plays supervisor and clients."""

    def __init__(
        self,
        settings: ReaderSettings,
        *,
        n_slots: int = 16,
        slot_bytes: int = 64 << 10,
        max_rows: int | None = None,
        meta_bytes: int = 8 << 10,
        generation: int = 3,
    ) -> None:
        self.settings = settings
        self._layout = VectorLayout(dim=4, max_rows=max_rows or settings.batch_size, meta_capacity_bytes=meta_bytes)
        self.parts = SharedRings.create(
            RingSizes(n_documents=n_slots, document_bytes=slot_bytes, n_vectors=2, layout=self._layout)
        )
        self._channel, self._theirs = Channel.pair()
        self.events = Events()
        self.batches: list[ReadBatch] = []
        self.error: BaseException | None = None
        self.generation = generation
        context = StageContext(
            role="reader",
            generation=generation,
            epoch=1,
            settings=json.loads(json.dumps(settings.as_dict())),
            channel=self._theirs,
            documents=self.parts.documents,
            documents_free=self.parts.documents_free,
            documents_ready=self.parts.documents_ready,
            vectors=self.parts.vectors,
            vectors_free=self.parts.vectors_free,
            vectors_ready=self.parts.vectors_ready,
            layout=self._layout,
        )
        self._thread = threading.Thread(target=self._run, args=(context,), daemon=True)

    def __enter__(self) -> ReaderHarness:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self.command(do="exit")
            self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the reader did not exit"
        self._channel.close()
        self._theirs.close()
        self.parts.close()

    def command(self, **command: Any) -> None:
        """Tell the reader something."""
        self._channel.send(command)

    def listen(self) -> None:
        """Take in what the reader told."""
        messages, _ = self._channel.poll()
        self.events.messages.extend(messages)

    def take_batch(self) -> ReadBatch | None:
        """Take one batch out of the ring, as a client would, and free its slot."""
        number = self.parts.documents_ready.take()
        if number is None:
            return None
        slot = self.parts.documents.slot(number)
        header = Header.unpack_from(slot, self.generation)
        batch = _take_apart(slot, header, IdType(self.settings.id_type))
        slot.release()
        self.parts.documents_free.put(number)
        self.batches.append(batch)
        return batch

    def drain_until(self, *events: str, count: int = 1) -> Message:
        """Take batches until the reader has told `count` of these events; the last of them."""
        deadline = time.monotonic() + WAIT_S
        while True:
            self.listen()
            found = [message for message in self.events.messages if message["event"] in events]
            while self.take_batch() is not None:
                pass
            if len(found) >= count:
                return found[-1]
            assert self.error is None, f"the reader failed: {self.error!r}"
            assert time.monotonic() < deadline, f"no {events} in {WAIT_S} s; told so far: {self.events.messages[-3:]}"
            self._thread.join(0.002)

    def hear_more(self, event: str, count: int = 1) -> Message:
        """Wait until `count` more of these events are told, and leave the ring as it is; the last of them."""
        self.listen()
        told = len(self.events.all(event))
        self._wait_until(lambda: len(self.events.all(event)) >= told + count, f"{count} more {event!r}")
        return self.events.last(event)

    def wait_until_full(self) -> None:
        """Wait until the reader has filled the ring and says that it waits for a slot."""
        self._wait_until(lambda: "waiting_ring" in [told["state"] for told in self.events.all("reader")], "full ring")

    def take_rows(self, n_rows: int) -> None:
        """Take batches until so many rows have been taken in all, and leave the rest in the ring."""

        def taken() -> bool:
            while len(self.rows) < n_rows and self.take_batch() is not None:
                pass
            return len(self.rows) >= n_rows

        self._wait_until(taken, f"{n_rows} rows")

    def drain_while_it_waits_for_the_source(self) -> None:
        """Take batches until the reader says that it has nothing left because MongoDB is away."""

        def said() -> bool:
            while self.take_batch() is not None:
                pass
            told = self.events.all("reader")
            return any(message["state"] == "waiting_source" and message["last_error"] for message in told)

        self._wait_until(said, "outage")

    def wait_for_error(self) -> BaseException:
        """The error with which the reader ends; meanwhile it is listened to."""
        deadline = time.monotonic() + WAIT_S
        while self._thread.is_alive():
            self.listen()
            assert time.monotonic() < deadline, "the reader neither failed nor ended"
            self._thread.join(0.01)
        assert self.error is not None, "the reader ended without an error"
        return self.error

    def _wait_until(self, is_true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not is_true():
            assert self.error is None, f"the reader failed: {self.error!r}"
            assert self._thread.is_alive(), f"the reader ended; told last: {self.events.messages[-3:]}"
            assert time.monotonic() < deadline, f"no {what} in {WAIT_S} s; told last: {self.events.messages[-3:]}"
            self._thread.join(0.002)
            self.listen()

    @property
    def rows(self) -> list[Row]:
        """All rows taken so far, in order."""
        return [row for batch in self.batches for row in batch.rows]

    @property
    def ids(self) -> list[Any]:
        """All ids taken so far, in order."""
        return [row.id for row in self.rows]

    def _run(self, context: StageContext) -> None:
        try:
            stage.run(context)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error


def _take_apart(slot: memoryview, header: Header, id_type: IdType) -> ReadBatch:
    meta = meta_of(slot, header)
    ids = to_bson_ids(id_type, unpack(id_type, meta.ids, header.n_rows))
    texts = json.loads(bytes(body_of(slot, header)))
    fanout = fanout_of(slot, header)
    places = struct.unpack(f"<{header.n_rows}H", fanout) if len(fanout) else range(header.n_rows)
    columns = json.loads(bytes(meta.columns)) if len(meta.columns) else [None] * header.n_rows
    assert len(texts) == header.n_texts
    assert header.characters == sum(map(len, texts))
    rows = [Row(ids[row], texts[place], meta.flags[row], columns[row]) for row, place in enumerate(places)]
    return ReadBatch(header, rows, texts)


def settings_for(collection: Documents, uri: str, **changes: Any) -> ReaderSettings:
    """Settings for a collection, small and plain unless changed."""
    values: dict[str, Any] = {
        "uri": uri,
        "database": collection.database.name,
        "collection": collection.name,
        "done_field": DONE,
        "id_type": "int64",
        "batch_size": 4,
        "max_text_bytes": 4096,
        "max_request_bytes": 32 << 10,
        "bucketing": False,
        "dedup": False,
        "page_rows": 5000,
        "max_outage_s": 100.0,
    }
    return ReaderSettings(**{**values, **changes})


def make_queue(collection: Documents, documents: list[dict[str, Any]]) -> None:
    """Fill a collection and give it its indexes."""
    if documents:
        collection.insert_many(documents)
    else:
        collection.database.create_collection(collection.name)
    create_indexes(collection, DONE)


def read_all(settings: ReaderSettings, **harness: Any) -> ReaderHarness:
    """One whole pass; the harness afterwards."""
    with ReaderHarness(settings, **harness) as reader:
        reader.drain_until("pass_done", "stopped")
        return reader


def canonical_ids(values: list[Any]) -> Counter[str]:
    """Ids as canonical extended JSON, countable whatever they are."""
    return Counter(json_util.dumps(value, json_options=json_util.CANONICAL_JSON_OPTIONS) for value in values)


def client_of(uri: str) -> pymongo.MongoClient[dict[str, Any]]:
    """A plain client of its own."""
    return pymongo.MongoClient(uri)


def numbered(n_rows: int) -> list[dict[str, Any]]:
    """So many plain documents."""
    return [{"_id": number, "text": f"text number {number}", "lang": "en"} for number in range(n_rows)]


def insert_raw(documents: Documents, document: dict[str, Any], marker: bytes, bad: bytes) -> None:
    """Insert a document in which `marker` is replaced by bytes that are not valid UTF-8."""
    assert len(marker) == len(bad)
    documents.insert_one(RawBSONDocument(bson.encode(document).replace(marker, bad)))


def entries_of(reader: ReaderHarness) -> list[dict[str, Any]]:
    """All quarantine entries that the reader told."""
    return [entry for message in reader.events.all("quarantine") for entry in message["entries"]]
