"""Why a queue is empty although its collection is not."""

from __future__ import annotations

from typing import Any

import pytest

from readers.mongo.connection import Documents
from readers.mongo.work_queue import WorkQuery
from readers.preflight.empty_queue import why_empty
from tests.readers.harness import DONE


def fill(documents: Documents, **fields: Any) -> None:
    documents.insert_many([{"_id": number, "text": "x", "lang": "en", **fields} for number in range(20)])


@pytest.mark.parametrize(
    ("fields", "query", "phrase"),
    [
        ({"retweeted": False}, {}, "the queue wants it null or missing, they say false: 20"),
        ({"retweeted": {"id": 3}}, {}, "they say a value of the type object: 20"),
        ({"retweeted": "no"}, {}, "they say no: 20"),
        ({}, {"retweeted": "false"}, "the queue wants it false, they say null or nothing: 20"),
        ({}, {"langs": ("enn",)}, "20 are in another language than --lang enn (there is en: 20)"),
        ({"lang": ["en"]}, {"langs": ("de",)}, "(there is a value of the type array: 20)"),
        ({}, {"condition": {"n": {"$gt": 3}}}, "20 are not what --filter takes"),
        ({}, {"langs": ("enn",), "scan": "id"}, "--lang enn"),
    ],
)
def test_the_condition_that_keeps_everything_out_is_named_with_what_the_documents_say(
    documents: Documents, fields: dict[str, Any], query: dict[str, Any], phrase: str
) -> None:
    fill(documents, **fields)
    said = why_empty(documents, WorkQuery(done_field=DONE, **query))
    assert said is not None
    assert "of 20 documents at random 20 are" in said
    assert phrase in said


def test_every_condition_that_keeps_documents_out_is_counted(documents: Documents) -> None:
    fill(documents, retweeted=False)
    documents.update_many({"_id": {"$lt": 5}}, {"$set": {"lang": "de", "retweeted": True}})
    said = why_empty(documents, WorkQuery(done_field=DONE, langs=("en",), condition={"_id": {"$lt": 3}}))
    assert said is not None
    assert "20 are no originals" in said
    assert "they say false: 15, true: 5" in said
    assert "5 are in another language" in said
    assert "17 are not what --filter takes" in said


def test_a_queue_that_was_worked_off_needs_no_explanation(documents: Documents) -> None:
    fill(documents, **{DONE: True})
    documents.insert_many([{"retweeted": False}] * 1)
    assert why_empty(documents, WorkQuery(done_field=DONE)) is None


def test_a_language_of_which_nothing_was_marked_is_explained_although_others_were(documents: Documents) -> None:
    fill(documents, **{DONE: True})
    said = why_empty(documents, WorkQuery(done_field=DONE, langs=("enn",)))
    assert said is not None
    assert "20 are in another language than --lang enn" in said


def test_an_empty_collection_needs_no_explanation(documents: Documents) -> None:
    assert why_empty(documents, WorkQuery(done_field=DONE)) is None


def test_a_filter_that_cannot_be_counted_still_has_the_other_reasons(documents: Documents) -> None:
    fill(documents, retweeted=False)
    said = why_empty(documents, WorkQuery(done_field=DONE, condition={"$where": "true"}))
    assert said is not None
    assert "they say false: 20" in said
