"""The id column of a batch: ids packed into the bytes that the sink's column is made of.

An id column is laid out the way Arrow lays out its arrays, so that the writer takes it as it is:

* fixed width (`int64`: 8 bytes little endian; `objectid`: 12 bytes): rows back to back;
* variable width (`string`, `extjson`): `n + 1` uint32 offsets, then the UTF-8 bytes.

The functions here know widths, not databases: the reader says what an id means.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence


class IdType(str, enum.Enum):
    """The type of the `_id` column, decided once for a data set."""

    INT64 = "int64"
    STRING = "string"
    OBJECTID = "objectid"
    EXTJSON = "extjson"

    __str__ = str.__str__  # Pythons differ in what they print else

    @property
    def width_bytes(self) -> int | None:
        """Bytes of one id, or None when ids differ in length."""
        return _WIDTHS[self]


_WIDTHS: dict[IdType, int | None] = {
    IdType.INT64: 8,
    IdType.OBJECTID: 12,
    IdType.STRING: None,
    IdType.EXTJSON: None,
}


def pack_int64(values: Sequence[int]) -> bytes:
    """Pack int64 ids; struct.error when one does not fit."""
    return struct.pack(f"<{len(values)}q", *values)


def pack_fixed(values: Sequence[bytes]) -> bytes:
    """Pack ids that are already bytes of the column's width."""
    return b"".join(values)


def pack_variable(values: Sequence[bytes]) -> bytes:
    """Pack ids of any length: `n + 1` uint32 offsets, then the bytes."""
    offsets = [0]
    end = 0
    for value in values:
        end += len(value)
        offsets.append(end)
    return struct.pack(f"<{len(offsets)}I", *offsets) + b"".join(values)


def unpack(kind: IdType, blob: bytes | memoryview, n_rows: int) -> list[int] | list[bytes]:
    """The ids of a column as Python values: int for INT64, bytes otherwise."""
    view = memoryview(blob)
    if kind is IdType.INT64:
        return list(struct.unpack(f"<{n_rows}q", view[: 8 * n_rows]))
    width = kind.width_bytes
    if width is not None:
        return [bytes(view[row * width : (row + 1) * width]) for row in range(n_rows)]
    offsets = struct.unpack(f"<{n_rows + 1}I", view[: 4 * (n_rows + 1)])
    data = view[4 * (n_rows + 1) :]
    return [bytes(data[offsets[row] : offsets[row + 1]]) for row in range(n_rows)]


def select(kind: IdType, blob: bytes | memoryview, n_rows: int, rows: Sequence[int]) -> bytes:
    """The id column of some rows of a batch, in the order of `rows`."""
    width = kind.width_bytes
    if width is not None:
        view = memoryview(blob)
        return b"".join(view[row * width : (row + 1) * width] for row in rows)
    values = unpack(kind, blob, n_rows)
    return pack_variable([values[row] for row in rows])  # type: ignore[misc]  # bytes for variable width
