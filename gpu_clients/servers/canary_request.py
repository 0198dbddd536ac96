"""One request for the canary texts in an examination, and its answer as vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator

import numpy as np

from gpu_clients.errors import Action, Failure, FailureKind, classify
from gpu_clients.http.answers import BadAnswer
from gpu_clients.http.connection import Exchange
from gpu_clients.server_facts import EmbedOptions, ServerFacts
from gpu_clients.servers.canary import Arrangement, canary_bodies
from gpu_clients.servers.probe_request import WANTS_KEY, ProbeFailed, ProbeRequest, ask, misfit
from gpu_clients.servers.routes import Route, choose_route
from gpu_clients.vectors.decode import AnswerForm, Matrix, VectorDecoder, float_answer_cap_bytes
from gpu_clients.vectors.soundness import MIN_COSINE, lowest_cosine, scale_to_unit, unsound_rows

SLOW_SERVERS_TIMEOUTS = 6
"""A server of 0.1 documents a second takes half a minute for the canary texts: it works, slowly."""
UNKNOWN_DIM = 16_384
"""Only for the cap on an answer."""


def embed_canary(
    route: Route, arrangement: Arrangement, facts: ServerFacts, dim: int | None, *, fresh: bool = False
) -> Generator[ProbeRequest, Exchange, tuple[Matrix, bool]]:
    """The vectors, float32 (texts, dim), and whether each says which text it belongs to.

    Args:
        dim: Numbers expected in a vector; None takes what comes.
        fresh: Whether the request goes over a connection of its own.

    Raises:
        ProbeFailed: no answer, or none that can be used.
    """
    matrices, indexed = [], True
    for body, n_texts in canary_bodies(arrangement, facts.canary_limit, facts.most_texts):
        matrix, is_indexed = yield from _embed_part(route, body, n_texts, dim, fresh=fresh)
        dim = matrix.shape[1]
        indexed = indexed and is_indexed
        matrices.append(matrix)
    return (np.concatenate(matrices) if len(matrices) > 1 else matrices[0]), indexed


def _embed_part(
    route: Route, body: bytes, n_texts: int, dim: int | None, *, fresh: bool
) -> Generator[ProbeRequest, Exchange, tuple[Matrix, bool]]:
    """One request of it."""
    answer = yield from ask(
        ProbeRequest(
            method="POST",
            path=route.path,
            body=(route.prefix, body, route.suffix),
            max_body_bytes=float_answer_cap_bytes(n_texts, dim or UNKNOWN_DIM),
            fresh=fresh,
            n_timeouts=SLOW_SERVERS_TIMEOUTS,
        )
    )
    try:
        if answer.status != 200:
            raise _refused(classify(answer.status, answer.body))
        return _decoded(route, answer.body, n_texts, dim)
    except BadAnswer as error:
        raise ProbeFailed(Failure(kind=error.kind, detail=str(error)), misconfigured=True) from error
    finally:
        answer.release()


def raw_if_it_can(
    facts: ServerFacts, options: EmbedOptions, mixed: Matrix
) -> Generator[ProbeRequest, Exchange, ServerFacts]:
    """The facts with answers in raw bytes, if the server gives the canary's vectors so too, each in its place.

    Args:
        mixed: The vectors that it gave otherwise, float32 (texts, dim).
    """
    raw = dataclasses.replace(facts, form=AnswerForm.BYTES.value)
    try:
        matrix, _ = yield from embed_canary(choose_route(raw, options), Arrangement.MIXED, raw, mixed.shape[1])
    except ProbeFailed:
        return facts
    if unsound_rows(matrix, normalized=False) or not lowest_cosine(mixed, matrix) >= MIN_COSINE:
        return facts
    return raw


def _refused(failure: Failure) -> ProbeFailed:
    if failure.status in (401, 403):
        return misfit(f"{WANTS_KEY} (HTTP {failure.status})")
    # a validation error on texts that every server can take is a matter of options, not of health
    divisible = (FailureKind.REJECTED, FailureKind.PAYLOAD, FailureKind.TOO_LONG)
    return ProbeFailed(failure, misconfigured=failure.action is Action.SUSPECT_SERVER or failure.kind in divisible)


def _decoded(route: Route, body: memoryview, n_texts: int, dim: int | None) -> tuple[Matrix, bool]:
    try:
        matrix, is_indexed = VectorDecoder(route.form, dim, is_indexed=route.is_indexed).decode(body, n_texts), True
    except BadAnswer:
        if route.form is AnswerForm.NATIVE_FLOATS or route.form.is_raw:
            raise
        matrix, is_indexed = VectorDecoder(route.form, dim, is_indexed=False).decode(body, n_texts), False
    if route.scale:
        scale_to_unit(matrix)
    return matrix, is_indexed
