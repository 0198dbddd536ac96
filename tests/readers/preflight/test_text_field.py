"""The preflight's look at the text field."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import ConfigError
from readers.mongo.connection import Documents
from readers.mongo.index import create_indexes, require_queue_index
from readers.mongo.work_queue import WorkQuery
from readers.preflight.text_field import require_text_field
from tests.readers.harness import DONE

QUERY = WorkQuery(done_field=DONE)


def require_text(documents: Documents, text_field: str) -> bool:
    """The preflight with the queue's index, as a start makes it."""
    return require_text_field(documents, require_queue_index(documents, QUERY, (text_field,)), text_field)


def test_a_text_field_that_nobody_has_is_refused_with_what_there_is(documents: Documents) -> None:
    documents.insert_many([{"_id": number, "body": "x"} for number in range(5)])
    create_indexes(documents, DONE)
    with pytest.raises(ConfigError, match=r"no document of .* has the field 'text'.*_id, body"):
        require_text(documents, "text")
    assert require_text(documents, "body")
    documents.update_many({}, {"$set": {DONE: True}})
    assert not require_text(documents, "text")  # nothing left to do: no reason to refuse


def test_a_queue_of_nothing_but_documents_without_text_is_not_refused(documents: Documents) -> None:
    documents.insert_many([{"_id": number, "body": "x"} for number in range(150)])
    documents.insert_one({"_id": 1000, "text": "done long ago", DONE: True})
    create_indexes(documents, DONE)
    assert require_text(documents, "text")  # they go into quarantine, and are there at the next run


@pytest.mark.parametrize(
    ("document", "path", "array"),
    [
        ({"tweets": [{"text": "one"}, {"text": "two"}]}, "tweets.text", "tweets"),
        ({"a": {"b": [{"c": {"text": "deep"}}]}}, "a.b.c.text", "a.b"),
        ({"texts": ["one", "two"]}, "texts.0", "texts"),
        ({"a": [[{"text": "nested twice"}]]}, "a.text", "a"),
    ],
)
def test_a_text_inside_an_array_is_refused_before_anything_is_read(
    documents: Documents, document: dict[str, Any], path: str, array: str
) -> None:
    """A query finds it there, the reader would call it missing, and every document would go into quarantine."""
    documents.insert_many([{"_id": number, **document} for number in range(5)])
    create_indexes(documents, DONE)
    with pytest.raises(ConfigError, match=rf"'{array}' is an array, and a text inside an array is not taken"):
        require_text(documents, path)


def test_one_document_with_an_array_refuses_no_collection_of_texts(documents: Documents) -> None:
    documents.insert_many([{"_id": number, "tweet": [{"text": "x"}]} for number in range(150)])
    documents.insert_one({"_id": 1000, "tweet": {"text": "the only one"}})
    create_indexes(documents, DONE)
    assert require_text(documents, "tweet.text")


def test_an_array_of_texts_is_no_text(documents: Documents) -> None:
    documents.insert_many([{"_id": number, "text": ["one", "two"]} for number in range(5)])
    create_indexes(documents, DONE)
    with pytest.raises(ConfigError, match=r"it holds: list"):
        require_text(documents, "text")


def test_the_preflight_looks_behind_a_language_that_no_document_has(documents: Documents) -> None:
    documents.insert_many([{"_id": number, "body": "x", "lang": "en"} for number in range(5)])
    create_indexes(documents, DONE)
    query = WorkQuery(done_field=DONE, langs=("xx", "en"))
    with pytest.raises(ConfigError, match="has the field 'text'"):
        require_text_field(documents, require_queue_index(documents, query, ("text",)), "text")
