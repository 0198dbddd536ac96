"""Dotted paths: how the field of an embedded document is named and fetched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from readers.batching.ports import Document


class Missing:
    """What stands for a field that a document does not have (null is a value)."""


MISSING = Missing()


def getter(path: str) -> Callable[[Document], Any]:
    """A function that gets the value at a dotted path, `MISSING` when there is none; arrays are not entered."""
    head, *rest = path.split(".")

    def get_plain(document: Document) -> Any:
        return document.get(head, MISSING)

    def get_nested(document: Document) -> Any:
        value: Any = document.get(head, MISSING)
        for part in rest:
            if not isinstance(value, dict):
                return MISSING
            value = value.get(part, MISSING)
        return value

    return get_nested if rest else get_plain
