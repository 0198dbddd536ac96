"""A tuned file's contents, and the fleet that it was found on."""

from __future__ import annotations

from bench.tuner.report.tuned import Tuned, servers_of
from engine.records import Fingerprint
from gpu_clients.server_facts import ServerFacts
from gpu_clients.servers.canary import Canary
from gpu_clients.servers.doctor import Fleet, ServerReport
from gpu_clients.servers.probe import Examination
from gpu_clients.servers.routes import Route
from gpu_clients.vectors.decode import AnswerForm

FINGERPRINT = Fingerprint(
    model_id="google/embeddinggemma-300m",
    model_sha=None,
    dtype="float32",
    pooling="mean",
    prompt='title: "none" | text: \N{GRINNING FACE} \x7f\n',
    dim=768,
    normalize=True,
    server_version="1.9.3",
)


FACTS = ServerFacts(
    kind="tei",
    model_id=FINGERPRINT.model_id,
    max_batch_tokens=16384,
    max_concurrent_requests=512,
    max_client_batch_size=32,
)


def fleet(*urls: str, facts: ServerFacts = FACTS, fingerprint: Fingerprint = FINGERPRINT) -> Fleet:
    """A fleet as the doctor describes it."""
    route = Route(path="/v1/embeddings", prefix=b"", suffix=b"", form=AnswerForm.BASE64)
    canary = Canary.__new__(Canary)  # nobody looks at it here
    examination = Examination(facts=facts, route=route, dim=768, canary=canary)
    return Fleet(
        servers=tuple(ServerReport(url=url, reachable=True, examination=examination) for url in urls),
        fingerprint=fingerprint,
        dim=768,
        batch_size=32,
        max_concurrency=16,
        canary="",
    )


TUNED = Tuned(
    batch_size=32,
    concurrency=7,
    max_concurrency=15,
    bucketing="on",
    target_p95_s=None,
    docs_per_second=1234.56,
    tokens_per_second=45678.9,
    tokens_per_document=37.0,
    p95_s=0.25,
    fingerprint=FINGERPRINT,
    servers=servers_of(fleet("http://a:1", "http://b:1")),
    written_at="2026-01-02T03:04:05+00:00",
    engine_version="0.1.0",
)
