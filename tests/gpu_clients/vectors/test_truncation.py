"""Who judges that a text was cut, and how cheaply."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from tokenizers import Tokenizer

from bench.parts import tweets
from bench.standin import StandinConfig, StandinFleet
from bench.standin.backends.minilm_model import model_folder
from engine.memory.slots import HEADER_BYTES, Header
from gpu_clients.batches.batch import Batch, BatchHistory, Suspicion
from gpu_clients.errors import Failure, FailureKind
from gpu_clients.servers.side_requests import Count, Pause, Reply
from gpu_clients.servers.tokenizer import find_truncated
from gpu_clients.vectors.truncation import Truncation, TruncationJudge
from tests.gpu_clients.harness import Harness


def test_without_a_limit_nothing_is_looked_at() -> None:
    judge = TruncationJudge(None)
    assert judge.clears(10_000_000, 32, None)
    assert judge.suspects(["x" * 100_000]).unsure == []


def test_a_batch_with_fewer_tokens_than_one_cut_text_beside_the_others_is_cleared() -> None:
    judge = TruncationJudge(512, special_tokens=2, default_prompt="")
    assert judge.clears(100_000, 1, 511)
    assert not judge.clears(100_000, 1, 512)
    assert judge.clears(100_000, 32, 512 + 31 * 2 - 1)
    assert not judge.clears(100_000, 32, 512 + 31 * 2), "all the others may be blanks"
    assert not judge.clears(100_000, 32, None)
    assert judge.clears(40, 1, None), "no text has that many tokens, however it is normalised"


def test_what_the_server_puts_around_a_text_counts() -> None:
    prompt = "title: none | text: "
    text = "!" * 230
    assert TruncationJudge(256, special_tokens=2, default_prompt="").suspects([text]).unsure == []
    assert TruncationJudge(256, special_tokens=2, default_prompt=prompt).suspects([text]).unsure == [0]
    assert TruncationJudge(256).suspects([text]).unsure == [0], "nobody knows what it puts around"


def test_characters_that_normalising_makes_more_of_are_no_reason_to_clear_a_text() -> None:
    judge = TruncationJudge(256, special_tokens=2, default_prompt="")
    assert judge.suspects(["\u00bd" * 100]).unsure == [0], "one half is three characters for some tokenizers"
    assert judge.suspects(["\ufdfa" * 20]).unsure == [0]
    assert judge.suspects(["\u00e9" * 50]).unsure == []


def test_more_words_than_tokens_are_a_proof_and_nothing_else_condemns() -> None:
    judge = TruncationJudge(256, special_tokens=2, default_prompt="")
    suspects = judge.suspects(["word " * 257, "word " * 256, "a" * 5000, "\u200b " * 500, "! " * 300])
    assert (suspects.cut, suspects.unsure) == ([0], [1, 2, 3, 4])


def test_a_count_that_fails_is_asked_for_again_and_the_estimate_is_the_last_resort() -> None:
    judge = TruncationJudge(64, special_tokens=2, default_prompt="")
    texts = ["a" * 300, "!" * 100]
    suspects = judge.suspects(texts)
    failed = Reply(failure=Failure(kind=FailureKind.LOST, detail="gone"))

    steps = find_truncated(texts, suspects, judge)
    assert isinstance(next(steps), Count)
    assert isinstance(steps.send(failed), Pause)
    assert isinstance(next(steps), Count)
    with pytest.raises(StopIteration) as end:
        steps.send(Reply(counts=[3, 102]))
    assert end.value.value == Truncation([1])

    never = find_truncated(texts, suspects, TruncationJudge(64, special_tokens=2, default_prompt=""))
    step, n_counts = next(never), 0
    with pytest.raises(StopIteration) as end:
        while True:
            n_counts += isinstance(step, Count)
            step = never.send(failed) if isinstance(step, Count) else next(never)
    assert n_counts == 5
    assert end.value.value == Truncation([0], n_estimated=2)


def real_tokenizer() -> Tokenizer:
    """The tokenizer of a small model, which never cuts here."""
    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@pytest.mark.slow
def test_no_flag_of_a_hundred_thousand_chunks_of_every_kind_is_wrong() -> None:
    """What the server would say of a batch, and its tokenizer of the unsure texts, comes from a real tokenizer."""
    tokenizer = real_tokenizer()
    judge = TruncationJudge(LIMIT, special_tokens=2, default_prompt="")
    n_cut = n_asked = n_batches_asked = 0
    for batch in batches_of(100_000):
        counts = [len(found.ids) for found in tokenizer.encode_batch_fast(batch)]
        truth = {number for number, count in enumerate(counts) if count > LIMIT}
        n_cut += len(truth)
        flagged: set[int] = set()
        body_bytes = len(orjson.dumps(batch))
        if not judge.clears(body_bytes, len(batch), sum(min(count, LIMIT) for count in counts)):
            suspects = judge.suspects(batch)
            n_asked += len(suspects.unsure)
            n_batches_asked += bool(suspects.unsure)
            flagged = {*suspects.cut, *(number for number in suspects.unsure if judge.is_cut(counts[number]))}
        assert flagged == truth, [batch[number] for number in flagged ^ truth]
    assert n_cut > 10_000
    assert n_asked > 10_000


@pytest.mark.seconds
def test_a_server_with_a_real_tokenizer_is_asked_and_no_flag_is_wrong() -> None:
    texts = [text for batch in batches_of(2_000) for text in batch]
    truth = {number for number, found in enumerate(real_tokenizer().encode_batch(texts)) if len(found.ids) > LIMIT}
    with StandinFleet(StandinConfig(ports=(0, 0), tokenizer="minilm", max_input_length=LIMIT)) as fleet:
        outcome = Harness(fleet.urls, texts).run()
    assert outcome.finished
    assert not outcome.quarantined
    assert truth
    assert outcome.truncated == truth


LIMIT = 64


def batches_of(n: int) -> Iterator[list[str]]:
    """Batches of tweets, code, JSON, markup, emoji, CJK and what is known to deceive an estimate; always the same."""
    rng = random.Random(5)
    files = sorted(Path(random.__file__).parent.glob("[a-m]*.py"))
    code = "\n".join(path.read_text(encoding="utf-8", errors="ignore") for path in files)
    tweet_texts = tweets.texts()
    odd = [
        "!" * 400, "<p>" * 120, "\U0001f60a" * 1000, "a" * 5000, "hello " * 62, "hello " * 63, "a " * 70, "0" * 150,
        "\u200b" * 900, "\u00bd" * 50, "\u1ed7 " * 50, "\uac01" * 22, "x" * 99 + " y" * 50, " " * 4000 + "x",
        "\x01" * 700 + "a", "!" * 62, "!" * 63, "=" * 100, "\u2028" * 99 + "a" * 61,
    ]  # fmt: skip
    emoji = ["\U0001f600", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f", " ", "ok "]

    def one(number: int) -> str:
        kind = number % 8
        if kind == 0:
            return odd[number // 8 % len(odd)]
        if kind == 1:
            at = rng.randrange(len(code) - 1000)
            return code[at : at + rng.randrange(20, 400)]
        if kind == 2:
            return json.dumps({f"k{rng.randrange(99)}": rng.random() for _ in range(rng.randrange(9))})
        if kind == 3:
            tags = rng.choices("pqb", k=rng.randrange(1, 12))
            return "".join(f"<{tag} id={rng.randrange(99)}>{tag}</{tag}>" for tag in tags)
        if kind == 4:
            return "".join(rng.choices(emoji, k=rng.randrange(1, 150)))
        if kind == 5:
            firsts = rng.choices((0x4E00, 0xAC00), k=rng.randrange(1, 90))
            return "".join(chr(first + rng.randrange(0x2000)) for first in firsts)
        return tweet_texts[number % len(tweet_texts)]

    for first in range(0, n, 32):
        yield [one(number) for number in range(first, first + 32)]


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
