"""The work queue: which documents are to be embedded, and how they are read a page at a time.

A page is one query with a single batch: no cursor is left open on the server, so a full ring, an election or a
restart of MongoDB costs nothing but the same query once more. Pages follow an index by key: `hint` + `min` begin at
the last key of the page before. Such bounds are inclusive and, unlike `{_id: {$gt: last}}`, know no type brackets,
so a collection that mixes types of `_id` is read completely.

Every query literally contains the conditions of its index (`queue_conditions`), by default `retweeted: null` and
`<done-field>: null`. The server does not check that a hinted partial index covers the query; without these conditions
the answer would be incomplete without a word.

The partial index compares text byte by byte (`SIMPLE`), whatever collation the collection has: bounds are then the keys
themselves. The index of `_id` has the collection's own collation, and so has a query that follows it.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import bson
from bson import json_util
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.raw_bson import RawBSONDocument

from engine.errors import ConfigError, SourceError
from engine.part import Part
from readers.batching.ports import Document
from readers.mongo.connection import CODEC, Documents
from readers.mongo.ids import key_of, part_condition

RETWEETED = "retweeted"
LANG = "lang"
CLASSIFIED = "classified"
ID_INDEX = "_id_"
SIMPLE: Document = {"locale": "simple"}
"""The collation that compares text byte by byte."""

BY_ID: Document = {"_id": 1}
"""How the index of `_id` is named in a hint: in a clustered collection it may have any name."""

LARGEST_ANSWER_BYTES = 16 << 20
"""The server ends a batch at this size, so a page is never larger, whatever its documents are."""
STRETCH_KEYS = 20_000
"""Keys that one query of a sparse queue looks at."""

_KEY_FIELD = "__engine_key"
RAW_CODEC: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument, unicode_decode_error_handler="surrogateescape"
)

IndexKey = Mapping[str, Any]


def queue_conditions(done_field: str, retweeted: str) -> Document:
    """What a document has to fulfil to be in the work queue; also the filter of its partial index.

    Args:
        retweeted: `null` takes documents whose `retweeted` is null or missing, `false` those that say false (as
            Twitter's API v1.1 gives it), `any` all.
    """
    conditions: dict[str, Document] = {"null": {RETWEETED: None}, "false": {RETWEETED: False}, "any": {}}
    return {**conditions[retweeted], done_field: None}


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the index.

    Attributes:
        lower: First key, inclusive; None when the predicates alone name its one document.
        upper: First key behind it, or None for the index's end.
        predicates: The filter inside it.
    """

    lower: IndexKey | None
    upper: IndexKey | None
    predicates: Document


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkQuery:
    """Which documents are to be embedded.

    Attributes:
        done_field: The field that marking sets.
        langs: Only these languages; empty for all.
        condition: A further condition, or None.
        scan: `queue` follows the partial index, `id` follows `_id_`.
        retweeted: Which value of `retweeted` counts, one of `engine.records.RETWEETED_VALUES`.
        part: The share of them that is read (`part_condition`), or None for all.
        is_sparse: Whether `condition` may leave out long stretches; pages then end after so many keys, found or not.
        segments: The stretches of the index to read (`readers.ranges`), or None for the whole queue.
    """

    done_field: str
    langs: tuple[str, ...] = ()
    condition: Document | None = None
    scan: str = "queue"
    retweeted: str = "null"
    part: Part | None = None
    is_sparse: bool = False
    segments: tuple[Segment, ...] | None = None

    @classmethod
    def of(
        cls,
        done_field: str,
        langs: tuple[str, ...],
        condition: str | None,
        scan: str,
        retweeted: str = "null",
        part: Part | None = None,
    ) -> WorkQuery:
        """Read the user's words.

        Args:
            condition: Extended JSON of a further condition, or None.

        Raises:
            ConfigError: the condition is no JSON object.
        """
        return cls(
            done_field=done_field,
            langs=tuple(dict.fromkeys(langs)),
            condition=None if condition is None else parse_condition(condition),
            scan=scan,
            retweeted=retweeted,
            part=part,
        )

    @property
    def collation(self) -> Document | None:
        """The collation of its queries, None for the collection's own."""
        return None if self.scan == "id" else SIMPLE

    def predicates(self, lang: str | None = None) -> Document:
        """The query's filter, for one language when `lang` is given, else for all that are wanted."""
        found = queue_conditions(self.done_field, self.retweeted)
        if lang is not None:
            found[LANG] = lang
        elif self.langs:
            found[LANG] = {"$in": list(self.langs)}
        further = [self.condition] if self.condition else []
        further += [] if self.part is None else [part_condition(self.part)]
        return {**found, "$and": further} if further else found


def parse_condition(text: str) -> Document:
    """A condition in extended JSON as a query document.

    Raises:
        ConfigError: it is no JSON object.
    """
    try:
        found = json_util.loads(text)
    except (ValueError, TypeError, KeyError, BSONError) as error:
        raise ConfigError(f"--filter is not extended JSON ({error}); expected an object such as {{...}}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"--filter is {text[:80]!r}; expected a JSON object, a query in extended JSON")
    return found


@dataclass(frozen=True, slots=True)
class Position:
    """Where the next page begins.

    Attributes:
        segment: Number of the stretch of the index.
        lower: First key, inclusive, or None for a segment without bounds.
        last: Key (`readers.mongo.ids.key_of`) of the `_id` at `lower` that was read already, or None.
        until: First key behind the stretch that a query may look at, or None.
    """

    segment: int
    lower: IndexKey | None
    last: Hashable | None = None
    until: IndexKey | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some documents in index order, and where to go on; `position` is None at the end of the queue."""

    documents: list[Document]
    position: Position | None


class WorkQueue:
    """Reads the work queue a page at a time; holds nothing but its bounds.

    Attributes:
        index: Name of the index that it follows.
    """

    def __init__(
        self, collection: Documents, query: WorkQuery, index: str, fields: tuple[str, ...], *, merges: bool = False
    ) -> None:
        """
        Args:
            index: Name of the index to follow.
            fields: Paths of the fields to fetch besides `_id`.
            merges: Whether answers come from several shards, which only an explicit order keeps in order.
        """
        self._collection = collection
        self.index = index
        self._hint: str | Document = BY_ID if query.scan == "id" else index
        self._collation = query.collation
        self._is_by_id = query.scan == "id"
        self._key_fields = ("_id",) if query.scan == "id" else (LANG, CLASSIFIED, "_id")
        self._projection = _projection((*fields, *self._key_fields))
        self._segments = _segments(query) if query.segments is None else query.segments
        self._order = dict.fromkeys(self._key_fields, 1) if merges else None
        self._is_sparse = query.is_sparse and not merges

    def start(self) -> Position:
        """The beginning of the queue."""
        return Position(0, self._segments[0].lower)

    def first(self, n_rows: int) -> list[Document]:
        """The first documents of the queue, at most `n_rows` and about so many; none when it is empty.

        Raises:
            pymongo.errors.PyMongoError, SourceError: see `read`.
        """
        position: Position | None = self.start()
        while position is not None:
            page = self.read(position, n_rows)
            if page.documents:
                return page.documents[:n_rows]
            position = page.position
        return []

    def read(self, position: Position, n_rows: int) -> Page:
        """About `n_rows` documents from `position` on; none at a segment's end.

        Fewer come when they are large, and one more when the one that the page before ended with has left the queue.

        Raises:
            pymongo.errors.PyMongoError: the query failed; it may be made again.
            SourceError: a document cannot be decoded.
        """
        if self._is_sparse and position.until is None and position.lower is not None:
            position = replace(position, until=self._key_behind(position))
        try:
            documents = self._find(position, n_rows)
            if documents and self._needs_care(documents[-1]):
                return self._read_with_care(position, n_rows)
        except BSONError as error:
            raise SourceError(
                f"reading {self._collection.full_name}: a document behind _id {position.last!r} is not valid BSON "
                f"({error}): repair or remove it"
            ) from error
        if not documents:
            return self._end_of(position)
        if self._segments[position.segment].lower is None:
            return Page(documents, self._end_of(position).position)
        last = documents[-1]
        lower = {name: last.get(name) for name in self._key_fields}
        page = Page(documents, Position(position.segment, lower, key_of(last["_id"]), position.until))
        return self._without_first(page, position)

    def explain(self) -> Document:
        """The server's plan for the first page.

        Raises:
            pymongo.errors.PyMongoError: the server refuses the query.
        """
        segment = self._segments[0]
        command: Document = {
            "find": self._collection.name,
            "filter": segment.predicates,
            "projection": self._projection,
            "hint": self._hint,
            "limit": 1,
        }
        if self._collation is not None:
            command["collation"] = self._collation
        if segment.lower is not None:
            command["min"] = segment.lower
        if segment.upper is not None:
            command["max"] = segment.upper
        if self._order is not None:
            command["sort"] = self._order
        answer = self._collection.database.command({"explain": command, "verbosity": "queryPlanner"})
        plan: Document = answer["queryPlanner"]["winningPlan"]
        return plan

    def _arguments(self, position: Position, n_rows: int) -> dict[str, Any]:
        segment = self._segments[position.segment]
        # One more, because the first one is the last of the page before unless somebody removed it. A negative
        # limit asks for a single batch; without a batch size the server would cut that batch at 101 documents.
        n_rows += position.last is not None
        found: dict[str, Any] = {"hint": self._hint, "limit": -n_rows, "batch_size": n_rows}
        if self._collation is not None:
            found["collation"] = self._collation
        if position.lower is not None:
            found["min"] = position.lower
        if (upper := position.until or segment.upper) is not None:
            found["max"] = upper
        if self._order is not None:
            found["sort"] = self._order
        return found

    def _find(self, position: Position, n_rows: int) -> list[Document]:
        predicates = self._segments[position.segment].predicates
        with self._collection.find(predicates, self._projection, **self._arguments(position, n_rows)) as cursor:
            return cursor.to_list()

    def _needs_care(self, last: Document) -> bool:
        """Whether a document's fields do not tell its index key: arrays have a key per element, text may be broken."""
        if any(type(last.get(name)) is list for name in self._key_fields):
            return True
        try:
            bson.encode({name: last.get(name) for name in self._key_fields})
        except UnicodeEncodeError:
            return True
        return False

    def _read_with_care(self, position: Position, n_rows: int) -> Page:
        """The page again, with the server telling the index key; the last key is taken over as raw bytes."""
        predicates = self._segments[position.segment].predicates
        projection = {**self._projection, _KEY_FIELD: self._index_key()}
        with self._collection.find_raw_batches(predicates, projection, **self._arguments(position, n_rows)) as cursor:
            batches: list[bytes] = list(cursor)  # type: ignore[arg-type]  # raw batches are bytes
        blob = b"".join(batches)
        documents = bson.decode_all(blob, CODEC)
        if not documents:
            return self._end_of(position)
        last = RawBSONDocument(_last_document(blob), RAW_CODEC)
        for document in documents:
            del document[_KEY_FIELD]
        after = Position(position.segment, last[_KEY_FIELD], key_of(documents[-1]["_id"]), position.until)
        page = Page(documents, after)
        return self._without_first(page, position)

    def _index_key(self) -> Document:
        return {"_id": "$_id"} if self._is_by_id else {"$meta": "indexKey"}  # which clustered collections do not tell

    def _key_behind(self, position: Position) -> IndexKey | None:
        """The key that comes `STRETCH_KEYS` behind a position, None when the segment ends before; reads no document."""
        found = {**self._arguments(position, 1), "limit": -1, "skip": STRETCH_KEYS}
        with self._collection.find_raw_batches({}, {"_id": 1, _KEY_FIELD: self._index_key()}, **found) as cursor:
            blob = b"".join(cursor)  # type: ignore[arg-type]  # raw batches are bytes
        return RawBSONDocument(_last_document(blob), RAW_CODEC)[_KEY_FIELD] if blob else None

    def _without_first(self, page: Page, position: Position) -> Page:
        """Drop the document that the page before ended with; nothing behind it ends the segment."""
        documents = page.documents
        if position.last is None or key_of(documents[0]["_id"]) != position.last:
            return page
        if len(documents) == 1:
            return self._end_of(position)
        del documents[0]
        return page

    def _end_of(self, position: Position) -> Page:
        if position.until is not None:
            return Page([], Position(position.segment, position.until))
        following = position.segment + 1
        if following == len(self._segments):
            return Page([], None)
        return Page([], Position(following, self._segments[following].lower))


def _segments(query: WorkQuery) -> tuple[Segment, ...]:
    if query.scan == "id":
        last = {**query.predicates(), "_id": MaxKey()}  # bounds end before the greatest key there can be
        return Segment({"_id": MinKey()}, None, query.predicates()), Segment(None, None, last)
    if not query.langs:
        return (Segment({LANG: MinKey(), CLASSIFIED: MinKey(), "_id": MinKey()}, None, query.predicates()),)
    return tuple(
        Segment(
            {LANG: lang, CLASSIFIED: MinKey(), "_id": MinKey()},
            {LANG: lang, CLASSIFIED: MaxKey(), "_id": MaxKey()},
            query.predicates(lang),
        )
        for lang in query.langs
    )


def _projection(paths: tuple[str, ...]) -> dict[str, int]:
    """A projection of all paths; a path inside another one is left out, because the server refuses both together."""
    wanted = dict.fromkeys((*paths, "_id"))
    parents = {path: [path[:at] for at, sign in enumerate(path) if sign == "."] for path in wanted}
    return {path: 1 for path in wanted if not any(parent in wanted for parent in parents[path])}


def _last_document(blob: bytes) -> bytes:
    """The last of some concatenated BSON documents."""
    start = offset = 0
    while offset < len(blob):
        start = offset
        offset += struct.unpack_from("<i", blob, offset)[0]
    return blob[start:]
