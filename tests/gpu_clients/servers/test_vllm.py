"""vLLM: recognised by what it says of itself, asked for raw bytes, and checked as strictly as any other server."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from bench.standin import Dialect, StandinConfig, StandinFleet
from bench.standin.backends.vectors import text_rows
from gpu_clients.errors import FailureKind
from gpu_clients.http.address import Address
from gpu_clients.http.answers import BadAnswer
from gpu_clients.http.client import HttpClient
from gpu_clients.http.polling import Poller
from gpu_clients.server_facts import EmbedOptions, ServerFacts
from gpu_clients.servers.doctor import examine
from gpu_clients.servers.requester import Requester
from gpu_clients.servers.routes import choose_route
from gpu_clients.settings import ClientSettings
from gpu_clients.vectors.decode import AnswerForm, VectorDecoder
from tests.conftest import outlives_tests
from tests.gpu_clients.harness import Harness
from tests.gpu_clients.servers.served import served
from tests.parts.manners import MODEL, Manners, serving

CONFIG = StandinConfig(backend="sim", dialect=Dialect.VLLM, ports=(0, 0), max_input_length=512)
TEXTS = [f"text number {number}" for number in range(300)]


@pytest.fixture(scope="module")
def shared_vllms() -> Iterator[StandinFleet]:
    """Two vLLMs for all."""
    with StandinFleet(CONFIG) as fleet, outlives_tests(fleet.pid):
        yield fleet


@pytest.fixture
def vllms(shared_vllms: StandinFleet) -> Iterator[StandinFleet]:
    """They, without faults before and after."""
    yield shared_vllms
    for port in shared_vllms.ports:
        shared_vllms.control(port, clear_faults=True)


@pytest.mark.parametrize("half", [False, True])
def test_a_vllm_is_recognised_and_asked_for_raw_bytes(vllms: StandinFleet, half: bool) -> None:
    """Its version is told, but names no vector space: an upgrade is no other data set."""
    settings = ClientSettings(urls=vllms.urls, half=half)

    fleet = examine(settings)

    facts = fleet.servers[0].facts
    assert facts is not None
    assert (facts.kind, facts.software, facts.max_input_length) == ("openai", "vllm 0.11.0", 512)
    assert facts.form == "float32 bytes"
    assert fleet.fingerprint.server_version is None
    asked = choose_route(facts, settings.options).suffix
    assert b'"encoding_format":"bytes_only"' in asked and b'"truncate_prompt_tokens":-1' in asked
    assert (b'"embed_dtype":"float16"' if half else b'"embed_dtype":"float32"') in asked
    assert not fleet.warnings


def test_texts_beyond_its_context_are_refused_without_truncate(vllms: StandinFleet) -> None:
    """In its own words, which the client knows."""
    texts = [*TEXTS[:20], "word " * 1_000]
    harness = Harness(vllms.urls, texts, settings=ClientSettings(urls=vllms.urls, truncate=False))

    outcome = harness.run()

    assert {number: entry["reason"] for number, entry in outcome.quarantined.items()} == {20: "too_long"}


@pytest.mark.parametrize("half", [False, True])
def test_every_document_gets_its_own_vector_from_raw_bytes(vllms: StandinFleet, half: bool) -> None:
    """Numbers of 16 bits are as near as they can be."""
    outcome = Harness(vllms.urls, TEXTS, settings=ClientSettings(urls=vllms.urls, half=half)).run()

    assert len(outcome.rows) == len(TEXTS)
    expected = text_rows("google/embeddinggemma-300m", TEXTS, 768)
    found = np.stack([outcome.rows[number] for number in range(len(TEXTS))])
    wanted = expected.astype(np.float16).astype(np.float32) if half else expected
    np.testing.assert_array_equal(found, wanted)


FAULTS = ["count:delta=-1", "count:delta=1", "dim:to=767", "value:row=1,value=nan", "zero", "same"]


@pytest.mark.seconds
@pytest.mark.parametrize("fault", FAULTS)
def test_bytes_are_checked_as_strictly_as_base64(vllms: StandinFleet, fault: str) -> None:
    """Number of vectors, dimension, finite, not constant, not one vector for all, each its own."""
    settings = ClientSettings(urls=vllms.urls)
    harness = Harness(vllms.urls, TEXTS, settings=settings)
    vllms.control(vllms.ports[0], faults=[fault + (",every=3" if ":" in fault else ":every=3")])

    outcome = harness.run()

    outcome.check_exact("google/embeddinggemma-300m")


class Answered(BaseHTTPRequestHandler):
    """Answers every request alike."""

    protocol_version = "HTTP/1.1"
    body = b""
    content_type = ""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", self.content_type)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("n_bytes_or_body", "content_type", "kind"),
    [
        (2 * 768 * 4 - 1, "application/octet-stream", FailureKind.MALFORMED),
        (2 * 768 * 2, "application/octet-stream", FailureKind.MALFORMED),
        (3 * 768 * 4, "application/octet-stream", FailureKind.MALFORMED),
        (2 * 768 * 4, "text/html", FailureKind.MALFORMED),
        (b"[]", "application/json", FailureKind.MALFORMED),
        (b'{"error": {"code": 429, "message": "busy"}}', "application/json", FailureKind.OVERLOADED),
    ],
)
def test_what_is_not_the_bytes_of_the_matrix_is_refused(
    n_bytes_or_body: int | bytes, content_type: str, kind: FailureKind
) -> None:
    """However near it comes; a gateway's error counts as what it says."""
    body = n_bytes_or_body if isinstance(n_bytes_or_body, bytes) else bytes(n_bytes_or_body)
    handler = type("One", (Answered,), {"body": body, "content_type": content_type})
    facts = ServerFacts(kind="openai", model_id=MODEL, form=AnswerForm.BYTES.value, software="vllm 0.11.0")
    poller = Poller()
    with served(handler, ThreadingHTTPServer) as url:
        http = HttpClient(Address.parse(url), poller)
        made = Requester(http, choose_route(facts, EmbedOptions()), dim=768, normalized=True)
        made.submit([b'["a","b"]'], 2, timeout_s=30.0)
        while not (done := made.poll(1.0)):
            pass
        failed = done[0].failure.kind if done[0].failure else None
        if failed is None:
            with pytest.raises(BadAnswer) as refused:
                done[0].decode_into(np.empty((2, 768), dtype=np.float32))
            failed = refused.value.kind
            done[0].release()
        made.abandon()
        poller.close()

    assert failed is kind


@pytest.mark.parametrize("manners", [{}, {"listing": {"data": [{"id": MODEL, "owned_by": "gateway"}]}}])
def test_a_server_with_a_version_that_gives_no_bytes_stays_with_base64(manners: dict[str, Any]) -> None:
    """An old vLLM, or something else that says its version so."""
    with serving(Manners(version="0.6.0", **manners)) as url:
        facts = examine(ClientSettings(urls=(url,))).servers[0].facts

    assert facts is not None
    assert (facts.software, facts.form) == ("vllm 0.6.0", "base64")


def test_numbers_of_16_bits_are_widened_exactly() -> None:
    """All of them: subnormal ones, both zeros, and what is no number."""
    bits = np.arange(1 << 16, dtype="<u2").reshape(-1, 64)
    for part in (bits[(bits & 0x7C00 != 0x7C00).all(axis=1)], bits):
        out = np.empty(part.shape, dtype=np.float32)
        VectorDecoder(AnswerForm.HALF_BYTES, 64).decode_into(memoryview(part.tobytes()), out)
        np.testing.assert_array_equal(out.view(np.uint32), part.view("<f2").astype(np.float32).view(np.uint32))
