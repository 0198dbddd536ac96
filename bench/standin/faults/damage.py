"""Faults that damage a right answer: wrong vectors, wrong numbers of them, wrong places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.standin.api.encoding import Rows, encoded_rows
from bench.standin.backends.vectors import of_another_model
from bench.standin.faults.script import Fault

#: Kinds that need the rows of the answer and so rule out a ready-made one.
KINDS = frozenset({"count", "dim", "value", "index", "zero", "same", "previous", "other_model"})

_FLOATS = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "1e400": np.inf}
_LITERALS = {
    "nan": b"NaN",
    "inf": b"Infinity",
    "-inf": b"-Infinity",
    "1e400": b"1e400",
    "null": b"null",
    "string": b'"0.25"',
}


def damaged_rows(
    rows: Rows, faults: Sequence[Fault], previous: Rows | None, *, base64: bool, openai: bool
) -> list[bytes]:
    """Return the encoded rows of an answer after `faults`; `previous` are the rows of the request before.

    In base64 form a NaN or infinity is in the bytes, `1e400` (which no float32 can be) is infinity, and null or a
    string stands in place of the whole row.
    """
    for fault in faults:
        rows = _other_rows(rows, fault, previous)
    values = [fault for fault in faults if fault.kind == "value"]
    if base64:
        for fault in values:
            rows = _with_value(rows, fault)
    wire = encoded_rows(rows, base64=base64, openai=openai)
    for fault in values:
        at = fault["row"]
        if at < len(wire):
            wire[at] = _base64_row(wire[at], fault) if base64 else _float_row(wire[at], fault)
    for fault in faults:
        if fault.kind == "index" and openai:
            wire = _misplaced(wire, fault["how"])
    return wire


def damaged_raw(rows: Rows, faults: Sequence[Fault], previous: Rows | None) -> Rows:
    """Return the rows of an answer in raw bytes after `faults`; what only JSON can hold does not happen."""
    for fault in faults:
        rows = _other_rows(rows, fault, previous)
        if fault.kind == "value":
            rows = _with_value(rows, fault)
        if fault.kind == "index" and fault["how"] == "reorder":
            rows = np.ascontiguousarray(rows[::-1])
    return rows


def _other_rows(rows: Rows, fault: Fault, previous: Rows | None) -> Rows:
    if fault.kind == "zero":
        return np.zeros_like(rows)
    if fault.kind == "same":
        return np.repeat(rows[:1], len(rows), axis=0)
    if fault.kind == "other_model":
        return of_another_model(rows)
    if fault.kind == "previous" and previous is not None:
        return np.resize(previous, rows.shape)
    if fault.kind == "count":
        delta = fault["delta"]
        if delta < 0:
            return rows[: max(0, len(rows) + delta)]
        return np.concatenate([rows, of_another_model(np.resize(rows, (delta, rows.shape[1])))])
    if fault.kind == "dim":
        to = fault["to"]
        more = np.zeros((len(rows), max(0, to - rows.shape[1])), dtype=np.float32)
        return np.ascontiguousarray(np.concatenate([rows, more], axis=1)[:, :to])
    return rows


def _with_value(rows: Rows, fault: Fault) -> Rows:
    number = _FLOATS.get(fault["value"])
    if number is None or fault["row"] >= len(rows):
        return rows
    rows = rows.copy()
    rows[fault["row"], min(fault["column"], rows.shape[1] - 1)] = number
    return rows


def _base64_row(row: bytes, fault: Fault) -> bytes:
    if fault["value"] not in ("null", "string"):
        return row
    head, _, tail = row.partition(b'"embedding":"')
    instead = b"null" if fault["value"] == "null" else b'"this is not base64!"'
    return b'%b"embedding":%b%b' % (head, instead, tail[tail.index(b'"') + 1 :])


def _float_row(row: bytes, fault: Fault) -> bytes:
    first, last = row.index(b"[") + 1, row.index(b"]")
    numbers = row[first:last].split(b",")
    numbers[min(fault["column"], len(numbers) - 1)] = _LITERALS[fault["value"]]
    return row[:first] + b",".join(numbers) + row[last:]


def _misplaced(wire: list[bytes], how: str) -> list[bytes]:
    if how == "reorder":
        return wire[::-1]
    changed = list(wire)
    if how == "missing":
        changed[0] = _with_index(wire[0], b"}")
    elif how == "gap":
        changed[-1] = _with_index(wire[-1], b',"index":%d}' % len(wire))
    elif len(wire) > 1:
        changed[-1] = _with_index(wire[-1], b',"index":0}')
    return changed


def _with_index(row: bytes, tail: bytes) -> bytes:
    return row[: row.rindex(b',"index":')] + tail
