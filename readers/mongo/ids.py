"""`_id`s of MongoDB and the id column: what type a data set gets, and the way there and back.

MongoDB allows anything but arrays as `_id`, also mixed. The column has one type, decided once for a data set:

* all ids are 32- or 64-bit integers: int64; strings: string; ObjectIds: objectid;
* anything else: extjson, canonical extended JSON, which keeps `1`, `1.0`, `"1"` and dates apart.

In this module a *key* is what stands for an `_id` in Python sets: the value itself for integers, strings and
ObjectIds; BSON bytes for everything else, because there Python's equality is not MongoDB's (`True == 1`,
`nan != nan`, dicts do not hash).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import bson
from bson import ObjectId, json_util
from bson.codec_options import DatetimeConversion
from bson.errors import BSONError
from bson.int64 import Int64
from bson.json_util import JSONMode, JSONOptions

from engine.memory.ids import IdType, pack_fixed, pack_int64, pack_variable
from engine.part import Part
from engine.ports import IdList
from readers.batching.ports import Document, IdTypeMismatch
from readers.batching.unicode import is_encodable
from readers.mongo.connection import Documents
from readers.mongo.errors import attempt

CANONICAL = JSONOptions(json_mode=JSONMode.CANONICAL, datetime_conversion=DatetimeConversion.DATETIME_MS)
SAMPLE_ROWS = 100

_INTEGERS = frozenset((int, Int64))
_OWN_KEY = _INTEGERS | {str, ObjectId}
_TYPES: dict[IdType, frozenset[type]] = {
    IdType.INT64: _INTEGERS,
    IdType.STRING: frozenset((str,)),
    IdType.OBJECTID: frozenset((ObjectId,)),
}


def key_of(value: Any) -> Hashable:
    """What stands for an `_id` in a set."""
    if type(value) in _OWN_KEY:
        return value  # type: ignore[no-any-return]
    return _bson_bytes(value)


def keys_of(values: list[Any]) -> Sequence[Hashable]:
    """The keys of a page's ids; the list itself when every id is its own key."""
    if _OWN_KEY.issuperset(map(type, values)):
        return values
    return [key_of(value) for value in values]


def _bson_bytes(value: Any) -> bytes:
    try:
        return bson.encode({"": value})
    except (UnicodeEncodeError, BSONError):  # invalid UTF-8 inside; repr is as good a name
        return repr(value).encode("utf-8", "backslashreplace")


def canonical(value: Any) -> str:
    """An `_id` in canonical extended JSON."""
    return json_util.dumps(value, json_options=CANONICAL)


def from_canonical(text: str) -> Any:
    """The BSON value of `canonical`'s text."""
    return json_util.loads(text, json_options=CANONICAL)


def key_of_text(text: str) -> Hashable:
    """The key of an `_id` that is written in canonical extended JSON.

    Raises:
        ValueError, TypeError, KeyError: the text is none.
    """
    if text.isascii() and text.isdecimal():
        return int(text)  # the usual id; `from_canonical` takes ten times as long
    try:
        return key_of(from_canonical(text))
    except BSONError as error:
        raise ValueError(str(error)) from error


