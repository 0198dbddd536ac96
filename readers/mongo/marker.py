"""The marker sets the done field of documents: the only place where the engine writes to the user's collection.

A mark is `update_many({_id: {$in: ids}, <done-field>: null}, {$set: {<done-field>: true}})` with write concern
majority. The condition makes it a compare-and-set, so it may be repeated at will: after any error the same chunk is
simply sent again (drivers never retry an update of many). What a chunk did not match is looked up: such a document
bears the mark already, or is gone.

An update of many stops at the first document that cannot take the mark, whatever keeps it from that: a validator, the
16 MB that a document may have, a unique index on the done field. The chunk's documents are then marked one by one, all
that can be are, and the others are named with what the server said of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import bson
from bson import ObjectId
from bson.int64 import Int64
from bson.min_key import MinKey
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, PyMongoError, WriteConcernError, WriteError, WTimeoutError

from engine.errors import MarksRefused, SourceError
from engine.part import Part
from readers.batching.ports import Document
from readers.mongo.connection import open_client, open_collection, ping, selection_ms, silent_members
from readers.mongo.errors import Outage, attempt, describe, is_away
from readers.mongo.ids import canonical, key_of, part_condition
from readers.mongo.work_queue import BY_ID

T = TypeVar("T")

CHUNK_ROWS = 5_000
CHUNK_BYTES = 8 << 20
"""Half of what a command may have; ids can be large documents."""

N_THREADS = 2
_VALIDATION_FAILED = 121
_MOST_CAUSES = 3
_TIMED_OUT = 64  # WriteConcernFailed
_SAY_EVERY_S = 60.0

_log = logging.getLogger("engine.marker")


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkResult:
    """What became of the marks of some documents; `matched + already + gone` is their number.

    Attributes:
        matched: Documents marked now.
        already: Documents that bore the mark.
        gone: Documents that exist no more.
        foreign: Documents among `already` that no attempt of ours can have marked: another run works on the same
            documents.
    """

    matched: int = 0
    already: int = 0
    gone: int = 0
    foreign: int = 0

    def __add__(self, other: MarkResult) -> MarkResult:
        return MarkResult(
            matched=self.matched + other.matched,
            already=self.already + other.already,
            gone=self.gone + other.gone,
            foreign=self.foreign + other.foreign,
        )


class Marker:
    """Sets the done field; keeps a connection of its own. Close it in the end."""

    def __init__(
        self, uri: str, database: str, collection: str, done_field: str, *, max_outage_s: float = 600.0
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            done_field: The field to set to true.
            max_outage_s: How long MongoDB may be away before `mark` gives up.

        Raises:
            ConfigError: the connection string or a name cannot be used.
        """
        self._uri = uri
        self._client = open_client(uri, name="engine-marker", selection_ms=selection_ms(max_outage_s))
        self._collection = open_collection(self._client, database, collection)
        self._done_field = done_field
        self._max_outage_s = max_outage_s
        self._closed = threading.Event()
        self._said_at_s = -_SAY_EVERY_S
        self._threads = ThreadPoolExecutor(N_THREADS, thread_name_prefix="mark")

    def ping(self) -> None:
        """Make sure that MongoDB answers and takes the credentials.

        Raises:
            ConfigError, SourceError: see `readers.mongo.connection.ping`.
        """
        ping(self._client, self._uri)

    def mark(self, ids: Sequence[Any], *, ours_before: bool) -> MarkResult:
        """Mark documents, durably.

        Args:
            ids: Their `_id`s as BSON values (`readers.mongo.ids.to_bson_ids`).
            ours_before: Whether an earlier attempt of this data set may have marked some of them.

        Raises:
            SourceError: MongoDB is away for longer than allowed, refuses the update, or a document stays unmarked.
            ConfigError: the credentials do not allow the update.
            MarksRefused: some documents cannot take the mark; all others are marked.
        """
        total = MarkResult()
        refused: list[MarksRefused] = []
        futures = [self._threads.submit(self._mark_chunk, chunk, ours_before) for chunk in _chunks(ids)]
        try:
            for future in futures:
                try:
                    total += future.result()
                except MarksRefused as error:
                    refused.append(error)
        finally:
            for future in futures:
                future.cancel()
        if refused:
            raise MarksRefused(
                "; ".join(dict.fromkeys(error.why for error in refused)),
                [identity for error in refused for identity in error.ids],
            )
        return total

    def are_marked(self, ids: Sequence[Any]) -> list[bool | None]:
        """For each document whether it is marked, None when it is gone; for `engine verify`.

        Args:
            ids: Their `_id`s as BSON values.

        Raises:
            ConfigError, SourceError: MongoDB refuses or is away for longer than allowed.
        """
        states: dict[Hashable, bool] = {}
        for chunk in _chunks(ids):
            states.update(self._retried(partial(self._states_of, chunk)))
        return [states.get(key_of(value)) for value in ids]

    def marked_ids(self, part: Part | None = None) -> Iterator[list[Any]]:
        """The `_id`s of all marked documents as BSON values, in `_id` order and in portions; for `engine verify`.

        Args:
            part: Only those of a share.

        Raises:
            ConfigError, SourceError: MongoDB refuses or is away for longer than allowed.
        """
        lower: Any = MinKey()
        last: Hashable = None
        while True:
            ids = self._retried(partial(self._marked_from, lower, part))
            if ids and key_of(ids[0]) == last:
                del ids[0]
            if not ids:
                return
            yield ids
            lower, last = ids[-1], key_of(ids[-1])

    def close(self) -> None:
        """Close the connection and end the threads; chunks that were not begun are dropped."""
        self._closed.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _marked_from(self, lower: Any, part: Part | None) -> list[Any]:
        rows = self._collection.find(
            {self._done_field: True, **({} if part is None else part_condition(part))},
            {"_id": 1},
            hint=BY_ID,
            min={"_id": lower},
            limit=-CHUNK_ROWS,
            batch_size=CHUNK_ROWS,
        )
        return [row["_id"] for row in rows]

    def _mark_chunk(self, values: list[Any], ours_before: bool) -> MarkResult:
        outage = self._outage()
        is_repeated = ours_before
        is_one_by_one = False
        while True:
            try:
                if is_one_by_one:
                    self._mark_one_by_one(values)
                return self._mark_once(values, is_repeated)
            except PyMongoError as error:
                is_repeated = True  # it may have happened although its answer was lost: marks may be ours from now on
                if isinstance(error, WriteError) and not is_away(error) and not is_one_by_one:
                    is_one_by_one = True  # an update of many stops at the first document that cannot take it
                    continue
                self._pause(outage, error)

    def _mark_one_by_one(self, values: list[Any]) -> None:
        """Mark every document that can take the mark.

        Raises:
            MarksRefused: some cannot; the others are marked.
            pymongo.errors.PyMongoError: MongoDB was away for some of them, or no majority has confirmed it.
        """
        mark = {"$set": {self._done_field: True}}
        updates = [UpdateOne({"_id": value, self._done_field: None}, mark) for value in values]
        try:
            self._collection.bulk_write(updates, ordered=False)
        except BulkWriteError as error:
            failed = [WriteError(one["errmsg"], one["code"], one) for one in error.details["writeErrors"]]
            for one in failed:
                if is_away(one):
                    raise one from error
            if not failed:
                raise _of_write_concern(error) from error
            places = sorted(one["index"] for one in error.details["writeErrors"])
            raise MarksRefused(self._why_refused(failed), [canonical(values[place]) for place in places]) from error

    def _why_refused(self, failed: list[WriteError]) -> str:
        """What keeps documents from their mark, each cause once."""
        name = self._collection.full_name
        causes = dict.fromkeys(
            f"a validator of {name} refuses {self._done_field}: true"
            if one.code == _VALIDATION_FAILED
            else f"{name} does not take {self._done_field}: true ({describe(one)})"
            for one in failed
        )
        return "; ".join(list(causes)[:_MOST_CAUSES])

    def _mark_once(self, values: list[Any], is_repeated: bool) -> MarkResult:
        """One attempt.

        Raises:
            SourceError: documents exist, bear no mark, and still were not matched.
        """
        updated = self._collection.update_many(
            {"_id": {"$in": values}, self._done_field: None}, {"$set": {self._done_field: True}}
        )
        missed = len(values) - updated.matched_count
        if not missed:
            return MarkResult(matched=len(values))
        states = self._states_of(values)
        unmarked = [key for key, is_marked in states.items() if not is_marked]
        if unmarked:  # it came back, or its mark was removed, between the two calls
            again = self._collection.update_many(
                {"_id": {"$in": values}, self._done_field: None}, {"$set": {self._done_field: True}}
            )
            states = self._states_of(values)
            if not all(states.values()):
                raise SourceError(
                    f"marking {self._collection.full_name}: {len(unmarked)} documents stay without {self._done_field} "
                    f"although they were updated, the first _id is {unmarked[0]!r}: does something remove the field?"
                )
            matched = updated.matched_count + again.matched_count
        else:
            matched = updated.matched_count
        gone = len(values) - len(states)
        # a document that was marked and then deleted counts as gone, so the three always add up
        already = max(0, len(values) - gone - matched)
        return MarkResult(
            matched=len(values) - gone - already, already=already, gone=gone, foreign=0 if is_repeated else already
        )

    def _states_of(self, values: list[Any]) -> dict[Hashable, bool]:
        """Whether each document that exists bears a mark, by key."""
        rows = self._collection.find({"_id": {"$in": values}}, {self._done_field: 1})
        return {key_of(row["_id"]): row.get(self._done_field) is not None for row in rows}

    def _retried(self, call: Callable[[], T]) -> T:
        outage = self._outage()
        while True:
            try:
                return call()
            except PyMongoError as error:
                self._pause(outage, error)

    def _pause(self, outage: Outage, error: PyMongoError) -> None:
        if isinstance(error, WTimeoutError):
            self._say_what_is_waited_for(error)
        if self._closed.wait(outage.pause_s(error)):
            raise SourceError(f"marking {self._collection.full_name} was given up: {outage.last_error}") from error

    def _say_what_is_waited_for(self, error: WTimeoutError) -> None:
        """Once for each time that a majority goes missing; the retries that follow are many."""
        if time.monotonic() - self._said_at_s > _SAY_EVERY_S:
            self._said_at_s = time.monotonic()
            _log.warning(
                "waiting_for_a_majority collection=%s not_answering=%s: %s; rows stay safe and unmarked until then",
                self._collection.full_name,
                ",".join(silent_members(self._client)) or "unknown",
                describe(error),
            )

    def _outage(self) -> Outage:
        return Outage(self._max_outage_s, f"marking {self._collection.full_name}")


