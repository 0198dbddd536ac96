"""The compact protocol of Thrift, as far as Parquet's footers, page headers and page indexes use it.

pyarrow reads footers but cannot rewrite one, and shows no page headers at all. Here a struct is read as it stands,
without a schema: field number -> (wire type, value). What is not understood is carried through unchanged, so a
column chunk that pyarrow wrote keeps its statistics, its size histograms and whatever a later version adds.

Source: Apache Thrift, "Thrift compact protocol encoding".
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

TRUE, FALSE, I8, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)


class Field(NamedTuple):
    """One field: its wire type and its value (int, bool, float, bytes, ListOf, or a Struct)."""

    kind: int
    value: Any


class ListOf(NamedTuple):
    """A list: the wire type of its items, and the items."""

    kind: int
    items: list[Any]


Struct = dict[int, Field]


class ThriftError(ValueError):
    """The bytes are not what the protocol allows: the header or footer is damaged."""


_MAX_DEPTH = 32


class _Cursor:
    """A position in bytes; every read is bounds-checked, because damaged headers come through here."""

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes | memoryview, position: int) -> None:
        self.data = data
        self.position = position
        self.end = len(data)

    def byte(self) -> int:
        if self.position >= self.end:
            raise ThriftError("the structure ends too early")
        value = self.data[self.position]
        self.position += 1
        return value

    def take(self, count: int) -> bytes:
        if count < 0 or self.position + count > self.end:
            raise ThriftError("the structure ends too early")
        start = self.position
        self.position += count
        return bytes(self.data[start : self.position])

    def varint(self) -> int:
        value = shift = 0
        while True:
            piece = self.byte()
            value |= (piece & 0x7F) << shift
            if piece < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ThriftError("a number has more than 64 bits")

    def signed(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)


def read_struct(data: bytes | memoryview, position: int = 0) -> tuple[Struct, int]:
    """Read one struct; returns it and the position behind it.

    Raises:
        ThriftError: the bytes cannot be a struct.
    """
    cursor = _Cursor(data, position)
    return _read_struct(cursor, 0), cursor.position


def _read_struct(cursor: _Cursor, depth: int) -> Struct:
    if depth > _MAX_DEPTH:
        raise ThriftError("structures are nested too deeply")
    fields: Struct = {}
    number = 0
    while True:
        head = cursor.byte()
        if head == 0:
            return fields
        kind = head & 0x0F
        number = number + (head >> 4) if head >> 4 else cursor.signed()
        fields[number] = Field(kind, _read_value(cursor, kind, depth))


def _read_value(cursor: _Cursor, kind: int, depth: int) -> Any:
    if kind in (TRUE, FALSE):
        return kind == TRUE
    if kind in (I16, I32, I64):
        return cursor.signed()
    if kind == BINARY:
        return cursor.take(cursor.varint())
    if kind == STRUCT:
        return _read_struct(cursor, depth + 1)
    if kind in (LIST, SET):
        return _read_list(cursor, depth + 1)
    if kind == I8:
        return cursor.byte()
    if kind == DOUBLE:
        return struct.unpack("<d", cursor.take(8))[0]
    raise ThriftError(f"unknown wire type {kind}")


def _read_list(cursor: _Cursor, depth: int) -> ListOf:
    if depth > _MAX_DEPTH:
        raise ThriftError("structures are nested too deeply")
    head = cursor.byte()
    kind, count = head & 0x0F, head >> 4
    if count == 15:
        count = cursor.varint()
    if count > cursor.end - cursor.position:
        raise ThriftError("a list is longer than the bytes that are left")
    if kind in (TRUE, FALSE):  # in a list a bool is a byte of its own
        return ListOf(kind, list(cursor.take(count)))
    return ListOf(kind, [_read_value(cursor, kind, depth) for _ in range(count)])


def write_struct(fields: Struct) -> bytes:
    """The bytes of a struct; fields are written in the order of their numbers."""
    out = bytearray()
    _write_struct(out, fields)
    return bytes(out)


def varint(value: int) -> bytes:
    """An unsigned number, seven bits a byte, lowest first."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _signed(value: int) -> bytes:
    return varint((value << 1) ^ (value >> 63))


def _write_struct(out: bytearray, fields: Struct) -> None:
    previous = 0
    for number in sorted(fields):
        kind, value = fields[number]
        if kind in (TRUE, FALSE):
            kind = TRUE if value else FALSE
        step = number - previous
        if 0 < step <= 15:
            out.append(step << 4 | kind)
        else:
            out.append(kind)
            out += _signed(number)
        previous = number
        if kind not in (TRUE, FALSE):
            _write_value(out, kind, value)
    out.append(0)


def _write_value(out: bytearray, kind: int, value: Any) -> None:
    if kind in (I16, I32, I64):
        out += _signed(value)
    elif kind == BINARY:
        out += varint(len(value))
        out += value
    elif kind == STRUCT:
        _write_struct(out, value)
    elif kind in (LIST, SET):
        _write_list(out, value)
    elif kind == I8:
        out.append(value)
    elif kind == DOUBLE:
        out += struct.pack("<d", value)
    else:
        raise ThriftError(f"unknown wire type {kind}")


def _write_list(out: bytearray, value: ListOf) -> None:
    count = len(value.items)
    if count < 15:
        out.append(count << 4 | value.kind)
    else:
        out.append(0xF0 | value.kind)
        out += varint(count)
    if value.kind in (TRUE, FALSE):
        out += bytes(value.items)
    else:
        for item in value.items:
            _write_value(out, value.kind, item)


def i32(value: int) -> Field:
    """A 32-bit field."""
    return Field(I32, value)


def i64(value: int) -> Field:
    """A 64-bit field."""
    return Field(I64, value)


def binary(value: bytes) -> Field:
    """A field of bytes or text."""
    return Field(BINARY, value)


def nested(value: Struct) -> Field:
    """A field that is a struct."""
    return Field(STRUCT, value)


def structs(items: list[Struct]) -> Field:
    """A field that is a list of structs."""
    return Field(LIST, ListOf(STRUCT, items))
