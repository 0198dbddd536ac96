"""The verdict: what limits is what the model makes limit, and what is promised of a flag comes true in the model."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from bench.measure.load.modelled_load import truth
from bench.standin import GpuConfig, StandinConfig
from bench.tuner.explain.bottleneck import Limit, limit_of
from bench.tuner.explain.verdict import Verdict, judge
from bench.tuner.measure.statistics import Rate
from bench.tuner.measure.visit import Point, ServerSplit, StopReason, Visit
from bench.tuner.search.findings import Findings
from bench.tuner.search.record import Record
from bench.tuner.texts.corpus import Order
from tests.bench.tuner.modelled import FLEETS, corpus, limits_of, measured_servers, search, searched


def verdict_on(name: str, target_p95_s: float | None = None) -> Verdict:
    """The verdict of a search on a modelled fleet."""
    return judge(searched(name, target_p95_s, 1).findings, measured_servers(FLEETS[name]), target_p95_s)


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("name", "target", "limit"),
    [
        ("one", None, Limit.INFERENCE),
        ("four unlike that pad", None, Limit.INFERENCE),
        ("slow tokenizer", None, Limit.TOKENISER),
        ("few permits", None, Limit.PERMITS),
        ("one", 0.06, Limit.TARGET),
    ],
)
def test_the_limit_that_is_named_is_the_one_of_the_model(name: str, target: float | None, limit: Limit) -> None:
    """From the servers' own account of their time."""
    verdict = verdict_on(name, target)

    assert verdict.limit is limit
    assert any(sentence.startswith("Limit: ") for sentence in verdict.sentences)


def true_rate(config: StandinConfig, size: int, concurrency: int) -> float:
    """Documents a second by the model."""
    return truth(corpus(), config, size, concurrency, order=Order.NATURAL, n_cycles=1)[0]


def test_what_is_promised_of_more_batch_tokens_comes_true() -> None:
    """Within a few percent, read off the line through the GPU batches of all points."""
    config = dataclasses.replace(
        FLEETS["one"],
        max_batch_tokens=2048,
        gpu=GpuConfig(tokens_per_s=60_000, fixed_overhead_s=0.02, padded=False),
    )
    found = search(config)
    assert found.findings.chosen is not None
    point = found.findings.chosen.point

    verdict = judge(found.findings, measured_servers(config), None)

    (advice,) = [advice for advice in verdict.advice if advice.flag == "--max-batch-tokens"]
    assert advice.value == 4096
    before = true_rate(config, point.batch_size, point.concurrency)
    after = true_rate(dataclasses.replace(config, max_batch_tokens=4096), point.batch_size, point.concurrency)
    assert advice.gain == pytest.approx(after / before - 1, abs=0.06)


def test_what_is_promised_of_more_permits_comes_true() -> None:
    """Continued from the last points that the permits allowed."""
    config = FLEETS["few permits"]
    verdict = verdict_on("few permits")

    (advice,) = [advice for advice in verdict.advice if advice.flag == "--max-concurrent-requests"]
    assert advice.value == 128
    chosen = searched("few permits", None, 1).findings.chosen
    assert chosen is not None
    before = true_rate(config, chosen.point.batch_size, chosen.point.concurrency)
    doubled = dataclasses.replace(config, max_concurrent_requests=128)
    after = true_rate(doubled, chosen.point.batch_size, 2 * chosen.point.concurrency)
    assert advice.gain == pytest.approx(after / before - 1, abs=0.06)


def test_what_is_promised_of_more_tokenizers_is_not_more_than_what_comes() -> None:
    """At most twice, and at most what the GPU does alone."""
    config = FLEETS["slow tokenizer"]
    verdict = verdict_on("slow tokenizer")

    (advice,) = [advice for advice in verdict.advice if advice.flag == "--tokenization-workers"]
    assert advice.value == 2
    doubled = dataclasses.replace(config, gpu=dataclasses.replace(config.gpu, tokenizer_tokens_per_s=100_000))
    gain = true_rate(doubled, 32, 4) / true_rate(config, 32, 4) - 1
    assert advice.gain == pytest.approx(gain, abs=0.1)


@pytest.mark.seconds
def test_unlike_servers_get_no_advice_that_holds_for_like_ones_only() -> None:
    """A mean over servers of different speed says nothing about a GPU batch of any of them."""
    assert not [a for a in verdict_on("four unlike").advice if a.flag == "--max-batch-tokens"]


@pytest.mark.seconds
def test_the_verdict_names_knee_choice_headroom_and_floor() -> None:
    """In words."""
    text = "\n".join(verdict_on("one", 0.5).sentences)

    assert "Chosen: batch size" in text
    assert "under the target of 0.5 s" in text
    assert "of the 512 texts that a server admits are in flight" in text
    assert "Knee: batch size" in text
    assert "Latency floor, batch size 8 x concurrency 1" in text
    assert "Bucketing: off" in text


