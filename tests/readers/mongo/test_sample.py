"""A look at the queue's texts before a run."""

from __future__ import annotations

from readers.mongo.connection import Documents
from readers.mongo.estimate import QueueSize
from readers.mongo.index import create_indexes
from readers.mongo.sample import sample_queue
from readers.mongo.work_queue import WorkQuery
from tests.readers.harness import DONE

QUERY = WorkQuery(done_field=DONE)


def test_a_sample_comes_from_the_queue_alone(documents: Documents) -> None:
    documents.insert_many(
        [
            {"_id": number, "text": f"text {number}" if number % 10 else "", **({DONE: True} if number >= 300 else {})}
            for number in range(3000)
        ]
    )
    create_indexes(documents, DONE)
    sample = sample_queue(documents, QUERY, "text", 200)
    numbers = {int(text.split()[1]) for text in sample.texts}
    assert max(numbers) < 300
    assert sample.n_drawn == 200
    assert sample.n_unusable == 200 - len(sample.texts) > 0
    assert len(numbers) == len(sample.texts)
    assert sample.size == QueueSize(300, True)
    assert sample.characters() == sample.utf8_bytes() == sorted(map(len, sample.texts))
