"""Batches as bytes: what does not fit into a request or a slot is halved, and refused when it is alone."""

from __future__ import annotations

import random
from typing import Any

from pymongo.collection import Collection

from bench.parts.local_mongod import LocalMongod
from tests.readers.harness import make_queue, read_all, settings_for

Documents = Collection[dict[str, Any]]


def test_requests_stay_within_their_bytes_and_tokens(documents: Documents, mongod: LocalMongod) -> None:
    random.seed(7)
    make_queue(documents, [{"_id": number, "text": "é\n" * random.choice([1, 10, 100, 400])} for number in range(300)])
    for bucketing in (True, False):
        settings = settings_for(documents, mongod.uri, batch_size=32, max_request_bytes=8000, bucketing=bucketing)
        reader = read_all(settings)
        assert sorted(reader.ids) == list(range(300))
        assert max(batch.header.body_bytes for batch in reader.batches) <= 8000
        reader = read_all(
            settings_for(documents, mongod.uri, batch_size=32, max_request_tokens=400, bucketing=bucketing)
        )
        assert sorted(reader.ids) == list(range(300))
        assert all(
            len(batch.rows) == 1 or sum(len(text) // 3 + 2 for text in batch.texts) <= 400 for batch in reader.batches
        )


def test_batches_whose_columns_are_too_large_are_halved_and_one_alone_is_refused(
    documents: Documents, mongod: LocalMongod
) -> None:
    make_queue(
        documents,
        [{"_id": number, "text": "t", "note": "n" * (3000 if number else 9000)} for number in range(10)],
    )
    reader = read_all(settings_for(documents, mongod.uri, columns=(("note", "string"),)), meta_bytes=7000)
    assert sorted(reader.ids) == list(range(1, 10))
    assert reader.events.quarantined() == {"0": "too_large"}