def test_an_impossible_target_is_answered_with_the_change_that_is_needed() -> None:
    """A smaller request when that would do, else a faster server or a looser target."""
    config = FLEETS["one"]
    only_large = limits_of(config, (32, 64))
    found = search(config, 0.025, limits=only_large)
    smaller = judge(found.findings, measured_servers(config, only_large), 0.025)
    nothing = judge(search(config, 0.002).findings, measured_servers(config), 0.002)

    assert found.findings.chosen is None
    assert "No operating point holds p95 <= 0.025 s." in smaller.sentences
    (needed,) = [sentence for sentence in smaller.sentences if sentence.startswith("Needed: ")]
    size = int(needed.rpartition("--batch-sizes ")[2].rstrip("."))
    assert 1 <= size < 32
    # and it does hold there
    assert truth(corpus(), config, size, 1, order=Order.NATURAL, n_cycles=1)[1] <= 0.025
    assert any("times as fast" in sentence and "a target of at least" in sentence for sentence in nothing.sentences)


def record(point: Point, per_s: float, split: ServerSplit, *, cpu: float = 0.1, latency_s: float = 1.0) -> Record:
    """A record of one made-up visit."""
    visit = Visit(
        point=point,
        stop_reason=StopReason.SETTLED,
        rate=Rate(per_s=per_s, half_width=per_s / 100),
        coverage=1.0,
        latencies_s=np.full(50, latency_s),
        characters=np.full(50, 3200.0),
        servers=np.zeros(50, dtype=np.int64),
        n_texts=1600,
        n_tokens=40_000,
        n_counted_characters=160_000,
        errors=Counter(),
        steady_s=10.0,
        total_s=12.0,
        client_cpu=cpu,
        split=split,
        texts_by_server=(1600,),
        order=Order.NATURAL,
    )
    return Record(point, [visit])


@pytest.mark.parametrize(
    ("split", "cpu", "limit"),
    [
        (ServerSplit(tokenization_s=0.0, queue_s=0.6, inference_s=0.3), 0.95, Limit.CLIENT),
        (ServerSplit(tokenization_s=0.01, queue_s=0.02, inference_s=0.2), 0.1, Limit.NETWORK),
        (ServerSplit(tokenization_s=0.0, queue_s=0.0, inference_s=0.0), 0.1, Limit.UNKNOWN),
        (ServerSplit(tokenization_s=0.3, queue_s=0.1, inference_s=0.2), 0.1, Limit.TOKENISER),
    ],
)
def test_client_network_and_silence_are_told_apart(split: ServerSplit, cpu: float, limit: Limit) -> None:
    """By CPU time, by what the servers do not account for, by what they do not say."""
    config = FLEETS["one"]
    subject = record(Point(32, 4), 1000.0, split, cpu=cpu)
    findings = Findings(records={subject.point: subject}, chosen=subject, characters_per_text=100.0, ended=True)

    assert limit_of(subject, findings, measured_servers(config), None) is limit
    assert judge(findings, measured_servers(config), None).limit is limit


SILENT = ServerSplit(tokenization_s=0.0, queue_s=0.0, inference_s=0.0)
TOKENISING = ServerSplit(tokenization_s=0.3, queue_s=0.1, inference_s=0.2)


@pytest.mark.parametrize("split", [SILENT, TOKENISING], ids=["silent", "tokenising"])
@pytest.mark.parametrize(
    ("rates", "limit_is_target"),
    [((800.0, 1000.0, 1300.0), True), ((800.0, 1000.0, 900.0), True), ((1000.0, 1010.0, 1010.0), False)],
    ids=["more beyond", "left early", "flat"],
)
def test_the_target_is_named_where_it_is_the_limit(
    split: ServerSplit, rates: tuple[float, ...], limit_is_target: bool
) -> None:
    """Whatever else the servers say of their time, or do not say; where more in flight brings nothing, it is not."""
    records = [
        record(Point(32, concurrency), rate, split, latency_s=latency_s)
        for concurrency, rate, latency_s in zip((1, 2, 4), rates, (0.1, 0.2, 0.5), strict=True)
    ]
    findings = Findings(
        records={one.point: one for one in records}, chosen=records[1], characters_per_text=100.0, ended=True
    )

    limit = limit_of(records[1], findings, measured_servers(FLEETS["one"]), 0.3)

    assert (limit is Limit.TARGET) == limit_is_target


def test_before_the_end_nothing_is_called_chosen_or_impossible() -> None:
    """An interruption leaves the best so far."""
    subject = record(Point(8, 1), 100.0, ServerSplit(tokenization_s=0.0, queue_s=0.1, inference_s=0.5))
    findings = Findings(records={subject.point: subject}, characters_per_text=100.0)

    verdict = judge(findings, measured_servers(FLEETS["one"]), 0.5)

    assert verdict.sentences[0].startswith("Stopped before the end, nothing is chosen; the best so far is batch size 8")
    assert judge(Findings(), measured_servers(FLEETS["one"]), None).sentences == ("nothing was measured",)
