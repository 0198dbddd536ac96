"""Carried columns: further fields of a document that go into the output beside its vector.

Types are decided once, from a sample: `int64`, `double`, `bool`, `string`, `timestamp` (milliseconds since 1970,
UTC), and `json` (relaxed extended JSON in a string) for everything else and for mixtures. A value that does not fit
its column's type becomes null; it is counted, and said once for each column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bson import json_util
from bson.datetime_ms import DatetimeMS
from bson.int64 import Int64
from bson.json_util import JSONMode, JSONOptions

from readers.batching.paths import MISSING, Missing, getter
from readers.mongo.connection import Document, Documents
from readers.mongo.errors import attempt

SAMPLE_ROWS = 200

_RELAXED = JSONOptions(json_mode=JSONMode.RELAXED)
_NONE_TYPES = frozenset((type(None), Missing))
_KIND_OF: dict[type, str] = {
    int: "int64",
    Int64: "int64",
    float: "double",
    bool: "bool",
    str: "string",
    DatetimeMS: "timestamp",
}
_PLAIN: dict[str, frozenset[type]] = {
    "int64": frozenset((int, Int64, type(None))),
    "bool": frozenset((bool, type(None))),
}
"""Types whose values go into JSON as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferredColumns:
    """What a sample says about the columns that were asked for.

    Attributes:
        columns: Name and type of each, in the order asked for.
        absent: Columns that no document of the sample has; they were taken for `string`.
    """

    columns: tuple[tuple[str, str], ...]
    absent: tuple[str, ...]


def infer_columns(collection: Documents, names: Sequence[str]) -> InferredColumns:
    """Decide the types of carried columns from a random sample of up to 200 documents.

    Raises:
        ConfigError, SourceError: MongoDB refuses or does not answer.
    """
    if not names:
        return InferredColumns(columns=(), absent=())
    roots = dict.fromkeys(name.partition(".")[0] for name in names)
    pipeline = [{"$sample": {"size": SAMPLE_ROWS}}, {"$project": dict.fromkeys(roots, 1)}]
    sample = attempt(
        lambda: list(collection.aggregate(pipeline)), f"sampling {collection.full_name} for the types of --columns"
    )
    columns = []
    absent = []
    for name in names:
        get = getter(name)
        types = {type(get(document)) for document in sample} - _NONE_TYPES
        if not types:
            absent.append(name)
        columns.append((name, _kind_of(types)))
    return InferredColumns(columns=tuple(columns), absent=tuple(absent))


def _kind_of(types: set[type]) -> str:
    kinds = {_KIND_OF.get(kind, "json") for kind in types}
    if not kinds:
        return "string"
    if kinds == {"int64", "double"}:
        return "double"
    return kinds.pop() if len(kinds) == 1 else "json"


class ColumnReader:
    """Takes the carried columns out of pages of documents.

    Attributes:
        misfits: Values that did not fit their column's type and became null, by column.
    """

    def __init__(self, columns: tuple[tuple[str, str], ...], on_first_misfit: Callable[[str, str, str], None]) -> None:
        """
        Args:
            columns: Name and type of each.
            on_first_misfit: Gets the column, its type and the type met, once for each column.
        """
        self._columns = columns
        self._getters = [getter(name) for name, _ in columns]
        self._on_first_misfit = on_first_misfit
        self.misfits: dict[str, int] = {}

    def rows(self, documents: list[Document]) -> list[tuple[Any, ...]]:
        """The values of each document, ready for JSON, one tuple a document."""
        taken = [
            self._column(name, kind, [get(document) for document in documents])
            for (name, kind), get in zip(self._columns, self._getters, strict=True)
        ]
        return list(zip(*taken, strict=True))

    def _column(self, name: str, kind: str, values: list[Any]) -> list[Any]:
        values = [None if value is MISSING else value for value in values]
        plain = _PLAIN.get(kind)
        if plain is not None and plain.issuperset(map(type, values)):
            return values
        convert = _CONVERTERS[kind]
        converted = []
        for value in values:
            result = None if value is None else convert(value)
            if result is None and value is not None:
                self._count(name, kind, value)
            converted.append(result)
        return converted

    def _count(self, name: str, kind: str, value: Any) -> None:
        if name not in self.misfits:
            self._on_first_misfit(name, kind, type(value).__name__)
        self.misfits[name] = self.misfits.get(name, 0) + 1


def _as_int64(value: Any) -> int | None:
    return value if type(value) in (int, Int64) else None


def _as_double(value: Any) -> float | None:
    if type(value) is float:
        return value if math.isfinite(value) else None  # JSON has no NaN and no infinity
    return float(value) if type(value) in (int, Int64) else None


def _as_bool(value: Any) -> bool | None:
    return value if type(value) is bool else None


def _as_string(value: Any) -> str | None:
    if type(value) is not str:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:  # invalid UTF-8 in the database
        return None
    return value


def _as_timestamp(value: Any) -> int | None:
    return int(value) if type(value) is DatetimeMS else None


def _as_json(value: Any) -> str:
    return json_util.dumps(value, json_options=_RELAXED)


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "int64": _as_int64,
    "double": _as_double,
    "bool": _as_bool,
    "string": _as_string,
    "timestamp": _as_timestamp,
    "json": _as_json,
}
