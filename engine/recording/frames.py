"""The frames of a recording: what stands in its files, and how a reader finds its way past damage.

    frame    "HR" kind (1 byte) 0 (1 byte) length (u32) crc (u32), then the payload; little-endian, the CRC-32 over
             kind and payload
    SCHEMA   JSON: {"id": n, "fields": [...], "kinds": "cl...", "servers": {"client-0": url, ...}}
    SAMPLE   end (f64, Unix seconds), seconds (f32), schema id (u16), then zlib over the float32 of every field of that
             schema, byte planes apart (all first bytes, all second ones, ...)
    EVENT    JSON: {"at": Unix seconds, "event": name, ...}

A file begins with a schema, so that each can be read alone. A torn or damaged frame is passed over: a reader goes on at
the next one that is sound. Kinds that it does not know are left alone, and so are fields.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

SCHEMA, SAMPLE, EVENT = 1, 2, 3
_MAGIC = b"HR"
_HEAD = struct.Struct("<2sBxII")
_SAMPLE = struct.Struct("<dfH")
_LONGEST_BYTES = 8 << 20
FORMAT = 1
"""Stands in every schema; raised when older versions could no longer read the frames."""


def frame(kind: int, payload: bytes) -> bytes:
    """One frame."""
    return _HEAD.pack(_MAGIC, kind, len(payload), _crc(kind, payload)) + payload


def _crc(kind: int, payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, kind)


def schema_frame(number: int, fields: Sequence[str], kinds: str, servers: dict[str, str]) -> bytes:
    """The frame that says what the values of the samples behind it are.

    Args:
        kinds: A letter for every field: `c` for a count, `l` for a level.
        servers: URLs by role.
    """
    body = {"format": FORMAT, "id": number, "fields": list(fields), "kinds": kinds, "servers": servers}
    return frame(SCHEMA, orjson.dumps(body))


def sample_frame(at: float, seconds: float, number: int, values: Sequence[float]) -> bytes:
    """The frame of a sample."""
    raw = array("f", values).tobytes()
    planes = b"".join(raw[byte::4] for byte in range(4))
    return frame(SAMPLE, _SAMPLE.pack(at, seconds, number) + zlib.compress(planes, 1))


def event_frame(event: dict[str, Any]) -> bytes:
    """The frame of an event."""
    return frame(EVENT, orjson.dumps(event, default=str))


def each_frame(data: bytes) -> Iterator[tuple[int, memoryview]]:
    """Kind and payload of every sound frame, in order."""
    view = memoryview(data)
    at, end = 0, len(data)
    while at + _HEAD.size <= end:
        magic, kind, length, crc = _HEAD.unpack_from(data, at)
        stop = at + _HEAD.size + length
        if magic == _MAGIC and length <= _LONGEST_BYTES and stop <= end:
            payload = view[at + _HEAD.size : stop]
            if _crc(kind, payload) == crc:
                yield kind, payload
                at = stop
                continue
        at = data.find(_MAGIC, at + 1)
        if at < 0:
            return


def sample_of(payload: memoryview) -> tuple[float, float, int, bytes]:
    """End, seconds, schema id and byte planes of a sample.

    Raises:
        zlib.error, struct.error: it is no sample, although its checksum is right.
    """
    at, seconds, number = _SAMPLE.unpack_from(payload)
    return at, seconds, number, zlib.decompress(payload[_SAMPLE.size :])
