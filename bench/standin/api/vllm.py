"""Requests, refusals and listings of vLLM's embedding server: what it takes beside OpenAI's fields, and its wording."""

from __future__ import annotations

from typing import Any, Final

import orjson

from bench.standin.api import messages, schema
from bench.standin.api.messages import ApiError, EmbedRequest, Refused
from bench.standin.http.connection import Request, Response

ENCODINGS: Final = ("float", "base64", "bytes_only")
EMBED_DTYPES: Final = ("float32", "float16")
_REQUEST: Final = schema.Struct(
    "EmbeddingRequest",
    {
        "input": schema.INPUT,
        "model": schema.Optional(schema.TEXT),
        "encoding_format": schema.TEXT,
        "embed_dtype": schema.TEXT,
        "endianness": schema.TEXT,
        "normalize": schema.Optional(schema.FLAG),
        "dimensions": schema.Optional(schema.SIZE),
        "truncate_prompt_tokens": schema.Optional(schema.Scalar("int", lambda value: type(value) is int)),
    },
    ("input",),
)
_NAMES: Final = {400: "BadRequestError", 404: "NotFoundError", 429: "TooManyRequests", 500: "InternalServerError"}


def error_response(error: ApiError) -> Response:
    """Return `error` in vLLM's shape; what TEI calls a failed backend is its internal error."""
    status = 500 if error.status == 424 else error.status
    name = _NAMES.get(status, "BadRequestError")
    body = {"error": {"message": error.message, "type": name, "param": None, "code": status}}
    return Response(status=status, blocks=[orjson.dumps(body)])


def refused(status: int, message: str) -> Refused:
    """Return the refusal of a request."""
    return Refused(error_response(ApiError(status=status, kind="", message=message)))


def embed_request(request: Request, model_id: str) -> EmbedRequest:
    """Return the embedding request.

    Raises:
        Refused: 400 for a field of another type or value, 404 for another model.
    """
    try:
        document = messages.fields_of(request, _REQUEST)
    except Refused as error:
        said = b"".join(map(bytes, error.response.blocks)).decode("utf-8", "replace")
        raise refused(error.response.status if error.response.status == 413 else 400, said) from error
    inputs, single = messages.inputs_of(document["input"])
    most_tokens = document.get("truncate_prompt_tokens")
    if document.get("model") not in (None, model_id):
        raise refused(404, f"The model `{document['model']}` does not exist.")
    if "normalize" in document:
        raise refused(400, "`normalize` is not supported any more, use `use_activation`")
    if most_tokens is not None and most_tokens < -1:
        raise refused(400, f"truncate_prompt_tokens must be -1 or more, got {most_tokens}")
    encoding = _one_of(document, "encoding_format", ENCODINGS)
    dtype = _one_of(document, "embed_dtype", EMBED_DTYPES)
    _one_of(document, "endianness", ("native", "little"))
    return EmbedRequest(
        inputs=inputs,
        single=single,
        openai=True,
        truncate=most_tokens is not None,
        dimensions=document.get("dimensions"),
        base64=encoding == "base64",
        raw=dtype if encoding == "bytes_only" else None,
    )


def _one_of(document: dict[str, Any], name: str, values: tuple[str, ...]) -> str:
    value = document.get(name, values[0])
    if value not in values:
        raise refused(400, f"{name}: input should be one of {', '.join(values)}")
    return str(value)


def models(model_id: str, max_model_len: int) -> dict[str, Any]:
    """Return the listing of the one model that is served."""
    model = {
        "id": model_id,
        "object": "model",
        "created": 1_764_000_000,
        "owned_by": "vllm",
        "root": model_id,
        "parent": None,
        "max_model_len": max_model_len,
    }
    return {"object": "list", "data": [model]}


def too_long(error: ApiError, limit: int) -> ApiError:
    """Return the refusal of a text that is too long, in vLLM's words."""
    if "must have less than" not in error.message:
        return error
    said = f"This model's maximum context length is {limit} tokens. Please reduce the length of the input."
    return ApiError(status=400, kind=error.kind, message=said)
