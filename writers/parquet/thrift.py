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


def read_struct(data: bytes | memoryview, position: int = 0) -> tuple[Struct, int]:
    """Read one struct; returns it and the position behind it.

    Raises:
        ThriftError: the bytes cannot be a struct.
    """
    try:
        return _read_struct(data, position, 0)
    except IndexError as error:
        raise ThriftError("the structure ends too early") from error


# Page headers are read by the hundred thousand, so positions are passed on instead of kept in an object, and numbers of
# one byte, which nearly all are, take a short cut. Reading behind the end raises IndexError.


_new = tuple.__new__  # half the time of calling the named tuple


def _varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    piece = data[position]
    if piece < 0x80:
        return piece, position + 1
    value = shift = 0
    while piece >= 0x80:
        value |= (piece & 0x7F) << shift
        shift += 7
        if shift > 63:
            raise ThriftError("a number has more than 64 bits")
        position += 1
        piece = data[position]
    return value | piece << shift, position + 1


def _read_struct(data: bytes | memoryview, position: int, depth: int) -> tuple[Struct, int]:
    if depth > _MAX_DEPTH:
        raise ThriftError("structures are nested too deeply")
    fields: Struct = {}
    number = 0
    while True:
        head = data[position]
        position += 1
        if head == 0:
            return fields, position
        kind = head & 0x0F
        if head >> 4:
            number += head >> 4
        else:
            number, position = _varint(data, position)
            number = (number >> 1) ^ -(number & 1)
        if I16 <= kind <= I64:
            value, position = _varint(data, position)
            fields[number] = _new(Field, (kind, (value >> 1) ^ -(value & 1)))
        else:
            plain, position = _read_value(data, position, kind, depth)
            fields[number] = _new(Field, (kind, plain))


def _read_value(data: bytes | memoryview, position: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (TRUE, FALSE):
        return kind == TRUE, position
    if kind in (I16, I32, I64):
        value, position = _varint(data, position)
        return (value >> 1) ^ -(value & 1), position
    if kind == BINARY:
        length, position = _varint(data, position)
        return _take(data, position, length), position + length
    if kind == STRUCT:
        return _read_struct(data, position, depth + 1)
    if kind in (LIST, SET):
        return _read_list(data, position, depth + 1)
    if kind == I8:
        return data[position], position + 1
    if kind == DOUBLE:
        return struct.unpack("<d", _take(data, position, 8))[0], position + 8
    raise ThriftError(f"unknown wire type {kind}")


def _take(data: bytes | memoryview, position: int, count: int) -> bytes:
    taken = bytes(data[position : position + count])
    if len(taken) != count:
        raise ThriftError("the structure ends too early")
    return taken


def _read_list(data: bytes | memoryview, position: int, depth: int) -> tuple[ListOf, int]:
    if depth > _MAX_DEPTH:
        raise ThriftError("structures are nested too deeply")
    head = data[position]
    position += 1
    kind, count = head & 0x0F, head >> 4
    if count == 15:
        count, position = _varint(data, position)
    if count > len(data) - position:
        raise ThriftError("a list is longer than the bytes that are left")
    if kind in (TRUE, FALSE):  # in a list a bool is a byte of its own
        return ListOf(kind, list(_take(data, position, count))), position + count
    items = []
    for _ in range(count):
        item, position = _read_value(data, position, kind, depth)
        items.append(item)
    return ListOf(kind, items), position


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
