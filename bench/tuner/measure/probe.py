"""The probe: a few texts through one server, for how many tokens they have and what their vectors look like."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import orjson

from engine.errors import ServersUnavailable
from gpu_clients.errors import Action, Failure, FailureKind
from gpu_clients.http.address import Address
from gpu_clients.http.answers import BadAnswer
from gpu_clients.http.client import HttpClient
from gpu_clients.http.polling import Poller
from gpu_clients.servers.doctor import Fleet
from gpu_clients.servers.requester import Requester
from gpu_clients.servers.routes import choose_route
from gpu_clients.settings import ClientSettings
from gpu_clients.vectors.decode import Matrix

TIMEOUT_S = 60.0
_TEXTS_AT_ONCE = 16
_BYTES_PER_CHARACTER = 200
"""Of an answer of `/tokenize`, generously: a token is some 70 bytes and at least a character long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What a server made of the texts.

    Attributes:
        tokens: Tokens of each text before any cut, or None when the server cannot count them.
        vectors: float32 (n, dim), of those texts that were answered with vectors.
        refused: How many texts the server refuses by themselves, by the reason a run would put them into quarantine.
    """

    tokens: tuple[int, ...] | None
    vectors: Matrix
    refused: Mapping[str, int]


def probe(fleet: Fleet, settings: ClientSettings, texts: list[bytes]) -> Probed:
    """Count tokens with the server's tokenizer (`/tokenize` takes no permit), and embed the texts.

    Args:
        texts: JSON strings, prompt included.

    Raises:
        ServersUnavailable: no text was answered, with a vector or with a refusal.
    """
    index, report = next((at, server) for at, server in enumerate(fleet.servers) if server.facts is not None)
    facts = report.facts
    assert facts is not None
    poller = Poller()
    http = HttpClient(Address.parse(report.url), poller, settings.access(index))
    route = choose_route(facts, settings.options)
    requester = Requester(http, route, dim=fleet.dim, normalized=settings.normalize)
    at_once = min(_TEXTS_AT_ONCE, fleet.batch_size)
    batches = [texts[start : start + at_once] for start in range(0, len(texts), at_once)]
    try:
        counts = _count(http, poller, batches) if facts.kind == "tei" else None
        answers = [answer for batch in batches for answer in _answers(requester, batch, fleet.dim)]
    finally:
        http.abandon()
        poller.close()
    vectors = [answer for answer in answers if not isinstance(answer, Failure)]
    failures = [answer for answer in answers if isinstance(answer, Failure)]
    refused = Counter(failure.reason for failure in failures if failure.action is Action.DIVIDE)
    if not vectors and not refused:
        raise ServersUnavailable(
            f"{report.url} gave no vector for any of {len(texts)} texts ({failures[0].detail}): see `engine doctor`"
        )
    return Probed(
        tokens=counts, vectors=np.concatenate([np.empty((0, fleet.dim), np.float32), *vectors]), refused=refused
    )


def embed_each(fleet: Fleet, settings: ClientSettings, texts: list[bytes]) -> dict[int, Matrix]:
    """The vector of each text by its place, float32 (1, dim) each; without those that are refused.

    Args:
        texts: JSON strings, prompt included.
    """
    index, report = next((at, server) for at, server in enumerate(fleet.servers) if server.facts is not None)
    assert report.facts is not None
    poller = Poller()
    http = HttpClient(Address.parse(report.url), poller, settings.access(index))
    route = choose_route(report.facts, settings.options)
    requester = Requester(http, route, dim=fleet.dim, normalized=settings.normalize)
    at_once = min(_TEXTS_AT_ONCE, fleet.batch_size)
    found: dict[int, Matrix] = {}
    try:
        for start in range(0, len(texts), at_once):
            batch = texts[start : start + at_once]
            answers = _answers(requester, batch, fleet.dim)
            whole = answers[0] if len(answers) == 1 else None
            rows = [whole[at : at + 1] for at in range(len(batch))] if isinstance(whole, np.ndarray) else answers
            found |= {start + at: row for at, row in enumerate(rows) if not isinstance(row, Failure)}
    finally:
        http.abandon()
        poller.close()
    return found


def _count(http: HttpClient, poller: Poller, batches: list[list[bytes]]) -> tuple[int, ...] | None:
    counts: list[int] = []
    for batch in batches:
        body = b'{"inputs":[' + b",".join(batch) + b"]}"
        http.start(
            "POST",
            "/tokenize",
            [body],
            deadline_s=time.monotonic() + TIMEOUT_S,
            max_body_bytes=100_000 + len(body) * _BYTES_PER_CHARACTER,
        )
        while not http.finished:
            poller.run(0.1)
            http.check_deadlines()
        exchange = http.finished.popleft()
        parsed = None
        if exchange.failure is None and exchange.status == 200:
            try:
                parsed = orjson.loads(exchange.body)
            except orjson.JSONDecodeError:
                parsed = None
        exchange.release()
        if (
            not isinstance(parsed, list)
            or len(parsed) != len(batch)
            or not all(isinstance(row, list) for row in parsed)
        ):
            return None
        counts += [len(row) for row in parsed]
    return tuple(counts)


def _answers(requester: Requester, batch: list[bytes], dim: int) -> list[Matrix | Failure]:
    """What a batch is answered with; when one of its texts spoils it, what each is answered with alone."""
    answer = _embed(requester, batch, dim)
    if isinstance(answer, Failure) and answer.action is Action.DIVIDE and len(batch) > 1:
        return [_embed(requester, [text], dim) for text in batch]
    return [answer]


def _embed(requester: Requester, batch: list[bytes], dim: int) -> Matrix | Failure:
    """The vectors of a request, or why there are none."""
    requester.submit([b"[" + b",".join(batch) + b"]"], len(batch), timeout_s=TIMEOUT_S)
    while not (done := requester.poll(0.1)):
        pass
    completion = done[0]
    matrix = np.empty((len(batch), dim), dtype=np.float32)
    try:
        if completion.failure is not None:
            return completion.failure
        if completion.decode_into(matrix):
            return Failure(kind=FailureKind.UNSOUND, detail="a vector is not finite, zero or not normed")
    except BadAnswer as bad:
        return Failure(kind=FailureKind.MALFORMED, detail=str(bad))
    finally:
        completion.release()
    return matrix