class MongoIds:
    """The `_id`s of one data set; fulfils `readers.batching.ports.SourceIds`."""

    key = staticmethod(key_of)
    keys = staticmethod(keys_of)
    key_of_text = staticmethod(key_of_text)

    def __init__(self, id_type: IdType) -> None:
        self._id_type = id_type
        self._types = _TYPES.get(id_type)

    def text(self, value: Any) -> str:
        """Canonical extended JSON; an integer of an int64 column is a plain number.

        The clients write the same into the quarantine file, and they know nothing but the column's type.
        """
        if self._id_type is IdType.INT64 and self.misfit(value) is None:
            return str(int(value))
        return canonical(value)

    def fit(self, values: list[Any]) -> bool:
        """Whether a page's ids surely fit the column; when not, `misfit` tells of each."""
        types = set(map(type, values))
        if not types <= (_OWN_KEY if self._types is None else self._types):
            return False
        return str not in types or is_encodable("".join(value for value in values if type(value) is str))

    def misfit(self, value: Any) -> str | None:
        """Why an `_id` does not fit the column, or None when it does."""
        if self._types is not None and type(value) not in self._types:
            return f"the _id is of the type {type(value).__name__}, the data set's id column is {self._id_type.value}"
        if type(value) not in _OWN_KEY or isinstance(value, str):
            try:
                bson.encode({"": value})
            except (UnicodeEncodeError, BSONError):
                return "the _id holds text that is not valid UTF-8"
        return None

    def column(self, values: Sequence[Any]) -> IdList:
        """Ids that fit as the id column holds them; see `from_bson_ids`."""
        return from_bson_ids(self._id_type, values)

    def pack(self, values: Sequence[Any]) -> bytes:
        """The id column of a batch (see `engine.memory.ids`).

        Raises:
            IdTypeMismatch: some id does not fit; `misfit` says which.
        """
        if self._types is not None and not self._types.issuperset(map(type, values)):
            raise IdTypeMismatch
        if self._id_type is IdType.INT64:
            return pack_int64(values)
        if self._id_type is IdType.OBJECTID:
            return pack_fixed([value.binary for value in values])
        try:
            if self._id_type is IdType.STRING:
                return pack_variable([value.encode() for value in values])
            return pack_variable([canonical(value).encode() for value in values])
        except UnicodeEncodeError as error:
            raise IdTypeMismatch from error


def to_bson_ids(id_type: IdType, values: Sequence[int] | Sequence[str] | Sequence[bytes]) -> list[Any]:
    """The BSON values of ids as the id column holds them.

    Args:
        id_type: Type of the column.
        values: int for int64, str or UTF-8 bytes for string and extjson, 12 bytes for objectid.
    """
    if id_type is IdType.INT64:
        return list(values)
    if id_type is IdType.OBJECTID:
        return [ObjectId(value) for value in values]  # type: ignore[arg-type]  # bytes, see Args
    texts = [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    return texts if id_type is IdType.STRING else [from_canonical(text) for text in texts]


def from_bson_ids(id_type: IdType, values: Sequence[Any]) -> IdList:
    """Ids as the id column holds them, from BSON values; the way back of `to_bson_ids`."""
    if id_type is IdType.INT64:
        return [int(value) for value in values]
    if id_type is IdType.OBJECTID:
        return [value.binary for value in values]
    return list(values) if id_type is IdType.STRING else [canonical(value) for value in values]


def decide_id_type(collection: Documents) -> IdType:
    """The type that a new data set's id column gets.

    `_id_` holds equal BSON types together, so when the smallest and the largest id are of one kind, all between
    are. Only numbers need a closer look, because integers, doubles and decimals are ordered among each other: the
    first and last hundred ids decide, and a later stray one goes into quarantine (`id_type`).

    Returns:
        The type; INT64 for an empty collection.

    Raises:
        ConfigError, SourceError: MongoDB refuses or does not answer.
    """

    def ends() -> list[Any]:
        found: list[Any] = []
        for direction in (1, -1):
            rows = collection.find({}, {"_id": 1}, sort=[("_id", direction)], limit=SAMPLE_ROWS)
            found.extend(row["_id"] for row in rows)
        return found

    types = frozenset(map(type, attempt(ends, f"reading the smallest and largest _id of {collection.full_name}")))
    for id_type, allowed in _TYPES.items():
        if types <= allowed:
            return id_type
    return IdType.EXTJSON


def part_condition(part: Part) -> Document:
    """What the documents of a share fulfil: the remainder of their `_id`'s hash, the one of hashed indexes.

    It hangs on the `_id` and `part` alone, so that any number of machines agree on it for good without a word. The hash
    is signed, and `$mod` keeps the sign. Source: MongoDB's documentation of `$toHashedIndexKey` (5.0 and newer).
    """
    remainders = [part.number - 1, part.number - 1 - part.count]
    return {"$expr": {"$in": [{"$mod": [{"$toHashedIndexKey": "$_id"}, part.count]}, remainders]}}
