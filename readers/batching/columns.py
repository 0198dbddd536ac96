"""Carried columns: further fields of a document that go into the output beside its vector.

Types are decided once, from a sample: `int64`, `double`, `bool`, `string`, `timestamp` (milliseconds since 1970,
UTC), and `json` (JSON text in a string) for everything else and for mixtures. A value that does not fit its column's
type becomes null; it is counted, and said once for each column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from readers.batching.paths import MISSING, Missing, getter
from readers.batching.ports import Document, ValueTypes
from readers.batching.unicode import is_encodable

_NONE_TYPES = frozenset((type(None), Missing))
_INT64 = (-(1 << 63), (1 << 63) - 1)
_PLAIN_KINDS = ("int64", "bool")
"""Kinds whose values go into JSON as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferredColumns:
    """What a sample says about the columns that were asked for.

    Attributes:
        columns: Name and type of each, in the order asked for.
        absent: Columns that no document of the sample has; they were taken for `string`.
    """

    columns: tuple[tuple[str, str], ...]
    absent: tuple[str, ...]


def infer_columns(sample: Iterable[Document], names: Sequence[str], types: ValueTypes) -> InferredColumns:
    """The types of carried columns, decided from some documents of the source."""
    documents = list(sample)
    columns = []
    absent = []
    for name in names:
        get = getter(name)
        met = {type(get(document)) for document in documents} - _NONE_TYPES
        if not met:
            absent.append(name)
        columns.append((name, _kind_of(met, types)))
    return InferredColumns(columns=tuple(columns), absent=tuple(absent))


def _kind_of(met: set[type], types: ValueTypes) -> str:
    kinds = {types.kinds.get(one, "json") for one in met}
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

    def __init__(
        self,
        columns: tuple[tuple[str, str], ...],
        types: ValueTypes,
        on_first_misfit: Callable[[str, str, str], None],
    ) -> None:
        """
        Args:
            columns: Name and type of each.
            types: How the source's values become those of columns.
            on_first_misfit: Gets the column, its type and the type met, once for each column.
        """
        self._columns = columns
        self._getters = [getter(name) for name, _ in columns]
        plain_kinds = [kind for kind in _PLAIN_KINDS if kind != "int64" or not types.has_wide_integers]
        self._plain = {kind: frozenset((*_types_of(kind, types), type(None))) for kind in plain_kinds}
        self._converters = _converters(types)
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
        plain = self._plain.get(kind)
        if plain is not None and plain.issuperset(map(type, values)):
            return values
        convert = self._converters[kind]
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


def _types_of(kind: str, types: ValueTypes) -> frozenset[type]:
    return frozenset(one for one, its_kind in types.kinds.items() if its_kind == kind)


def _converters(types: ValueTypes) -> dict[str, Callable[[Any], Any]]:
    """For each column type what makes its value of one that is not null; None when the value does not fit."""
    integers, reals, booleans, strings, times = (
        _types_of(kind, types) for kind in ("int64", "double", "bool", "string", "timestamp")
    )
    milliseconds = types.milliseconds

    is_wide = types.has_wide_integers

    def as_int64(value: Any) -> int | None:
        if is_wide and type(value) in integers and not _INT64[0] <= value <= _INT64[1]:
            return None
        return value if type(value) in integers else None

    def as_double(value: Any) -> float | None:
        if type(value) in reals:
            return value if math.isfinite(value) else None  # JSON has no NaN and no infinity
        return float(value) if type(value) in integers else None

    def as_bool(value: Any) -> bool | None:
        return value if type(value) in booleans else None

    def as_string(value: Any) -> str | None:
        return value if type(value) in strings and is_encodable(value) else None

    def as_timestamp(value: Any) -> int | None:
        return milliseconds(value) if type(value) in times else None

    return {
        "int64": as_int64,
        "double": as_double,
        "bool": as_bool,
        "string": as_string,
        "timestamp": as_timestamp,
        "json": types.json,
    }
