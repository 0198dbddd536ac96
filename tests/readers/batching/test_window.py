"""The window by itself: nothing lost, nothing doubled, limits kept, whatever the order of calls."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from readers.batching.screening import Rows
from readers.batching.window import Batch, BatchLimits, Window
from readers.mongo.ids import keys_of


def take_all(window: Window, portions: list[list[str]], flushes: list[bool]) -> list[Batch]:
    found = []
    number = 0
    for place, texts in enumerate(portions):
        ids = list(range(number, number + len(texts)))
        number += len(texts)
        window.add(Rows(ids, list(texts), [(row,) for row in ids], {row for row in ids if row % 7 == 0}))
        found += list(window.batches(flush=flushes[place % len(flushes)]))
    found += list(window.batches(flush=True))
    return found


@settings(max_examples=200, deadline=None)
@given(
    portions=st.lists(st.lists(st.sampled_from(["", "a", "b", "cc", "dddd", "e" * 40, "f" * 41])), max_size=8),
    flushes=st.lists(st.booleans(), min_size=1, max_size=4),
    max_texts=st.integers(1, 9),
    extra_rows=st.integers(0, 20),
    max_rows=st.integers(1, 60),
    max_tokens=st.one_of(st.none(), st.integers(1, 60)),
    max_characters=st.integers(1, 200),
    bucketing=st.booleans(),
    dedup=st.booleans(),
)
def test_every_row_comes_out_once_with_its_text_within_the_limits(
    portions: list[list[str]],
    flushes: list[bool],
    max_texts: int,
    extra_rows: int,
    max_rows: int,
    max_tokens: int | None,
    max_characters: int,
    bucketing: bool,
    dedup: bool,
) -> None:
    limits = BatchLimits(
        max_texts=max_texts, max_rows=max_texts + extra_rows, max_characters=max_characters, max_tokens=max_tokens
    )
    window = Window(limits, keys_of, max_rows=max_rows, bucketing=bucketing, dedup=dedup)
    batches = take_all(window, portions, flushes)
    texts = [text for portion in portions for text in portion]
    seen = []
    for batch in batches:
        places = batch.fanout if batch.fanout is not None else range(len(batch.texts))
        assert len(batch.flags) == len(batch.columns) == len(batch.ids) == len(list(places))
        assert len(batch.texts) <= max_texts and len(batch.ids) <= max_texts + extra_rows
        for value, place, flag, column in zip(batch.ids, places, batch.flags, batch.columns, strict=True):
            assert batch.texts[place] == texts[value]
            assert flag == (value % 7 == 0)
            assert column == (value,)
            seen.append(value)
        if dedup:
            assert len(set(batch.texts)) == len(batch.texts)
        for start in range(len(batch.ids)):
            part = batch.part(range(start, len(batch.ids)))
            again = part.fanout if part.fanout is not None else range(len(part.texts))
            assert [part.texts[place] for place in again] == [texts[value] for value in part.ids]
    assert sorted(seen) == list(range(len(texts)))
    assert window.saved_texts == len(texts) - sum(len(batch.texts) for batch in batches)
    assert len(window) == 0


def test_the_first_batches_do_not_wait_for_a_whole_window() -> None:
    limits = BatchLimits(max_texts=32, max_rows=32, max_characters=1 << 20, max_tokens=None)
    window = Window(limits, keys_of, max_rows=8192, bucketing=True, dedup=True)
    random.seed(5)
    window.add(Rows(list(range(256)), ["x" * random.randint(1, 280) for _ in range(256)]))
    assert sum(len(batch) for batch in window.batches(flush=False)) >= 128


def test_huge_texts_are_not_held_back() -> None:
    limits = BatchLimits(max_texts=32, max_rows=32, max_characters=1 << 30, max_tokens=None)
    window = Window(limits, keys_of, max_rows=8192, bucketing=True, dedup=True)
    window.add(Rows([1, 2, 3], ["a" * (3 << 20), "b" * (3 << 20), "c" * (3 << 20)]))
    assert sorted(value for batch in window.batches(flush=False) for value in batch.ids) == [1, 2, 3]
