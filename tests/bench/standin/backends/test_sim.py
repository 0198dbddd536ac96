"""The modelled GPU: batches, times and capacity are what the model says, offline and over sockets."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests

from bench.standin import GpuConfig, StandinConfig, StandinFleet, predict
from bench.standin.backends import tokens
from bench.standin.backends.capacity import capacity
from bench.standin.backends.gpu_model import GpuModel, Ticket
from bench.standin.backends.vectors import numbered_rows, of_another_model, shaped, text_rows
from engine.errors import ConfigError
from tests.bench.standin.client import base64_rows, embed64


def model(*, padded: bool, limit: int = 100, **more: float | int | None) -> GpuModel:
    gpu = GpuConfig(tokens_per_s=100, fixed_overhead_s=0.5, padded=padded, tokenizer_tokens_per_s=0)
    most = more.get("max_batch_requests")
    return GpuModel(
        gpu,
        max_batch_tokens=limit,
        max_batch_requests=None if most is None else int(most),
        speed=more.get("speed") or 1,
    )


def finish(gpu: GpuModel) -> list[Ticket]:
    done: list[Ticket] = []
    while (event_s := gpu.next_event_s()) is not None:
        done += gpu.advance(event_s)
    return done


# -- the cut rule and the clock ---------------------------------------------------------------------------


def test_an_unpadded_batch_ends_before_the_sum_exceeds_the_limit() -> None:
    gpu = model(padded=False)
    gpu.submit(Ticket(None, 5, 0.0), [10, 60, 30, 50, 51])
    finish(gpu)
    # 10 + 60 + 30 = 100 fits exactly; 50 + 51 does not
    assert gpu.batch_sizes == [3, 1, 1]
    assert gpu.totals.padded_tokens == gpu.totals.real_tokens == 201
    assert gpu.totals.busy_s == pytest.approx(3 * 0.5 + 201 / 100)


def test_a_padded_batch_costs_longest_times_count_and_never_looks_past_what_does_not_fit() -> None:
    gpu = model(padded=True)
    gpu.submit(Ticket(None, 6, 0.0), [10, 20, 20, 40, 1, 1])
    finish(gpu)
    # 3 x 20 = 60; a fourth of 40 would make 160. Then 40, 1 (80); a third would make 120. Then 1.
    assert gpu.batch_sizes == [3, 2, 1]
    assert gpu.totals.padded_tokens == 60 + 80 + 1
    assert gpu.totals.real_tokens == 92
    assert gpu.totals.busy_s == pytest.approx(3 * 0.5 + 141 / 100)


def test_max_batch_requests_bounds_a_batch_and_speed_divides_its_time() -> None:
    gpu = model(padded=False, max_batch_requests=2, speed=4.0)
    gpu.submit(Ticket(None, 5, 0.0), [1] * 5)
    finish(gpu)
    assert gpu.batch_sizes == [2, 2, 1]
    assert gpu.totals.busy_s == pytest.approx((3 * 0.5 + 5 / 100) / 4)


def test_one_batch_is_cut_ahead_and_later_inputs_miss_it() -> None:
    gpu = model(padded=False)
    first, second, third, fourth = (
        Ticket(name, 1, at_s) for name, at_s in (("a", 0.0), ("b", 0.1), ("c", 0.2), ("d", 0.3))
    )
    for ticket in (first, second, third, fourth):
        gpu.advance(ticket.arrived_s)
        gpu.submit(ticket, [10])
    done = finish(gpu)
    # a runs at once, b alone is prefetched behind it, c and d share the next batch
    assert gpu.batch_sizes == [1, 1, 2]
    assert [ticket.owner for ticket in done] == ["a", "b", "c", "d"]
    assert [ticket.done_s for ticket in done] == pytest.approx([0.6, 1.2, 1.9, 1.9])
    assert third.queue_sum_s == pytest.approx(1.2 - 0.2)
    assert third.inference_sum_s == pytest.approx(0.7)


def test_a_request_is_done_with_its_slowest_input_and_late_calls_cost_no_time() -> None:
    on_time, late = model(padded=False), model(padded=False)
    for gpu in (on_time, late):
        gpu.submit(Ticket(None, 30, 0.0), [50] * 30)
    ends_s = [ticket.done_s for ticket in finish(on_time)]
    assert ends_s == pytest.approx([15 * 1.5])
    # called once, long after: everything happened on time in the model
    assert [ticket.done_s for ticket in late.advance(1_000.0)] == pytest.approx(ends_s)


def test_inputs_of_a_client_that_has_gone_are_skipped_at_the_cut() -> None:
    gpu = model(padded=False)
    staying, leaving = Ticket("stays", 4, 0.0), Ticket("leaves", 4, 0.0)
    gpu.submit(leaving, [50] * 4)
    gpu.submit(staying, [50] * 4)
    gpu.advance(0.0)
    leaving.abandon()
    # its first batch was running and its second one cut already
    assert [ticket.owner for ticket in finish(gpu)] == ["leaves", "stays"]
    assert (gpu.totals.inputs, gpu.totals.dropped) == (8, 0)
    gone = Ticket("gone", 6, 100.0)
    gpu.submit(gone, [50] * 6)
    gpu.advance(100.0)
    gone.abandon()
    finish(gpu)
    assert gpu.totals.dropped == 2


def test_the_tokenizer_stage_makes_inputs_ready_one_after_the_other() -> None:
    gpu = GpuModel(
        GpuConfig(tokens_per_s=1e6, fixed_overhead_s=0.0, padded=False, tokenizer_tokens_per_s=10),
        max_batch_tokens=100,
    )
    gpu.submit(Ticket(None, 3, 0.0), [10, 10, 10])
    done = finish(gpu)
    assert gpu.batch_sizes == [1, 1, 1]
    assert done[0].done_s == pytest.approx(3.0, abs=1e-3)
    assert done[0].tokenization_sum_s == pytest.approx(1 + 2 + 3)


# -- capacity ---------------------------------------------------------------------------------------------


def mixed_texts(n_texts: int, seed: int = 1) -> list[str]:
    draw = random.Random(seed)
    return ["x" * draw.choice((20, 60, 200, 600)) for _ in range(n_texts)]


def test_capacity_of_equal_texts_is_the_closed_formula() -> None:
    config = StandinConfig(max_batch_tokens=1_000, gpu=GpuConfig(tokens_per_s=10_000, fixed_overhead_s=0.01))
    texts = ["x" * 32] * 1_000  # 10 tokens each: batches of 100 take 0.01 + 0.1 s
    for padded in (True, False):
        found = capacity(texts, config, padded=padded)
        assert found.texts_per_s == pytest.approx(100 / 0.11)
        assert found.padding_ratio == 1.0
        assert found.batches == 10
    assert capacity(texts, config, speed=4).texts_per_s == pytest.approx(400 / 0.11)


def test_sorting_pays_for_a_padded_model_and_not_for_another() -> None:
    config = StandinConfig(max_batch_tokens=4_096)
    texts = mixed_texts(4_000)
    given, ordered = (capacity(texts, config, order=order) for order in ("given", "sorted"))
    assert ordered.texts_per_s > 1.5 * given.texts_per_s
    assert ordered.padding_ratio < 1.1 < given.padding_ratio
    flat = [capacity(texts, config, order=order, padded=False) for order in ("given", "sorted")]
    assert flat[0].padding_ratio == flat[1].padding_ratio == 1.0
    assert flat[0].texts_per_s == pytest.approx(flat[1].texts_per_s, rel=0.05)


def test_a_slow_tokenizer_is_the_capacity() -> None:
    gpu = GpuConfig(tokens_per_s=1e9, fixed_overhead_s=0.0, tokenizer_tokens_per_s=1_000)
    assert capacity(["x" * 32] * 100, StandinConfig(gpu=gpu)).texts_per_s == pytest.approx(100)


def test_truncation_bounds_what_a_text_costs() -> None:
    config = StandinConfig(max_input_length=10, gpu=GpuConfig(fixed_overhead_s=0.0))
    assert capacity(["x" * 10_000] * 50, config).tokens_per_s == pytest.approx(config.gpu.tokens_per_s)
    assert capacity(["x" * 10_000], config).texts_per_s == pytest.approx(config.gpu.tokens_per_s / 10)


def test_a_predicted_closed_loop_rises_to_the_capacity_and_then_obeys_littles_law() -> None:
    config = StandinConfig(
        max_batch_tokens=2_048,
        gpu=GpuConfig(tokens_per_s=20_000, fixed_overhead_s=0.05, tokenizer_tokens_per_s=0),
    )
    texts = ["x" * 100] * 12_800
    ceiling = capacity(texts, config).texts_per_s
    points = [predict(texts, config, batch_size=32, in_flight=n) for n in (1, 2, 4, 8, 16)]
    rates = [point.texts_per_s for point in points]
    assert rates[0] < 0.9 * ceiling
    assert rates[-1] == pytest.approx(ceiling, rel=0.03)
    assert points[-1].p50_s == pytest.approx(16 * 32 / rates[-1], rel=0.1)
    assert points[0].p95_s < points[-1].p95_s
    waiting = predict(texts, config, batch_size=32, in_flight=1, overhead_s=0.05)
    assert waiting.texts_per_s < rates[0]


def test_a_loop_that_needs_more_permits_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="permits"):
        predict(["x"], StandinConfig(), batch_size=32, in_flight=17)
    with pytest.raises(ConfigError, match="at least one text"):
        capacity([], StandinConfig())


@pytest.mark.seconds
@pytest.mark.parametrize("padded", [True, False])
def test_a_live_server_under_load_spends_what_the_model_says_and_no_capacity_is_lost(padded: bool) -> None:
    config = StandinConfig(
        backend="sim",
        dim=32,
        ports=(0, 0),
        speeds=(1.0, 4.0),
        max_batch_tokens=2_048,
        gpu=GpuConfig(tokens_per_s=150_000, fixed_overhead_s=0.002, padded=padded),
    )
    texts = mixed_texts(1_600)
    batches = [texts[at : at + 32] for at in range(0, len(texts), 32)]
    local = threading.local()

    with StandinFleet(config) as fleet:

        def ask(url: str, batch: list[str]) -> None:
            session = local.__dict__.setdefault("session", requests.Session())
            body = {"input": batch, "encoding_format": "base64"}
            assert session.post(url + "/v1/embeddings", json=body, timeout=60).status_code == 200

        for url in fleet.urls:
            with ThreadPoolExecutor(12) as pool:
                list(pool.map(lambda batch, to=url: ask(to, batch), batches))
        reports = [report["backend"] for report in fleet.reports()]

    real_tokens = sum(tokens.n_tokens(text) for text in texts)
    for backend, speed in zip(reports, config.speeds, strict=True):
        assert backend["standin_inputs_total"] == len(texts)
        assert backend["standin_real_tokens_total"] == real_tokens
        spent_s = backend["standin_batches_total"] * 0.002 + backend["standin_padded_tokens_total"] / 150_000
        assert backend["standin_busy_seconds_total"] == pytest.approx(spent_s / speed)
        assert (backend["standin_padded_tokens_total"] > real_tokens) == padded
    # with 12 requests in flight the queue never ran dry, so GPU time is near that of an endless queue
    expected = capacity(texts, config)
    assert reports[0]["standin_busy_seconds_total"] == pytest.approx(expected.gpu_s, rel=0.15)


# -- vectors ----------------------------------------------------------------------------------------------


def test_made_up_vectors_are_unit_alike_in_any_batch_and_unlike_each_other() -> None:
    texts = [f"text {number}" for number in range(500)]
    rows = text_rows("model", texts, 768)
    assert (rows.dtype, rows.shape) == (np.dtype("float32"), (500, 768))
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)
    for number in (0, 17, 499):
        assert np.array_equal(text_rows("model", [texts[number]], 768)[0], rows[number])
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, 0.0)
    assert np.abs(cosines).max() < 0.25
    assert np.abs(np.einsum("ij,ij->i", rows, text_rows("other", texts, 768))).max() < 0.25


def test_numbered_rows_keep_their_beginning_and_shaping_keeps_directions() -> None:
    assert np.array_equal(numbered_rows("m", 10, 64), numbered_rows("m", 40, 64)[:10])
    rows = numbered_rows("m", 4, 65)
    assert np.allclose(shaped(rows * 3, None, True), rows, atol=1e-6)
    assert np.isnan(shaped(rows * 0, None, True)).all()
    assert np.allclose(np.linalg.norm(of_another_model(rows), axis=1), 1.0, atol=1e-6)


def test_texts_with_any_character_have_a_vector() -> None:
    assert len({row.tobytes() for row in text_rows("m", ["a\0b", "ab", "\u05d0\u05d1", "\U0001f600", "a"], 8)}) == 5


# -- the token rule ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "expected"), [("", 2), ("a", 3), ("abcd", 3), ("abcde", 4)])
def test_a_token_is_four_characters_begun_plus_two(text: str, expected: int) -> None:
    assert tokens.n_tokens(text) == expected == len(tokens.tokenize(text, add_special_tokens=True))


def test_cutting_counts_exactly_the_limit_and_keeps_the_prompt_on_the_left() -> None:
    assert tokens.cut("x" * 100, 10, left=False) == "x" * 32
    assert tokens.n_tokens(tokens.cut("x" * 100, 10, left=True)) == 10
    assert tokens.cut("P: " + "x" * 50 + "end", 4, left=True, prompt_chars=3) == "P: xxend"
    assert tokens.cut("short", 10, left=True) == "short"


def test_one_server_gives_the_same_answer_alone_and_in_a_batch() -> None:
    with StandinFleet(StandinConfig(backend="sim", gpu=GpuConfig(tokens_per_s=1e7))) as fleet:
        batch = base64_rows(embed64(fleet.urls[0], ["a", "b", "c"]))
        alone = base64_rows(embed64(fleet.urls[0], ["b"]))
    assert np.array_equal(batch[1], alone[0])
