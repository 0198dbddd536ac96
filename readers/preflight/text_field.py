"""The preflight: a text field that holds no document's text is refused before a run reads anything."""

from __future__ import annotations

from pymongo.errors import OperationFailure

from engine.errors import ConfigError
from readers.batching.paths import MISSING, getter
from readers.batching.ports import Document
from readers.mongo.connection import Documents
from readers.mongo.errors import attempt
from readers.mongo.work_queue import WorkQueue

SAMPLE_ROWS = 100
SEARCH_MS = 5_000
"""How long the collection is searched for a document with the text field, when the queue's first ones have none."""

_TIME_EXCEEDED = 50


def require_text_field(collection: Documents, queue: WorkQueue, text_field: str) -> bool:
    """Refuse a text field that holds no document's text: a typing mistake must not fill the quarantine.

    The first hundred documents of the work queue tell as a rule. When none has a string there, the whole collection is
    searched for one, for a few seconds: perhaps only those that cannot be embedded are left. An empty queue is no
    reason to refuse: then there is nothing to do.

    Args:
        queue: The work queue, with the text field among its fields.

    Returns:
        Whether the queue holds any document.

    Raises:
        ConfigError: none of them has a string in the field; says so when it lies inside an array.
        SourceError: MongoDB refuses or does not answer.
    """
    name = collection.full_name
    first = attempt(lambda: queue.first(SAMPLE_ROWS), f"reading the first documents of {name}")
    values = list(map(getter(text_field), first))
    if not values or any(isinstance(value, str) for value in values):
        return bool(values)
    if attempt(lambda: _anyone_has(collection, text_field), f"searching {name}"):
        return True
    kinds = sorted({type(value).__name__ for value in values if value not in (MISSING, None)})
    has = f"a text in the field {text_field!r} (it holds: {', '.join(kinds)})" if kinds else f"the field {text_field!r}"
    if (array := _array_on_the_way(first, text_field)) is not None:
        raise ConfigError(
            f"no document of {name} has {has} of its own, as far as they were looked at: {array!r} is an array, and a "
            "text inside an array is not taken, because a document has one text and one vector: name a field with "
            "--text-field that holds one text, and write it with an update or $merge where there is none yet"
        )
    others = attempt(lambda: collection.find_one({"_id": first[0]["_id"]}), f"reading {name}")
    raise ConfigError(
        f"no document of {name} has {has}, as far as they were looked at: "
        f"check --text-field (a document has: {', '.join(sorted(others or {})[:12])})"
    )


def _array_on_the_way(documents: list[Document], path: str) -> str | None:
    """The part of a dotted path that is an array in one of the documents, None when none is."""
    steps = path.split(".")
    for end in range(1, len(steps)):
        part = ".".join(steps[:end])
        if any(isinstance(value, list) for value in map(getter(part), documents)):
            return part
    return None


def _anyone_has(collection: Documents, text_field: str) -> bool:
    """Whether a document has a string in the field; False when none was found in time.

    An expression and no plain condition: that would look into arrays, and take a number in the path for a place there,
    which the reader does not.
    """
    is_text = {"$expr": {"$eq": [{"$type": f"${text_field}"}, "string"]}}
    try:
        return collection.find_one(is_text, {"_id": 1}, max_time_ms=SEARCH_MS) is not None
    except OperationFailure as error:
        if error.code == _TIME_EXCEEDED:
            return False
        raise
