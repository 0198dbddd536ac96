"""What a `sim` server can do, computed from its model: the truth that measurements are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.standin.backends import tokens
from bench.standin.backends.gpu_model import GpuModel, Ticket
from bench.standin.config import GpuConfig, StandinConfig
from engine.errors import ConfigError

Order = Literal["given", "sorted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Steady state of one server whose queue never runs dry."""

    texts_per_s: float
    tokens_per_s: float  # real tokens, padding not counted
    padding_ratio: float  # padded tokens / real tokens, 1.0 without padding
    batches: int
    gpu_s: float  # GPU time for all the texts
    tokenizer_s: float  # tokenizer time for all the texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A closed loop of a fixed number of requests in flight, run through the model."""

    texts_per_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    padding_ratio: float


def token_counts(texts: Sequence[str], config: StandinConfig) -> list[int]:
    """Return the tokens of each text as the server counts them, after truncation."""
    limit = max_input_tokens(config)
    return [min(tokens.n_tokens(text), limit) for text in texts]


def max_input_tokens(config: StandinConfig) -> int:
    """Return the effective max_input_length: never above max_batch_tokens."""
    return min(config.max_input_length or DEFAULT_MAX_INPUT_LENGTH, config.max_batch_tokens)


#: What `canned` and `sim` servers have unless told otherwise.
DEFAULT_MAX_INPUT_LENGTH = 2_048


def capacity(
    texts: Sequence[str],
    config: StandinConfig,
    *,
    order: Order = "given",
    padded: bool | None = None,
    speed: float = 1.0,
) -> Capacity:
    """Return what one server of `config` reaches on `texts` while its queue is never empty.

    `order="sorted"` is the oracle: all texts by their number of tokens. `padded=None` takes the configuration's.
    Sum over the ports with their speeds for a fleet.

    Raises:
        ConfigError: `texts` is empty.
    """
    if not texts:
        raise ConfigError("capacity needs at least one text, got none.")
    counts = token_counts(texts, config)
    if order == "sorted":
        counts.sort()
    # without the tokenizer all inputs are ready at 0, so the GPU never waits
    model = _model(config, padded=padded, speed=speed, tokenizer_tokens_per_s=0.0)
    model.submit(Ticket(None, len(counts), 0.0), counts)
    while (event_s := model.next_event_s()) is not None:
        model.advance(event_s)
    totals = model.totals
    rate = config.gpu.tokenizer_tokens_per_s
    tokenizer_s = sum(counts) / rate if rate else 0.0
    # the stages overlap: the slower one decides
    took_s = max(totals.busy_s, tokenizer_s)
    return Capacity(
        texts_per_s=len(counts) / took_s,
        tokens_per_s=totals.real_tokens / took_s,
        padding_ratio=totals.padded_tokens / totals.real_tokens,
        batches=totals.batches,
        gpu_s=totals.busy_s,
        tokenizer_s=tokenizer_s,
    )


def predict(
    texts: Sequence[str],
    config: StandinConfig,
    *,
    batch_size: int,
    in_flight: int,
    padded: bool | None = None,
    speed: float = 1.0,
    overhead_s: float = 0.0,
) -> Prediction:
    """Run a closed loop of `in_flight` requests of `batch_size` texts through the model, in virtual time.

    `overhead_s` is what network and client add to each request. The first and last fifth of the requests are
    left out of the figures.

    Raises:
        ConfigError: no texts, or more inputs in flight than the server has permits.
    """
    if not texts:
        raise ConfigError("predict needs at least one text, got none.")
    if batch_size * in_flight > config.max_concurrent_requests:
        raise ConfigError(
            f"{in_flight} requests of {batch_size} need {batch_size * in_flight} permits, "
            f"expected at most max_concurrent_requests = {config.max_concurrent_requests}."
        )
    counts = token_counts(texts, config)
    batches = [counts[at : at + batch_size] for at in range(0, len(counts), batch_size)]
    model = _model(config, padded=padded, speed=speed, tokenizer_tokens_per_s=config.gpu.tokenizer_tokens_per_s)
    waiting = iter(batches)
    done: list[Ticket] = []
    due: list[tuple[float, list[int]]] = [(0.0, batch) for _, batch in zip(range(in_flight), waiting, strict=False)]
    while due or model.next_event_s() is not None:
        event_s = model.next_event_s()
        if due and (event_s is None or due[0][0] <= event_s):
            arrived_s, batch = due.pop(0)
            model.submit(Ticket(None, len(batch), arrived_s), batch)
            continue
        for ticket in model.advance(event_s or 0.0):
            done.append(ticket)
            following = next(waiting, None)
            if following is not None:
                due.append((ticket.done_s + overhead_s, following))
    return _summary(done, model, overhead_s)


def _model(config: StandinConfig, *, padded: bool | None, speed: float, tokenizer_tokens_per_s: float) -> GpuModel:
    gpu = GpuConfig(
        tokens_per_s=config.gpu.tokens_per_s,
        fixed_overhead_s=config.gpu.fixed_overhead_s,
        padded=config.gpu.padded if padded is None else padded,
        tokenizer_tokens_per_s=tokenizer_tokens_per_s,
    )
    return GpuModel(
        gpu,
        max_batch_tokens=config.max_batch_tokens,
        max_batch_requests=config.max_batch_requests,
        speed=speed,
        slow_factor=config.slow_factor,
    )


def _summary(done: list[Ticket], model: GpuModel, overhead_s: float) -> Prediction:
    edge = len(done) // 5
    steady = done[edge : len(done) - edge]
    latencies = sorted(ticket.done_s - ticket.arrived_s + overhead_s for ticket in steady)
    began_s = done[edge - 1].done_s if edge else 0.0
    span_s = steady[-1].done_s - began_s

    def percentile(share: float) -> float:
        return latencies[min(len(latencies) - 1, int(share * len(latencies)))]

    return Prediction(
        texts_per_s=sum(ticket.n_inputs for ticket in steady) / span_s,
        p50_s=percentile(0.50),
        p95_s=percentile(0.95),
        p99_s=percentile(0.99),
        padding_ratio=model.totals.padded_tokens / model.totals.real_tokens,
    )
