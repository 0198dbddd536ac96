"""The texts of a measurement: in a run's order, without a jump, and wherever one stops a fair sample."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import orjson
import pytest

from bench.tuner.texts.corpus import MAX_REQUEST_BYTES, Corpus, Order
from engine.errors import ConfigError


def texts(count: int, seed: int = 1) -> list[str]:
    """Texts of very different lengths, each different."""
    draw = random.Random(seed)
    return [f"{number:06d}" + "x" * draw.choice((1, 20, 100, 900)) for number in range(count)]


def cycle_texts(corpus: Corpus, batch_size: int, order: Order) -> list[list[str]]:
    """The texts of each request of a cycle over the whole corpus."""
    cycle = corpus.cycle(batch_size, corpus.n_texts, order, random.Random(3))
    return [orjson.loads(request.body) for request in cycle.requests]


@pytest.mark.parametrize("order", list(Order))
def test_a_cycle_over_the_corpus_holds_every_text_once_in_full_requests(order: Order) -> None:
    """Whatever the order."""
    given = texts(640)

    requests = cycle_texts(Corpus(given), 32, order)

    assert Counter(text for request in requests for text in request) == Counter(given)
    assert {len(request) for request in requests} == {32}


def test_sorted_neighbours_are_alike_everywhere_also_where_the_cycle_closes() -> None:
    """No jump from short to long: it would make a GPU batch that no run sends."""
    corpus = Corpus(["x" * length for length in range(1, 1601)])
    means = [float(np.mean([len(text) for text in request])) for request in cycle_texts(corpus, 16, Order.SORTED)]

    jumps = [abs(after - before) for before, after in pairwise([*means, means[0]])]

    assert max(jumps) <= 2 * 2 * 16  # every other text of two neighbouring requests
    assert means[0] > means[len(means) // 4] > means[len(means) // 2] < means[-len(means) // 4] < means[-1]


@pytest.mark.parametrize("order", [Order.SPREAD, Order.NATURAL])
def test_any_stretch_of_an_unsorted_cycle_is_a_fair_sample(order: Order) -> None:
    """So that a measurement may stop anywhere."""
    corpus = Corpus(["x" * length for length in range(1, 4001)])
    requests = cycle_texts(corpus, 8, order)

    for start in range(0, len(requests) - 60, 37):
        lengths = [len(text) for request in requests[start : start + 60] for text in request]
        assert np.mean(lengths) == pytest.approx(2000, rel=0.12)


def test_spread_requests_hold_texts_of_like_length() -> None:
    """What a server that pads is quick with."""
    corpus = Corpus(["x" * length for length in range(1, 4001)])

    spreads = [max(map(len, r)) - min(map(len, r)) for r in cycle_texts(corpus, 8, Order.SPREAD)]
    mixed = [max(map(len, r)) - min(map(len, r)) for r in cycle_texts(corpus, 8, Order.NATURAL)]

    assert max(spreads) <= 16
    assert np.mean(mixed) > 1000


def test_a_smaller_cycle_has_the_corpus_lengths_and_a_larger_one_repeats_texts() -> None:
    """The distribution stays."""
    corpus = Corpus(texts(3000))
    small = corpus.cycle(16, 800, Order.SORTED, random.Random(1))
    large = corpus.cycle(16, 6000, Order.SORTED, random.Random(1))

    for cycle in (small, large):
        assert cycle.n_characters / cycle.n_texts == pytest.approx(float(corpus.lengths.mean()), rel=0.02)
    assert large.n_texts == 6000


def test_a_sorted_cycle_is_begun_so_early_that_the_longest_texts_come_after_the_warm_up() -> None:
    """Then half a cycle from the end of the warm-up holds every length."""
    cycle = Corpus(texts(640)).cycle(32, 640, Order.SORTED, random.Random(1))
    longest = max(range(len(cycle.requests)), key=lambda at: cycle.requests[at].n_characters)

    assert (cycle.first_request(6) + 6) % len(cycle.requests) == 0
    assert longest == 0


def test_a_request_is_cut_before_it_is_larger_than_a_runs_slot() -> None:
    """However few texts it then has."""
    corpus = Corpus(["y" * 200_000 for _ in range(12)])

    cycle = corpus.cycle(8, 12, Order.SORTED, random.Random(1))

    assert all(len(request.body) <= MAX_REQUEST_BYTES for request in cycle.requests)
    assert max(request.n_texts for request in cycle.requests) == 2


def test_texts_that_a_run_would_quarantine_are_left_out_and_counted() -> None:
    """Empty ones, blank ones, lone surrogates."""
    corpus = Corpus(["good", "", "  \n", "\ud800", "also good"], prompt="title: ")

    assert corpus.n_texts == 2
    assert corpus.n_unusable == 3
    assert orjson.loads(b"[" + b",".join(corpus.sample(2)) + b"]") == ["title: good", "title: also good"]


def test_a_text_is_cut_where_a_run_cuts_it() -> None:
    """Prompt included."""
    corpus = Corpus(["x" * 100, "short"], prompt="p:", max_characters=10)

    assert corpus.n_cut == 1
    assert corpus.lengths.tolist() == [7, 10]


@pytest.mark.parametrize(
    ("given", "message"), [([], "no texts to measure with"), (["", " "], "none of the 2 texts can be embedded")]
)
def test_without_a_usable_text_there_is_one_clear_sentence(given: list[str], message: str) -> None:
    """And nothing is measured."""
    with pytest.raises(ConfigError, match=message):
        Corpus(given)


def test_the_denser_the_texts_must_be_the_longer_the_cycle() -> None:
    """Larger GPU batches spread over more of a sparse cycle, so they need a denser one."""
    corpus = Corpus(texts(8000))

    small, large = (corpus.texts_for_density(characters) for characters in (8_000, 64_000))

    assert small < large <= 2 * 8000
