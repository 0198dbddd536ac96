"""The window in a running reader: full batches, like lengths together, equal texts sent once."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from pymongo.collection import Collection

from bench.parts.local_mongod import LocalMongod
from readers import stage
from tests.readers.harness import make_queue, numbered, read_all, settings_for

Documents = Collection[dict[str, Any]]


@pytest.mark.usefixtures("patient")
def test_batches_are_full_but_for_the_last(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, numbered(1000))
    reader = read_all(settings_for(documents, mongod.uri, bucketing=True, dedup=True, batch_size=32, window_rows=100))
    sizes = [batch.header.n_rows for batch in reader.batches]
    assert sum(sizes) == 1000
    assert sum(size < 32 for size in sizes) <= 3  # a window is given out early only while the source is slow


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that waits for whole windows, however slow the machine is at the moment."""
    monkeypatch.setattr(stage, "_STARVING_AFTER_S", 60.0)


@pytest.mark.usefixtures("patient")
def test_equal_texts_are_sent_once_and_every_row_knows_its_text(documents: Documents, mongod: LocalMongod) -> None:
    random.seed(11)
    texts = {number: random.choice(["alpha", "beta", "gamma gamma", f"only {number}"]) for number in range(400)}
    make_queue(documents, [{"_id": number, "text": text} for number, text in texts.items()])
    for bucketing in (True, False):
        reader = read_all(
            settings_for(documents, mongod.uri, batch_size=8, dedup=True, bucketing=bucketing, window_rows=128),
            max_rows=64,
        )
        assert {row.id: row.text for row in reader.rows} == texts
        assert len(reader.rows) == 400
        n_sent = sum(batch.header.n_texts for batch in reader.batches)
        assert reader.events.last("reader")["saved_texts"] == 400 - n_sent
        assert n_sent < 200
        for batch in reader.batches:
            assert len(set(batch.texts)) == len(batch.texts) <= 8
            assert batch.header.n_rows <= 64


def test_without_room_for_more_rows_equal_texts_share_a_batch_of_the_usual_size(
    documents: Documents, mongod: LocalMongod
) -> None:
    make_queue(documents, [{"_id": number, "text": "the same"} for number in range(30)])
    reader = read_all(settings_for(documents, mongod.uri, batch_size=4, dedup=True, bucketing=True))
    assert sorted(reader.ids) == list(range(30))
    assert all(batch.header.n_rows <= 4 and batch.texts == ["the same"] for batch in reader.batches)


@pytest.mark.usefixtures("patient")
def test_windows_are_sorted_by_length_up_and_down(documents: Documents, mongod: LocalMongod) -> None:
    random.seed(3)
    make_queue(documents, [{"_id": number, "text": "x" * random.randint(1, 500)} for number in range(2000)])
    settings = settings_for(documents, mongod.uri, batch_size=10, bucketing=True, window_rows=500)
    reader = read_all(settings)
    assert sorted(reader.ids) == list(range(2000))
    spread = [max(map(len, batch.texts)) - min(map(len, batch.texts)) for batch in reader.batches]
    plain = read_all(settings_for(documents, mongod.uri, batch_size=10))
    plain_spread = [max(map(len, batch.texts)) - min(map(len, batch.texts)) for batch in plain.batches]
    assert sum(spread) < sum(plain_spread) / 5
    means = [sum(map(len, batch.texts)) / len(batch.texts) for batch in reader.batches]
    jumps = [abs(after - before) for before, after in itertools.pairwise(means)]
    assert max(jumps[2:]) < 250  # no fall from the longest to the shortest between two windows
