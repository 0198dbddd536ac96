"""Requests and refusals of text-embeddings-inference: what a request may say, and how each error is worded.

Pure functions from bytes to values; nothing here knows sockets, permits or backends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from bench.standin.config import Dialect
from bench.standin.http.connection import Request, Response

JSON: Final = b"application/json"
PLAIN: Final = b"text/plain; charset=utf-8"
_ID_LIMIT: Final = 1 << 32

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
EMPTY_BATCH: Final = ApiError(status=400, kind="Empty", message="`inputs` cannot be empty")


def json_object(request: Request) -> dict[str, Any]:
    """Return the JSON object of the body.

    Raises:
        Refused: 413, 415 or 400, all in plain text.
    """
    if request.too_large:
        raise Refused(plain(413, "Failed to buffer the request body: length limit exceeded"))
    kind = request.headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != JSON and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
        raise Refused(plain(415, "Expected request with `Content-Type: application/json`"))
    try:
        document = orjson.loads(request.body)
    except orjson.JSONDecodeError as error:
        raise Refused(plain(400, f"Failed to parse the request body as JSON: {error}")) from error
    if type(document) is not dict:
        raise _schema(f"invalid type: {type(document).__name__}, expected a map")
    return document


def embed_request(document: dict[str, Any], *, openai: bool) -> EmbedRequest:
    """Return the embedding request in `document`; unknown fields are ignored.

    Raises:
        Refused: 422 in plain text when a field has another type than the schema says.
    """
    inputs, single = inputs_of(document, "input" if openai else "inputs")
    dimensions = optional(document, "dimensions", int)
    if dimensions is not None and dimensions < 0:
        raise _schema("dimensions: invalid value, expected usize")
    if openai:
        encoding = document.get("encoding_format", "float")
        if encoding not in ("float", "base64"):
            raise _schema(f"encoding_format: unknown variant `{encoding}`, expected `float` or `base64`")
        optional(document, "model", str)
        optional(document, "user", str)
        return EmbedRequest(
            inputs=inputs, single=single, openai=True, dimensions=dimensions, base64=encoding == "base64"
        )
    normalize = document.get("normalize", True)
    if type(normalize) is not bool:
        raise _schema("normalize: invalid type, expected a boolean")
    return EmbedRequest(
        inputs=inputs,
        single=single,
        openai=False,
        truncate=optional(document, "truncate", bool),
        left=_is_left(document),
        prompt_name=optional(document, "prompt_name", str),
        normalize=normalize,
        dimensions=dimensions,
    )


def inputs_of(document: dict[str, Any], name: str) -> tuple[list[Input], bool]:
    """Return the inputs, and whether it is a single one (a string, or one list of ids).

    Raises:
        Refused: the field is missing or of another type.
    """
    if name not in document:
        raise _schema(f"missing field `{name}`")
    value = document[name]
    if type(value) is str:
        return [value], True
    if type(value) is list:
        kinds = set(map(type, value))
        if kinds <= {str}:
            return value, False
        if kinds == {int} and _is_ids(value):
            return [value], True
        if kinds <= {str, list} and all(_is_ids(one) for one in value if type(one) is list):
            return value, False
    raise _schema(f"{name}: data did not match any variant of untagged enum Input")


def is_ids(value: object) -> bool:
    """Return whether `value` is a list of token ids."""
    return type(value) is list and _is_ids(value)


def _is_ids(value: list[Any]) -> bool:
    return all(type(one) is int and 0 <= one < _ID_LIMIT for one in value)


def _is_left(document: dict[str, Any]) -> bool:
    side = document.get("truncation_direction", "right")
    if side not in ("left", "Left", "right", "Right"):
        raise _schema(f"truncation_direction: unknown variant `{side}`, expected `Left` or `Right`")
    return side in ("left", "Left")


def optional(document: dict[str, Any], name: str, kind: type[Any]) -> Any:
    """Return a field that may be absent or null.

    Raises:
        Refused: it is of another type than `kind`.
    """
    value = document.get(name)
    if value is not None and type(value) is not kind:
        raise _schema(f"{name}: invalid type, expected {kind.__name__} or null")
    return value


def _schema(what: str) -> Refused:
    return Refused(plain(422, f"Failed to deserialize the JSON body into the target type: {what}"))


def batch_too_big(n_inputs: int, limit: int, dialect: Dialect) -> ApiError:
    """Return the error of a request with more inputs than max_client_batch_size."""
    return validation(f"batch size {n_inputs} > maximum allowed batch size {limit}", dialect)


def bad_dimensions(dimensions: int, dialect: Dialect) -> ApiError:
    """Return the error of `dimensions` that the model does not have."""
    what = "be positive" if dimensions == 0 else "be smaller than the maximum embedding dimension."
    return validation(f"Input validation error: `dimensions` should {what}", dialect)


def unknown_prompt(name: str, known: list[str], dialect: Dialect) -> ApiError:
    """Return the error of a `prompt_name` that the model does not have."""
    return validation(
        f"Input validation error: prompt name `{name}` was not found, available: [{', '.join(known)}]",
        dialect,
    )
