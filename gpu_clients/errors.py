"""What can become of one request to a server, sorted by what to do about it.

    Action          meaning                                          kinds
    RETRY           the server or the way to it hiccuped: later, or  REFUSED, LOST, TIMEOUT, UNAVAILABLE,
                    elsewhere; counts against the server             MALFORMED, OVERSIZED, OTHER_DIMENSION
    BACK_OFF        it has too much to do: fewer at a time           OVERLOADED
    DIVIDE          one document of the batch, or its size: smaller  EMPTY, TOO_LONG, REJECTED, TOKENIZER,
                    batches, until a document fails alone            PAYLOAD, BACKEND, UNSOUND
    SUSPECT_SERVER  it cannot be used as configured, as it seems.    UNAUTHORIZED, WRONG_SERVICE, DRIFTED, OUT
                    The canary tells: when that fails as well the
                    server is out until a probe says otherwise, and
                    when it is right the batch is divided

The decision is taken by status, content type and the error's declared type, never by the words of a message; those
only refine the reason that is written beside a document in quarantine, and tell a text that may be cut.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import orjson


class Action(enum.Enum):
    """What to do about a failed request."""

    RETRY = "retry"
    BACK_OFF = "back off"
    DIVIDE = "divide"
    SUSPECT_SERVER = "suspect the server"


class FailureKind(enum.Enum):
    """Classes of failed requests; the value is the name in figures and logs."""

    REFUSED = "refused"
    LOST = "lost"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    MALFORMED = "malformed"
    OVERSIZED = "oversized"
    OTHER_DIMENSION = "other_dimension"
    OVERLOADED = "overloaded"
    EMPTY = "empty"
    TOO_LONG = "too_long"
    REJECTED = "rejected"
    TOKENIZER = "tokenizer"
    PAYLOAD = "payload"
    BACKEND = "backend"
    UNSOUND = "unsound"
    UNAUTHORIZED = "unauthorized"
    WRONG_SERVICE = "wrong_service"
    DRIFTED = "drifted"
    OUT = "out"


ACTIONS: dict[FailureKind, Action] = {
    FailureKind.REFUSED: Action.RETRY,
    FailureKind.LOST: Action.RETRY,
    FailureKind.TIMEOUT: Action.RETRY,
    FailureKind.UNAVAILABLE: Action.RETRY,
    FailureKind.MALFORMED: Action.RETRY,
    FailureKind.OVERSIZED: Action.RETRY,
    FailureKind.OTHER_DIMENSION: Action.RETRY,
    FailureKind.OVERLOADED: Action.BACK_OFF,
    FailureKind.EMPTY: Action.DIVIDE,
    FailureKind.TOO_LONG: Action.DIVIDE,
    FailureKind.REJECTED: Action.DIVIDE,
    FailureKind.TOKENIZER: Action.DIVIDE,
    FailureKind.PAYLOAD: Action.DIVIDE,
    FailureKind.BACKEND: Action.DIVIDE,
    FailureKind.UNSOUND: Action.DIVIDE,
    FailureKind.UNAUTHORIZED: Action.SUSPECT_SERVER,
    FailureKind.WRONG_SERVICE: Action.SUSPECT_SERVER,
    FailureKind.DRIFTED: Action.SUSPECT_SERVER,
    FailureKind.OUT: Action.SUSPECT_SERVER,
}

QUARANTINE_REASONS: dict[FailureKind, str] = {
    FailureKind.EMPTY: "empty",
    FailureKind.TOO_LONG: "too_long",
    FailureKind.REJECTED: "rejected",
    FailureKind.TOKENIZER: "tokenizer",
    FailureKind.PAYLOAD: "too_large",
    FailureKind.UNSOUND: "unsound_vector",
    FailureKind.UNAUTHORIZED: "rejected",
    FailureKind.WRONG_SERVICE: "rejected",
}
"""Reason written beside a document that failed alone; every other kind is `backend`."""

DETAIL_CHARACTERS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a request failed.

    Attributes:
        kind: Its class.
        detail: What the server or the system said, shortened; never holds a text or a secret of ours.
        status: HTTP status, or None when no answer came.
        retry_after: The header of that name as it came, or None.
    """

    kind: FailureKind
    detail: str
    status: int | None = None
    retry_after: str | None = None

    @property
    def action(self) -> Action:
        """What to do about it."""
        return ACTIONS[self.kind]

    @property
    def reason(self) -> str:
        """The reason under which a document that failed so is put into quarantine."""
        return QUARANTINE_REASONS.get(self.kind, "backend")


