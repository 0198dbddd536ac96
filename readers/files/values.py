"""Values of files: which types of JSON, CSV and Arrow become which column types, and what an id field holds."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from engine.errors import ConfigError
from engine.memory.ids import IdType
from readers.batching.paths import MISSING, getter
from readers.batching.ports import Document, ValueTypes
from readers.batching.unicode import is_encodable

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_INT64 = range(-(1 << 63), 1 << 63)

FIELD_TYPES: dict[IdType, type] = {IdType.INT64: int, IdType.STRING: str}
"""What an id field may hold, by the type of the id column."""


def _milliseconds(value: datetime.datetime) -> int:
    aware = value if value.tzinfo is not None else value.replace(tzinfo=datetime.timezone.utc)
    return (aware - _EPOCH) // datetime.timedelta(milliseconds=1)


def _json(value: Any) -> str:
    return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()


def _plain(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


FILE_TYPES = ValueTypes(
    kinds={int: "int64", float: "double", bool: "bool", str: "string", datetime.datetime: "timestamp"},
    milliseconds=_milliseconds,
    json=_json,
    has_wide_integers=True,
)
"""Types as orjson, csv and pyarrow give them; a time without a zone is taken for UTC."""


def decide_id_type(sample: Sequence[Document], id_field: str | None, names: Sequence[str]) -> IdType:
    """The type of the id column: that of the id field, or string for `file#row`.

    Args:
        names: Names of the fields that are there, for the message.

    Raises:
        ConfigError: the documents of the sample do not have the field, or hold values of several types in it, or of one
            that no id column has.
    """
    if id_field is None:
        return IdType.STRING
    get = getter(id_field)
    met = {type(value) for value in map(get, sample)} - {type(MISSING), type(None)}
    if not met and sample:
        raise ConfigError(f"no document of a sample has the field --id-field {id_field}; there is {', '.join(names)}")
    for id_type, one in FIELD_TYPES.items():
        if met <= {one}:
            return id_type
    raise ConfigError(
        f"--id-field {id_field} holds {' and '.join(sorted(one.__name__ for one in met))}; an id column has integers "
        "or strings: name another field, or leave --id-field out for file#row"
    )


def id_check(id_type: IdType) -> Callable[[list[Any]], bool]:
    """Whether all values of a page surely fit the id column; when not, `misfit_of` tells of each."""
    wanted = {FIELD_TYPES[id_type]}
    if id_type is IdType.INT64:
        return lambda values: set(map(type, values)) <= wanted and min(values) in _INT64 and max(values) in _INT64
    return lambda values: set(map(type, values)) <= wanted and is_encodable("".join(map(str, values)))


def misfit_of(value: Any, id_type: IdType) -> str | None:
    """Why a value does not fit the id column, or None when it does."""
    if value is MISSING or value is None:
        return "the id field is missing" if value is MISSING else "the id field is null"
    if type(value) is not FIELD_TYPES[id_type]:
        return f"the id field holds a value of the type {type(value).__name__}, the id column is {id_type.value}"
    if isinstance(value, int):
        return None if value in _INT64 else f"the id {value} does not fit into 64 bits"
    return None if is_encodable(str(value)) else "the id holds text that is not valid UTF-8"
