"""A range of `_id`s: the part of the work queue that one node of a cluster reads at a time.

Of a document's index key only the `_id` never changes. A document whose `lang` or `classified` changes while a run goes
on moves within the queue's index, but never into another node's range, so that no two nodes read it (G2). Within a
range the queue's index is followed as ever: once for each pair of `lang` and `classified` that there is, between the
range's ends. The pairs are found by leaping from one to the next, a query each.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import bson
from bson import json_util
from bson.json_util import CANONICAL_JSON_OPTIONS
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.raw_bson import RawBSONDocument

from readers.batching.ports import Document
from readers.mongo.connection import Documents
from readers.mongo.work_queue import CLASSIFIED, LANG, RAW_CODEC, SIMPLE, Segment, WorkQuery

_KEY_FIELD = "__engine_key"
_SIZES = {0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16, 0x7F: 0, 0xFF: 0}
"""Bytes of a BSON value, by its type, of types that have a size of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdRange:
    """The documents with `low <= _id < high`, in BSON's order of all types.

    Attributes:
        low, high: Canonical extended JSON of an `_id`; None for before, or behind, all there are.
    """

    low: str | None = None
    high: str | None = None

    @classmethod
    def of(cls, values: dict[str, Any]) -> IdRange:
        """Read `as_dict` back."""
        return cls(low=values["low"], high=values["high"])

    def as_dict(self) -> dict[str, Any]:
        """For messages."""
        return {"low": self.low, "high": self.high}


def to_text(value: Any) -> str:
    """An `_id` as a bound of a range."""
    return json_util.dumps({"": value}, json_options=CANONICAL_JSON_OPTIONS)


def _value(text: str | None, default: Any) -> Any:
    return default if text is None else json_util.loads(text, json_options=CANONICAL_JSON_OPTIONS)[""]


class RangesInTurn:
    """What a reader of ranges leaves out of its passes: all that is not in the range of the pass.

    Stands where `readers.preflight.without_text.LeavingOut` stands in a run that reads the queue as a whole.
    """

    is_optional = False

    def __init__(self) -> None:
        self._range = IdRange()

    def take_range(self, wanted: dict[str, Any], /) -> None:
        """See `DocumentSource`."""
        self._range = IdRange.of(wanted)

    def may_wait(self, entry: dict[str, Any], /) -> bool:
        """See `readers.batching.ports.DocumentSource`: every quarantined document is known by its id."""
        return False

    def begin_pass(self) -> None:
        """See `DocumentSource`."""

    def take_in(self, skip: Any, is_enough: Callable[[], bool], /) -> bool:
        """See `DocumentSource`: nothing was postponed."""
        return True

    def narrowed(self, collection: Documents, query: WorkQuery, index: str, text_field: str, /) -> WorkQuery | None:
        """The query of the range; None for the whole queue.

        Raises:
            pymongo.errors.PyMongoError: MongoDB refuses or does not answer.
        """
        return None if self._range == IdRange() else in_range(collection, query, index, self._range)


def in_range(collection: Documents, query: WorkQuery, index: str, wanted: IdRange) -> WorkQuery:
    """A query for the documents of a range only.

    A document whose `_id` is MaxKey is in no range; a pass over the whole queue finds it.

    Args:
        index: Name of the index that the query follows.

    Raises:
        pymongo.errors.PyMongoError: MongoDB refuses or does not answer.
    """
    low, high = _value(wanted.low, MinKey()), _value(wanted.high, MaxKey())
    if query.scan == "id":
        return replace(query, segments=(Segment({"_id": low}, {"_id": high}, query.predicates()),))
    pairs = [*_pairs(collection, index, query.langs)] or [_pair({LANG: MaxKey(), CLASSIFIED: MaxKey()})]
    segments = (Segment(_key(pair, low), _key(pair, high), query.predicates()) for pair in pairs)
    return replace(query, segments=tuple(segments))


def _pairs(collection: Documents, index: str, langs: tuple[str, ...]) -> Iterator[bytes]:
    """Every pair of `lang` and `classified` that begins keys of the index, each once, as the index holds it.

    As bytes: a key may hold text that is no UTF-8, and what an empty array has in an index (`undefined`), neither of
    which Python could write.
    """
    for lang in langs or (None,):
        low = MinKey() if lang is None else lang
        upper = None if lang is None else _key(_pair({LANG: lang, CLASSIFIED: MaxKey()}), MaxKey())
        key = _first_key(collection, index, _key(_pair({LANG: low, CLASSIFIED: MinKey()}), MinKey()), upper, 0)
        while key is not None:
            pair = _first_elements(bytes(key.raw), 2)
            yield pair
            skip, behind = 0, _key(pair, MaxKey())
            key = _first_key(collection, index, behind, upper, skip)
            while key is not None and isinstance(key["_id"], MaxKey):  # such an `_id` is still of the same pair
                skip += 1
                key = _first_key(collection, index, behind, upper, skip)


def _pair(values: Document) -> bytes:
    """`lang` and `classified` as the elements of a BSON document."""
    return bson.encode(values)[4:-1]


def _key(pair: bytes, value: Any) -> RawBSONDocument:
    """An index key: a pair, and an `_id`."""
    elements = pair + bson.encode({"_id": value})[4:-1]
    return RawBSONDocument(struct.pack("<i", len(elements) + 5) + elements + b"\0", RAW_CODEC)


def _first_elements(document: bytes, count: int) -> bytes:
    """The first elements of a BSON document, as they are. Source: the BSON specification, version 1.1."""
    at = 4
    for _ in range(count):
        kind = document[at]
        at = document.index(0, at + 1) + 1  # behind the name
        if kind in _SIZES:
            at += _SIZES[kind]
        elif kind in (0x03, 0x04, 0x0F):  # a document, an array, code with a scope: the size counts itself
            at += struct.unpack_from("<i", document, at)[0]
        elif kind == 0x0B:  # a regular expression: two texts
            at = document.index(0, document.index(0, at) + 1) + 1
        else:  # a size and so many bytes; of binary data one more, its subtype
            at += 4 + struct.unpack_from("<i", document, at)[0] + (kind == 0x05) + 12 * (kind == 0x0C)
    return document[4:at]


def _first_key(
    collection: Documents, index: str, lower: RawBSONDocument, upper: RawBSONDocument | None, skip: int
) -> RawBSONDocument | None:
    """The first key of the index from `lower` on, behind `skip` others; reads no document."""
    found: dict[str, Any] = {"hint": index, "min": lower, "limit": -1, "skip": skip, "collation": SIMPLE}
    if upper is not None:
        found["max"] = upper
    projection = {"_id": 1, _KEY_FIELD: {"$meta": "indexKey"}}
    if collection.database.client.is_mongos:
        found["sort"] = {LANG: 1, CLASSIFIED: 1, "_id": 1}
    with collection.find_raw_batches({}, projection, **found) as cursor:
        blob = b"".join(cursor)  # type: ignore[arg-type]  # raw batches are bytes
    if not blob:
        return None
    key: RawBSONDocument = RawBSONDocument(blob, RAW_CODEC)[_KEY_FIELD]
    return key
