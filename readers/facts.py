"""What can be said of a collection before a run, cheaply: the preflight's questions."""

from __future__ import annotations

from engine.errors import ConfigError
from readers.connection import Documents
from readers.index import require_queue_index
from readers.mongo_errors import attempt
from readers.paths import MISSING, getter
from readers.work_queue import WorkQuery

SAMPLE_ROWS = 100


def require_text_field(collection: Documents, query: WorkQuery, text_field: str) -> None:
    """Refuse a text field that no document has; looks at the first hundred documents of the work queue.

    An empty queue is no reason to refuse: then there is nothing to do.

    Raises:
        ConfigError: none of them has the field, or there is no usable index.
        SourceError: MongoDB refuses or does not answer.
    """
    queue = require_queue_index(collection, query, (text_field,))
    page = attempt(
        lambda: queue.read(queue.start(), SAMPLE_ROWS), f"reading the first documents of {collection.full_name}"
    )
    get = getter(text_field)
    if page.documents and all(get(document) in (MISSING, None) for document in page.documents):
        others = attempt(
            lambda: collection.find_one({"_id": page.documents[0]["_id"]}), f"reading {collection.full_name}"
        )
        names = ", ".join(sorted(others or {})[:12])
        raise ConfigError(
            f"none of the first {len(page.documents)} documents of {collection.full_name} has the field "
            f"{text_field!r}: check --text-field (a document has: {names})"
        )
