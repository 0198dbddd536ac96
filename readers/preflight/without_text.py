"""Which documents without a text need not be read again, because all of them are in quarantine already.

They are never marked, so they stay in the work queue for good; a collection may hold a hundred million of them. The
server tells in one aggregation how many of them there are and what the hashes of their `_id`s add up to, in 65,535
buckets; the same is added up from the quarantine file. Where a bucket agrees, its documents are the ones in quarantine,
and the page queries leave them out. Where it does not (a new one, a deleted one, one that has a text now) its documents
are read and passed over one by one, as all are where the server does not know the hash (before MongoDB 5.0).

The hash is MongoDB's own of hashed indexes: MD5 of a seed, the type's number and the value, the first 8 bytes of it.
Source: `BSONElementHasher` in MongoDB's documentation of `$toHashedIndexKey`. Two remainders of it are added up, which
together tell all of its 64 bits.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from bson.int64 import Int64
from bson.objectid import ObjectId

from engine.errors import ProtocolError
from readers.batching.ports import Document
from readers.batching.skip import Entry, SkipSet
from readers.mongo.connection import Documents
from readers.mongo.estimate import has_no_text
from readers.mongo.work_queue import BY_ID, WorkQuery

HASH = "$toHashedIndexKey"

WORTH_FROM = 10_000
"""Fewer documents than these are passed over faster than the server is asked."""

MOST_BUCKETS_READ = 4_096
"""When more buckets than these disagree, all documents are read."""

REASONS = frozenset({"missing", "not_text", "empty"})
"""Why a document without a text is in quarantine."""

_BUCKETS = 1 << 15  # of each sign: remainders have the sign of the hash
_FIRST = Int64(1 << 43)  # the sums of half a million hashes in a bucket still fit into 64 bits
_SECOND = Int64((1 << 43) - 57)  # a prime
_N_SLOTS = 2 * _BUCKETS


@dataclass(slots=True)
class KnownSums:
    """Count and sums of hashes of quarantined documents without a text, by bucket; 1.6 MB whatever their number.

    Attributes:
        n_known: How many there are.
    """

    n_known: int = 0
    _counts: array[int] = field(default_factory=lambda: array("q"))
    _firsts: array[int] = field(default_factory=lambda: array("q"))
    _seconds: array[int] = field(default_factory=lambda: array("q"))

    def note(self, entry: Entry) -> bool:
        """Add an entry of the quarantine file; whether it was one that is added.

        An `_id` that is no integer, string or ObjectId is not added: its bucket will not agree, and so be read.
        """
        hashed = _hash_of_entry(entry)
        if hashed is None:
            return False
        if not self._counts:
            for sums in (self._counts, self._firsts, self._seconds):
                sums.frombytes(bytes(8 * _N_SLOTS))
        slot = _bucket_of(hashed) + _BUCKETS
        self._counts[slot] += 1
        self._firsts[slot] += _remainder(hashed, _FIRST)
        self._seconds[slot] += _remainder(hashed, _SECOND)
        self.n_known += 1
        return True

    def copy(self) -> KnownSums:
        """The sums as they are now, for another thread."""
        return KnownSums(self.n_known, self._counts[:], self._firsts[:], self._seconds[:])

    def agree(self, bucket: int, count: int, first: int, second: int) -> bool:
        """Whether a bucket of the server holds the known documents."""
        slot = bucket + _BUCKETS
        known = (self._counts[slot], self._firsts[slot], self._seconds[slot])
        return known == (count, first, second)


@dataclass(frozen=True, slots=True)
class Narrowed:
    """A work query without documents that are known to be in quarantine.

    Attributes:
        query: What is to be read.
        n_left_out: Documents of the queue that are not.
        buckets: The buckets whose documents are not.
    """

    query: WorkQuery
    n_left_out: int
    buckets: frozenset[int]


class LeavingOut:
    """What the passes of one reader leave out of their pages.

    reader's thread      begin_pass()                                take_in()  pages ...
    fetching thread                      narrowed() -> first page ->
    """

    is_optional = True

    def __init__(self) -> None:
        self._sums = KnownSums()
        self._of_pass = KnownSums()
        self._narrowed: Narrowed | None = None
        self._n_passes = 0
        self._is_taken_in = False
        self._has_all = False

    def may_wait(self, entry: Entry) -> bool:
        """Note an entry of the quarantine; whether its document may turn out to be in no page."""
        return self._sums.note(entry)

    def take_range(self, wanted: dict[str, Any]) -> None:
        """Never told: what is left out here is known of the whole queue only.

        Raises:
            ProtocolError: always.
        """
        raise ProtocolError("a queue that is read as a whole was given a range")

    def begin_pass(self) -> None:
        """Go by what is in quarantine now."""
        self._n_passes += 1
        self._of_pass = self._sums.copy()
        self._narrowed = None
        self._is_taken_in = False

    def narrowed(self, collection: Documents, query: WorkQuery, index: str, text_field: str) -> WorkQuery | None:
        """The query of the pass's pages; None for the whole queue.

        Raises:
            pymongo.errors.PyMongoError: see `leave_out_known`; the whole queue is to be read then.
        """
        self._narrowed = leave_out_known(collection, query, index, text_field, self._of_pass)
        return None if self._narrowed is None else self._narrowed.query

    def take_in(self, skip: SkipSet, is_enough: Callable[[], bool]) -> bool:
        """See to it, once a pass and before its first page, that those in the pages are in the skip set.

        Returns:
            False when `is_enough` ended it: then no page may be looked at.
        """
        if self._is_taken_in:
            return True
        found, is_first = self._narrowed, self._n_passes == 1
        if found is not None and is_first:  # what a later one leaves out besides is of this generation
            skip.left_out = found.n_left_out
        if self._has_all or not self._of_pass.n_known or (found and found.n_left_out == self._of_pass.n_known):
            self._is_taken_in = True
        elif found is None:
            self._has_all = skip.take_in(partial(_is_in_pages, frozenset()), is_enough, counts=is_first)
            self._is_taken_in = self._has_all
        else:
            self._is_taken_in = skip.take_in(partial(_is_in_pages, found.buckets), is_enough, counts=is_first)
        return self._is_taken_in


def leave_out_known(
    collection: Documents, query: WorkQuery, index: str, text_field: str, known: KnownSums
) -> Narrowed | None:
    """The work query without the documents that have no text and are in quarantine; None when it would hardly help.

    The server looks at every document of the queue once, at 2 to 4 us each, and nothing of them is sent.

    Args:
        index: The index that the queue follows.

    Raises:
        pymongo.errors.PyMongoError: the server does not know the hash, or does not answer.
    """
    if known.n_known < WORTH_FROM:
        return None
    has_none = has_no_text(text_field)
    hashed: Document = {HASH: "$_id"}
    pipeline: list[Document] = [
        {"$match": {"$and": [query.predicates(), {"$expr": has_none}]}},
        {"$project": {"_id": 0, "hash": hashed}},
        {
            "$group": {
                "_id": {"$mod": ["$hash", _BUCKETS]},
                "count": {"$sum": 1},
                "first": {"$sum": {"$mod": ["$hash", _FIRST]}},
                "second": {"$sum": {"$mod": ["$hash", _SECOND]}},
            }
        },
    ]
    hint: str | Document = BY_ID if query.scan == "id" else index
    n_left_out, alike, unlike = 0, [], []
    with collection.aggregate(pipeline, hint=hint, collation=query.collation) as cursor:
        for row in cursor:
            if known.agree(int(row["_id"]), row["count"], row["first"], row["second"]):
                n_left_out += row["count"]
                alike.append(int(row["_id"]))
            else:
                unlike.append(int(row["_id"]))
    if n_left_out < WORTH_FROM or len(unlike) > MOST_BUCKETS_READ:
        return None
    wanted: list[Document] = [{"$not": [has_none]}]
    if unlike:
        wanted.append({"$in": [{"$mod": [hashed, _BUCKETS]}, sorted(unlike)]})
    narrow: Document = {"$expr": {"$or": wanted}}
    condition = {"$and": [query.condition, narrow]} if query.condition else narrow
    return Narrowed(replace(query, condition=condition, is_sparse=True), n_left_out, frozenset(alike))


def hash_of(plain_id: Any) -> int | None:
    """The hash of an `_id` as the quarantine file names it, as `$toHashedIndexKey` gives it; None for other types."""
    if isinstance(plain_id, bool):
        return None
    if isinstance(plain_id, int):
        if not -(1 << 63) <= plain_id < 1 << 63:
            return None
        hashed = struct.pack("<iiq", 0, 10, plain_id)
    elif isinstance(plain_id, str):
        text = plain_id.encode("utf-8", "surrogatepass")
        hashed = struct.pack("<iii", 0, 15, len(text) + 1) + text + b"\0"
    elif isinstance(plain_id, dict) and plain_id.keys() == {"$oid"} and ObjectId.is_valid(plain_id["$oid"]):
        hashed = struct.pack("<ii", 0, 35) + bytes.fromhex(plain_id["$oid"])
    else:
        return None
    found: int = struct.unpack_from("<q", hashlib.md5(hashed, usedforsecurity=False).digest())[0]
    return found


def _hash_of_entry(entry: Entry) -> int | None:
    return hash_of(entry["_id"]) if entry.get("reason") in REASONS else None


def _is_in_pages(left_out: frozenset[int], entry: Entry) -> bool:
    """Whether the document of a noted entry may be in a page; one that has a text by now is."""
    hashed = _hash_of_entry(entry)
    return hashed is not None and _bucket_of(hashed) not in left_out


def _bucket_of(hashed: int) -> int:
    return _remainder(hashed, _BUCKETS)


def _remainder(value: int, divisor: int) -> int:
    """As the server's `$mod`: with the sign of the value."""
    return value % divisor if value >= 0 else -(-value % divisor)