def probe_write_right(uri: str, database: str, collection: str, done_field: str) -> None:
    """Make sure that the credentials allow to mark, with an update that matches nothing.

    Raises:
        ConfigError: they do not.
        SourceError: MongoDB does not answer.
    """
    with open_client(uri, name="engine-preflight") as client:
        documents = open_collection(client, database, collection)
        never: Document = {"_id": {"$in": []}, done_field: None}
        attempt(
            lambda: documents.update_many(never, {"$set": {done_field: True}}),
            f"checking the right to mark {documents.full_name}",
        )


def _of_write_concern(error: BulkWriteError) -> PyMongoError:
    """What an update of many would have raised for a bulk write that no majority has confirmed."""
    concerns = error.details.get("writeConcernErrors") or []
    if not concerns:
        return error
    kind = WTimeoutError if concerns[0].get("code") == _TIMED_OUT else WriteConcernError
    return kind(concerns[0].get("errmsg", "no majority"), concerns[0].get("code"), concerns[0])


def _chunks(ids: Sequence[Any]) -> Iterator[list[Any]]:
    """The ids in portions that fit into a command."""
    chunk: list[Any] = []
    size_bytes = 0
    for start in range(0, len(ids), CHUNK_ROWS):
        portion = list(ids[start : start + CHUNK_ROWS])
        if all(type(value) in (int, Int64, ObjectId) for value in portion):
            yield portion
            continue
        for value in portion:
            n_bytes = len(bson.encode({"": value}))
            if chunk and size_bytes + n_bytes > CHUNK_BYTES:
                yield chunk
                chunk, size_bytes = [], 0
            chunk.append(value)
            size_bytes += n_bytes
        yield chunk
        chunk, size_bytes = [], 0
