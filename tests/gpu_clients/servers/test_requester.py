"""The core that runs and measurements share: submit, poll, decode, cancel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import orjson
import pytest

from bench.standin import StandinConfig, StandinFleet
from bench.standin.backends.vectors import text_rows
from gpu_clients.errors import FailureKind
from gpu_clients.http.address import Address
from gpu_clients.http.client import HttpClient
from gpu_clients.http.polling import Poller
from gpu_clients.server_facts import EmbedOptions, ServerFacts
from gpu_clients.servers.requester import Completion, Requester
from gpu_clients.servers.routes import choose_route
from gpu_clients.vectors.decode import AnswerForm

MODEL = "google/embeddinggemma-300m"


@contextmanager
def requester(config: StandinConfig, *, normalize: bool = True) -> Iterator[tuple[Requester, StandinFleet]]:
    """A requester for one stand-in server."""
    with StandinFleet(config) as fleet:
        poller = Poller()
        facts = ServerFacts(kind="tei", model_id=MODEL, auto_truncate=True, form=AnswerForm.BASE64.value)
        chosen = EmbedOptions(normalize=normalize)
        http = HttpClient(Address.parse(fleet.urls[0]), poller)
        made = Requester(http, choose_route(facts, chosen), dim=768, normalized=chosen.normalize)
        yield made, fleet
        made.abandon()
        poller.close()


def wait_for(made: Requester, n: int) -> list[Completion]:
    """The next `n` completions."""
    done: list[Completion] = []
    while len(done) < n:
        done += made.poll(1.0)
    return done


@pytest.mark.parametrize("normalize", [True, False])
def test_requests_in_flight_come_back_with_their_tags_vectors_and_facts(normalize: bool) -> None:
    with requester(StandinConfig(backend="sim"), normalize=normalize) as (made, _):
        batches = [[f"text {number} of {size}" for number in range(size)] for size in (1, 5, 32, 7)]
        for batch in batches:
            made.submit([orjson.dumps(batch)], len(batch), timeout_s=20.0, tag=len(batch))
        assert (made.in_flight, made.in_flight_texts) == (4, 45)
        for completion in wait_for(made, 4):
            batch = next(batch for batch in batches if len(batch) == completion.tag)
            out = np.empty((len(batch), 768), dtype=np.float32)
            times = completion.times()
            assert completion.failure is None
            assert completion.decode_into(out) == []
            completion.release()
            scale = 1.0 if normalize else 8.0
            np.testing.assert_allclose(out, scale * text_rows(MODEL, batch, 768), atol=1e-5)
            counted = sum((len(text) + 3) // 4 + 2 for text in batch)
            assert times.tokens == counted
            assert completion.tokens == (counted if normalize else None), "only the OpenAI route has them in its body"
            assert times.inference_s > 0
            assert completion.latency_s >= times.inference_s
            assert completion.bytes_in > len(batch) * 3072
            assert completion.status == 200
        assert (made.in_flight, made.in_flight_texts) == (0, 0)
        assert made.http.n_connected == 4


def test_a_failure_is_a_completion_with_its_kind() -> None:
    with requester(StandinConfig(backend="sim", faults=("status:code=429,retry_after=7",))) as (made, _):
        made.submit([b'["a"]'], 1, timeout_s=20.0)
        (completion,) = wait_for(made, 1)
        assert completion.failure is not None
        assert completion.failure.kind is FailureKind.OVERLOADED
        assert completion.failure.retry_after == "7"
        assert made.in_flight == 0


def test_a_cancelled_request_leaves_no_completion_and_no_count() -> None:
    with requester(StandinConfig(backend="sim", faults=("black_hole:at=request",))) as (made, fleet):
        exchange = made.submit([b'["a","b"]'], 2, timeout_s=20.0)
        while fleet.control(fleet.ports[0])["embed_requests"] < 1:
            made.poll(0.01)
        made.cancel(exchange)
        made.cancel(exchange)
        assert (made.in_flight, made.in_flight_texts) == (0, 0)
        assert made.poll(0.05) == []


def test_texts_may_be_given_in_parts_without_being_copied() -> None:
    with requester(StandinConfig(backend="sim")) as (made, _):
        slot = bytearray(b'xx["one","two"]yy')
        view = memoryview(slot)
        made.submit([view[2:8], view[8:-2]], 2, timeout_s=20.0)
        (completion,) = wait_for(made, 1)
        out = np.empty((2, 768), dtype=np.float32)
        assert completion.decode_into(out) == []
        completion.release()
        np.testing.assert_allclose(out, text_rows(MODEL, ["one", "two"], 768), atol=1e-6)
