"""The preflight's look at the text field."""

from __future__ import annotations

import pytest

from engine.errors import ConfigError
from readers.mongo.connection import Documents
from readers.mongo.index import create_indexes
from readers.mongo.preflight import require_text_field
from readers.mongo.work_queue import WorkQuery
from tests.readers.harness import DONE

QUERY = WorkQuery(done_field=DONE)


def test_a_text_field_that_nobody_has_is_refused_with_what_there_is(documents: Documents) -> None:
    documents.insert_many([{"_id": number, "body": "x"} for number in range(5)])
    create_indexes(documents, DONE)
    with pytest.raises(ConfigError, match=r"no document of .* has the field 'text'.*_id, body"):
        require_text_field(documents, QUERY, "text")
    require_text_field(documents, QUERY, "body")
    documents.update_many({}, {"$set": {DONE: True}})
    require_text_field(documents, QUERY, "text")  # nothing left to do: no reason to refuse


def test_a_queue_of_nothing_but_documents_without_text_is_not_refused(documents: Documents) -> None:
    documents.insert_many([{"_id": number, "body": "x"} for number in range(150)])
    documents.insert_one({"_id": 1000, "text": "done long ago", DONE: True})
    create_indexes(documents, DONE)
    require_text_field(documents, QUERY, "text")  # they go into quarantine, and are there at the next run
