"""The preflight: a text field that no document has is refused before a run reads anything."""

from __future__ import annotations

from pymongo.errors import OperationFailure

from engine.errors import ConfigError
from readers.batching.paths import MISSING, getter
from readers.mongo.connection import Documents
from readers.mongo.errors import attempt
from readers.mongo.index import require_queue_index
from readers.mongo.work_queue import WorkQuery

SAMPLE_ROWS = 100
SEARCH_MS = 5_000
"""How long the collection is searched for a document with the text field, when the queue's first ones have none."""

_TIME_EXCEEDED = 50


def require_text_field(collection: Documents, query: WorkQuery, text_field: str) -> None:
    """Refuse a text field that holds no document's text: a typing mistake must not fill the quarantine.

    The first hundred documents of the work queue tell as a rule. When none has a string there, the whole collection is
    searched for one, for a few seconds: perhaps only those that cannot be embedded are left. An empty queue is no
    reason to refuse: then there is nothing to do.

    Raises:
        ConfigError: none of them has a string in the field, or there is no usable index.
        SourceError: MongoDB refuses or does not answer.
    """
    queue = require_queue_index(collection, query, (text_field,))
    page = attempt(
        lambda: queue.read(queue.start(), SAMPLE_ROWS), f"reading the first documents of {collection.full_name}"
    )
    get = getter(text_field)
    values = list(map(get, page.documents))
    if not values or any(isinstance(value, str) for value in values):
        return
    if not attempt(lambda: _anyone_has(collection, text_field), f"searching {collection.full_name}"):
        kinds = sorted({type(value).__name__ for value in values if value not in (MISSING, None)})
        has = (
            f"a text in the field {text_field!r} (it holds: {', '.join(kinds)})"
            if kinds
            else f"the field {text_field!r}"
        )
        others = attempt(
            lambda: collection.find_one({"_id": page.documents[0]["_id"]}), f"reading {collection.full_name}"
        )
        names = ", ".join(sorted(others or {})[:12])
        raise ConfigError(
            f"no document of {collection.full_name} has {has}, as far as they were looked at: "
            f"check --text-field (a document has: {names})"
        )


def _anyone_has(collection: Documents, text_field: str) -> bool:
    """Whether a document has a string in the field; False when none was found in time."""
    is_text = {"$type": "string", "$not": {"$type": "array"}}  # an array of strings is of both types
    try:
        return collection.find_one({text_field: is_text}, {"_id": 1}, max_time_ms=SEARCH_MS) is not None
    except OperationFailure as error:
        if error.code == _TIME_EXCEEDED:
            return False
        raise
