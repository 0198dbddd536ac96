"""Who judges that a text was cut, and how cheaply."""

from __future__ import annotations

import random

import pytest

from engine.memory.slots import HEADER_BYTES, Header
from gpu_clients.batches.batch import Batch, BatchHistory, Suspicion
from gpu_clients.vectors.truncation import TruncationJudge


def test_without_a_limit_nothing_is_looked_at() -> None:
    judge = TruncationJudge(None)
    assert judge.clears(10_000_000, None)
    assert judge.suspects(["x" * 100_000]).cut == []


def test_a_batch_with_fewer_tokens_than_one_text_may_have_is_cleared() -> None:
    judge = TruncationJudge(512)
    assert judge.clears(100_000, 511)
    assert not judge.clears(100_000, 512)
    assert not judge.clears(100_000, None)
    assert judge.clears(400, None), "no text has more tokens than the whole body has bytes"


@pytest.mark.parametrize("bytes_per_token", [1.5, 4.0, 8.0])
def test_no_text_that_was_cut_is_cleared_whatever_the_language(bytes_per_token: float) -> None:
    """The judge may be unsure, and may say cut only far beyond the limit; it must not overlook."""
    rng = random.Random(3)
    judge = TruncationJudge(256)
    for _ in range(200):
        judge.learn(int(1000 * bytes_per_token), 1000)
    for _ in range(500):
        n_tokens = rng.randrange(257, 2000)
        text = "\u00e9" * int(n_tokens * bytes_per_token * rng.uniform(0.7, 1.4) / 2)
        suspects = judge.suspects([text])
        assert suspects.cut == [0] or suspects.unsure == [0] or len(text.encode()) + 8 < 256


def test_the_case_file_lies_beside_the_header_and_belongs_to_one_batch() -> None:
    slot = memoryview(bytearray(4096))
    header = Header(generation=1, n_rows=2, sequence=70_000, ids_bytes=16, flags_bytes=2, columns_bytes=0, n_texts=2)
    header.pack_into(slot)
    batch = Batch(5, slot, 1)
    assert batch.history == BatchHistory()

    batch.history = BatchHistory(Suspicion.TEXT, server=3, text=17)

    assert Batch(5, slot, 1).history == BatchHistory(Suspicion.TEXT, server=3, text=17)
    assert Header.unpack_from(slot, 1) == header
    assert bytes(slot[HEADER_BYTES:]) == bytes(4096 - HEADER_BYTES)
    Header(generation=1, n_rows=2, sequence=70_001, ids_bytes=16, flags_bytes=2, columns_bytes=0, n_texts=2).pack_into(
        slot
    )
    assert Batch(5, slot, 1).history == BatchHistory(), "the reader has filled the slot anew"
