"""What can be said of a collection before a run, cheaply: the preflight's questions."""

from __future__ import annotations

from pymongo.errors import OperationFailure

from engine.errors import ConfigError
from readers.connection import Documents
from readers.index import require_queue_index
from readers.mongo_errors import attempt
from readers.paths import MISSING, getter
from readers.work_queue import WorkQuery

SAMPLE_ROWS = 100
SEARCH_MS = 5_000
"""How long the collection is searched for a document with the text field, when the queue's first ones have none."""

_TIME_EXCEEDED = 50


def require_text_field(collection: Documents, query: WorkQuery, text_field: str) -> None:
    """Refuse a text field that no document has: a typing mistake must not fill the quarantine.

    The first hundred documents of the work queue tell as a rule. When none has it, the whole collection is searched
    for one, for a few seconds: perhaps only those that cannot be embedded are left. An empty queue is no reason to
    refuse: then there is nothing to do.

    Raises:
        ConfigError: none of them has the field, or there is no usable index.
        SourceError: MongoDB refuses or does not answer.
    """
    queue = require_queue_index(collection, query, (text_field,))
    page = attempt(
        lambda: queue.read(queue.start(), SAMPLE_ROWS), f"reading the first documents of {collection.full_name}"
    )
    get = getter(text_field)
    if not page.documents or any(get(document) not in (MISSING, None) for document in page.documents):
        return
    if not attempt(lambda: _anyone_has(collection, text_field), f"searching {collection.full_name}"):
        others = attempt(
            lambda: collection.find_one({"_id": page.documents[0]["_id"]}), f"reading {collection.full_name}"
        )
        names = ", ".join(sorted(others or {})[:12])
        raise ConfigError(
            f"no document of {collection.full_name} has the field {text_field!r}, as far as they were looked at: "
            f"check --text-field (a document has: {names})"
        )


def _anyone_has(collection: Documents, text_field: str) -> bool:
    """Whether a document has the field; False when none was found in time."""
    try:
        return collection.find_one({text_field: {"$ne": None}}, {"_id": 1}, max_time_ms=SEARCH_MS) is not None
    except OperationFailure as error:
        if error.code == _TIME_EXCEEDED:
            return False
        raise
