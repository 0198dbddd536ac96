"""Entries of the quarantine on their way to the supervisor, in portions that fit into a message each."""

from __future__ import annotations

from typing import Any

import orjson

_MESSAGE_BYTES = 96 << 10
_MESSAGE_ENTRIES = 50


def in_portions(entries: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Entries in portions that fit into a message each."""
    parts: list[list[dict[str, Any]]] = []
    size_bytes = _MESSAGE_BYTES
    for entry in entries:
        n_bytes = len(orjson.dumps(entry))
        size_bytes += n_bytes
        if size_bytes > _MESSAGE_BYTES or len(parts[-1]) >= _MESSAGE_ENTRIES:
            parts.append([])
            size_bytes = n_bytes
        parts[-1].append(entry)
    return parts
