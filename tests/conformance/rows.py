"""Rows as text: the one form in which what a reader gave is compared with what was written.

A row is a line: `name=value` for each column in the file's order, tab-separated. Values:

    null  true  -5  f64:<bytes>  f32:<bytes>  text:<UTF-8>  bytes:<bytes>  days:<since 1970>
    millis:<since 1970, UTC>  micros-local:<since 1970>  decimal:<unscaled>e-<scale>  [value,...]  {name=value,...}

Bytes are hexadecimal, numbers little endian; the vector is `f32:` or `f16:` and the bytes of all its numbers. Java's
and Rust's programs print the same.
"""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

VECTOR = "embedding"
UTC_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)

_EPOCH = datetime.datetime(1970, 1, 1)


def lines(columns: Mapping[str, tuple[str, Iterable[Any]]], vectors: npt.NDArray[Any]) -> list[str]:
    """Rows from columns (name: kind and Python values) and a matrix float32 or float16 (n_rows, dim), which is last."""
    texts = [[f"{name}={text(kind, value)}" for value in values] for name, (kind, values) in columns.items()]
    texts.append([f"{VECTOR}=f{8 * vectors.itemsize}:{row.tobytes().hex()}" for row in vectors])
    return ["\t".join(row) for row in zip(*texts, strict=True)]


def text(kind: str, value: Any) -> str:
    """One value of a column of that kind; TypeError or KeyError for a value of another type."""
    if value is None:
        return "null"
    if kind.startswith("list<"):
        return f"[{','.join(text(kind[5:-1], part) for part in value)}]"
    if kind.startswith("struct<"):
        fields = [field.split(":") for field in kind[7:-1].split(",")]
        return f"{{{','.join(f'{name}={text(part, value[name])}' for name, part in fields)}}}"
    return _texts(kind, value)


def _texts(kind: str, value: Any) -> str:
    expected: dict[str, type] = {
        "bool": bool,
        "int": int,
        "double": float,
        "float": float,
        "text": str,
        "bytes": bytes,
        "decimal": decimal.Decimal,
        "date": datetime.date,
        "timestamp": datetime.datetime,
        "local": datetime.datetime,
    }
    if type(value) is not expected[kind]:
        raise TypeError(f"{value!r} in a column of {kind}")
    if kind == "bool":
        return str(value).lower()
    if kind == "double":
        return f"f64:{np.float64(value).tobytes().hex()}"
    if kind == "float":
        return f"f32:{np.float32(value).tobytes().hex()}"
    if kind == "text":
        return f"text:{value.encode().hex()}"
    if kind == "bytes":
        return f"bytes:{value.hex()}"
    if kind == "decimal":
        sign, digits, exponent = value.as_tuple()
        return f"decimal:{'-' * sign}{int(''.join(map(str, digits)))}e{exponent}"
    if kind == "date":
        return f"days:{(value - _EPOCH.date()).days}"
    if kind == "timestamp":
        return f"millis:{(value - UTC_EPOCH) // datetime.timedelta(milliseconds=1)}"
    if kind == "local":
        return f"micros-local:{(value - _EPOCH) // datetime.timedelta(microseconds=1)}"
    return str(value)


def difference(got: Sequence[str], expected: Sequence[str]) -> str:
    """What differs, in a sentence that fits on a screen; empty where nothing does."""
    for row, (mine, theirs) in enumerate(zip(got, expected, strict=False)):
        if mine != theirs:
            cells = zip(mine.split("\t"), theirs.split("\t"), strict=False)
            cell = next(((one, other) for one, other in cells if one != other), (mine, theirs))
            return f"row {row}: {cell[0][:200]} instead of {cell[1][:200]}"
    return "" if len(got) == len(expected) else f"{len(got)} rows instead of {len(expected)}"
