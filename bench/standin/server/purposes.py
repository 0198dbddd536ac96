"""The routes that embed: what each takes, and the form of its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import orjson

from bench.standin.api import schema
from bench.standin.api.messages import EmbedRequest, embed_request, inputs_of
from bench.standin.api.schema import Struct
from bench.standin.backends.base import Backend
from bench.standin.http.connection import Response
from bench.standin.server.answers import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Purpose:
    """What a route wants vectors for.

    Attributes:
        schema: The fields of its body.
        read: Makes the request for vectors of them.
        openai: Whether it is the OpenAI route, whose errors and answers have another shape.
        answer: Makes the answer; None for the vectors themselves.
    """

    schema: Struct
    read: Callable[[dict[str, Any]], EmbedRequest]
    openai: bool = False
    answer: Callable[[Answer, Backend], Response] | None = None


def purpose_of(path: str) -> Purpose:
    """Return what the route at `path` embeds for."""
    return _PURPOSES[path]


def _similar(document: dict[str, Any]) -> EmbedRequest:
    asked = document["inputs"]
    texts = [asked["source_sentence"], *asked["sentences"]]
    return embed_request({**(document.get("parameters") or {}), "inputs": texts}, openai=False)


def _similarity(answer: Answer, _backend: Backend) -> Response:
    rows = answer.job.rows
    assert rows is not None  # the job is done
    return _with_times(answer, (rows[1:] @ rows[0]).astype(np.float32))


def _all_tokens(answer: Answer, backend: Backend) -> Response:
    return _with_times(answer, backend.token_rows(answer.job))


def _with_times(answer: Answer, document: Any) -> Response:
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(status=200, blocks=[body], headers=answer.headers())


def _of_instances(document: dict[str, Any]) -> EmbedRequest:
    """All instances as one request; the options of the first count for all."""
    instances = document["instances"]
    texts = [text for instance in instances for text in inputs_of(instance["inputs"])[0]]
    options = instances[0] if instances else {}
    wanted = embed_request({**options, "inputs": texts}, openai=False)
    wanted.parts = [len(inputs_of(instance["inputs"])[0]) for instance in instances]
    return wanted


def _predictions(answer: Answer, _backend: Backend) -> Response:
    rows = answer.job.rows
    assert rows is not None  # the job is done
    ends = np.cumsum(answer.wanted.parts)[:-1]
    parts = [np.ascontiguousarray(part) for part in np.split(rows, ends)]
    body = orjson.dumps({"predictions": parts}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(status=200, blocks=[body])


_NATIVE = Purpose(schema=schema.EMBED, read=partial(embed_request, openai=False))
_OPENAI = Purpose(schema=schema.OPENAI, read=partial(embed_request, openai=True), openai=True)
_PURPOSES = {
    "/": _NATIVE,
    "/embed": _NATIVE,
    "/invocations": _NATIVE,
    "/embeddings": _OPENAI,
    "/v1/embeddings": _OPENAI,
    "/embed_all": Purpose(schema=schema.EMBED_ALL, read=partial(embed_request, openai=False), answer=_all_tokens),
    "/similarity": Purpose(schema=schema.SIMILARITY, read=_similar, answer=_similarity),
    "/vertex": Purpose(schema=schema.VERTEX, read=_of_instances, answer=_predictions),
}
