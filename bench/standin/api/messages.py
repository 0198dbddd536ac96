"""Requests and refusals of text-embeddings-inference: what a request may say, and how each error is worded.

Pure functions from bytes to values; nothing here knows sockets, permits or backends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from bench.standin.api.json_reader import Unreadable
from bench.standin.api.schema import Struct
from bench.standin.config import Dialect
from bench.standin.http.connection import Request, Response

JSON: Final = b"application/json"
PLAIN: Final = b"text/plain; charset=utf-8"

Input = str | list[int]
"""What is embedded: a text, or the ids of its tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiError:
    """An error in the server's own vocabulary; `kind` is the capitalised error_type."""

    status: int
    kind: str
    message: str


class Refused(Exception):
    """A request that ends with `response`; `err` is the label of te_request_failure, None when not counted."""

    def __init__(self, response: Response, err: str | None = None) -> None:
        super().__init__(response.status)
        self.response = response
        self.err = err


@dataclass(slots=True, kw_only=True)
class EmbedRequest:
    """A well-formed request to one of the two embedding routes."""

    inputs: list[Input]
    single: bool
    openai: bool
    truncate: bool | None = None
    left: bool = False
    prompt_name: str | None = None
    normalize: bool = True
    dimensions: int | None = None
    base64: bool = False
    parts: list[int] = field(default_factory=list)
    """Inputs of each part that is answered apart, where a request has several."""
    raw: str | None = None  # number type of an answer in raw bytes


def error_response(error: ApiError, *, openai: bool) -> Response:
    """Return `error` in the shape of its route."""
    if openai:
        body = {"message": error.message, "code": error.status, "type": error.kind}
    else:
        body = {"error": error.message, "error_type": error.kind}
    return Response(status=error.status, blocks=[orjson.dumps(body)])


def plain(status: int, text: str) -> Response:
    """Return an answer of the HTTP layer, which does not speak JSON."""
    return Response(status=status, blocks=[text.encode()], content_type=PLAIN)


def empty(status: int, headers: bytes = b"") -> Response:
    """Return an answer without a body."""
    return Response(status=status, content_type=None, headers=headers)


def validation_status(dialect: Dialect) -> int:
    """Return the status of every validation error: 422 since 1.9, 413 before; 400 of vLLM."""
    return {Dialect.V1_9: 422, Dialect.V1_8: 413, Dialect.VLLM: 400}[dialect]


def validation(message: str, dialect: Dialect) -> ApiError:
    """Return a validation error."""
    return ApiError(status=validation_status(dialect), kind="Validation", message=message)


OVERLOADED: Final = ApiError(status=429, kind="Overloaded", message="Model is overloaded")
BACKEND_FAILED: Final = ApiError(status=424, kind="Backend", message="Backend error: CUDA_ERROR_ILLEGAL_ADDRESS")
NO_TEXTS: Final = ApiError(status=400, kind="Empty", message="`inputs` cannot be empty")
"""Of `/tokenize` for an empty list; to `/embed` that is one input without ids."""
EMPTY_INPUT: Final = ApiError(status=400, kind="Empty", message="Input validation error: `inputs` cannot be empty")
EMPTY_IDS: Final = ApiError(status=400, kind="Empty", message="Input validation error: `input_ids` cannot be empty")


def fields_of(request: Request, schema: Struct) -> dict[str, Any]:
    """Return the fields of a request's body.

    Raises:
        Refused: 413, 415, 400 or 422, all in plain text.
    """
    if request.too_large:
        raise Refused(plain(413, "Failed to buffer the request body: length limit exceeded"))
    kind = request.headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != JSON and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
        raise Refused(plain(415, "Expected request with `Content-Type: application/json`"))
    try:
        return schema.parse(request.body)
    except Unreadable as error:
        if error.is_json:
            what = f"Failed to deserialize the JSON body into the target type: {error.message}"
            raise Refused(plain(422, what)) from error
        raise Refused(plain(400, f"Failed to parse the request body as JSON: {error.message}")) from error


def json_object(request: Request) -> dict[str, Any]:
    """Return the JSON object of the body, whatever its fields.

    Raises:
        Refused: 413, 415, 400 or 422, all in plain text.
    """
    return fields_of(request, _ANYTHING)


_ANYTHING: Final = Struct("Orders", {}, ())


def embed_request(document: dict[str, Any], *, openai: bool) -> EmbedRequest:
    """Return the embedding request in the fields of `schema.EMBED`, `EMBED_ALL` or `OPENAI`."""
    inputs, single = inputs_of(document["input" if openai else "inputs"])
    dimensions = document.get("dimensions")
    if openai:
        base64 = document.get("encoding_format") == "base64"
        return EmbedRequest(inputs=inputs, single=single, openai=True, dimensions=dimensions, base64=base64)
    return EmbedRequest(
        inputs=inputs,
        single=single,
        openai=False,
        truncate=document.get("truncate"),
        left=document.get("truncation_direction") in ("left", "Left"),
        prompt_name=document.get("prompt_name"),
        normalize=document.get("normalize", True),
        dimensions=dimensions,
    )


def inputs_of(value: Any) -> tuple[list[Input], bool]:
    """Return the inputs, and whether it is a single one: a string, or one list of ids, which may be empty."""
    if type(value) is str or not value or type(value[0]) is int:
        return [value], True
    return value, False


def batch_too_big(n_inputs: int, limit: int, dialect: Dialect) -> ApiError:
    """Return the error of a request with more inputs than max_client_batch_size."""
    return validation(f"batch size {n_inputs} > maximum allowed batch size {limit}", dialect)


def bad_dimensions(dimensions: int, dialect: Dialect) -> ApiError:
    """Return the error of `dimensions` that the model does not have."""
    what = "be positive" if dimensions == 0 else "be smaller than the maximum embedding dimension."
    return validation(f"Input validation error: `dimensions` should {what}", dialect)


def unknown_prompt(name: str, known: list[str], dialect: Dialect) -> ApiError:
    """Return the error of a `prompt_name` that the model does not have."""
    quoted = ", ".join(f'"{one}"' for one in known)
    why = (
        f"it was not found in the Sentence Transformers prompts. Available prompts: [{quoted}]"
        if known
        else "no prompts were found in the Sentence Transformers configuration"
    )
    return validation(f"Input validation error: `default-prompt-name` is set to `{name}` but {why}", dialect)