_STATUS_KINDS: dict[int, FailureKind] = {
    400: FailureKind.REJECTED,
    401: FailureKind.UNAUTHORIZED,
    403: FailureKind.UNAUTHORIZED,
    413: FailureKind.PAYLOAD,
    422: FailureKind.REJECTED,
    424: FailureKind.BACKEND,
    429: FailureKind.OVERLOADED,
    500: FailureKind.BACKEND,
    502: FailureKind.UNAVAILABLE,
    503: FailureKind.UNAVAILABLE,
    504: FailureKind.UNAVAILABLE,
}

_MAY_BE_TOO_LONG = (FailureKind.REJECTED, FailureKind.PAYLOAD, FailureKind.BACKEND)
_TOO_LONG_WORDS = (
    "must have less than",  # TEI
    "maximum context length",  # OpenAI, Azure, vLLM, LiteLLM
    "longer than the maximum model length",  # vLLM
    "is too large to process",  # llama.cpp: its physical batch
    "exceed_context_size",  # llama.cpp
    "larger than the max context size",
    "exceeds the available context size",
    "exceeds the context length",  # Ollama
    "exceeds maximum context length",
    "input token count",  # Gemini: ... exceeds the maximum number of tokens allowed
    "maximum number of tokens",
    "maximum input length",
)
"""How servers say that one text has too many tokens; compared in lower case."""

_TYPE_KINDS: dict[str, FailureKind] = {
    "empty": FailureKind.EMPTY,
    "validation": FailureKind.REJECTED,
    "tokenizer": FailureKind.TOKENIZER,
    "backend": FailureKind.BACKEND,
    "overloaded": FailureKind.OVERLOADED,
    "unhealthy": FailureKind.UNAVAILABLE,
}


def classify(status: int, body: bytes | memoryview, *, retry_after: str | None = None) -> Failure:
    """The failure that a status other than 200 means; 413 and 422 are one class in both dialects of TEI."""
    text, declared = _read_error(body)
    kind = _STATUS_KINDS.get(status)
    if kind is None:
        kind = FailureKind.UNAVAILABLE if status >= 500 else FailureKind.WRONG_SERVICE
    if declared in _TYPE_KINDS and kind not in (FailureKind.UNAUTHORIZED, FailureKind.WRONG_SERVICE):
        kind = _TYPE_KINDS[declared]
    if kind in _MAY_BE_TOO_LONG and any(words in f"{text} {declared}".lower() for words in _TOO_LONG_WORDS):
        kind = FailureKind.TOO_LONG
    return Failure(
        kind=kind, detail=f"HTTP {status}: {text}" if text else f"HTTP {status}", status=status, retry_after=retry_after
    )


def _read_error(body: bytes | memoryview) -> tuple[str, str]:
    """Message and lower-case declared type of an error body: TEI's two shapes, OpenAI's, or plain text."""
    raw = bytes(body[:4096])
    try:
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _shorten(raw.decode("utf-8", "replace")), ""
    if not isinstance(parsed, dict):
        return _shorten(str(parsed)), ""
    inner = parsed.get("error")
    if isinstance(inner, dict):  # OpenAI and vLLM
        parsed = inner
    message = parsed.get("error") or parsed.get("message") or parsed.get("detail") or ""
    declared = parsed.get("error_type") or parsed.get("type") or ""
    return _shorten(str(message)), str(declared).lower()


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= DETAIL_CHARACTERS else text[: DETAIL_CHARACTERS - 3] + "..."
