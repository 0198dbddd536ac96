"""What is known of a server, and which of its routes serves a run best."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import orjson

from gpu_clients.vectors.decode import AnswerForm

_SAME_IN_A_FLEET = ("kind", "model_id", "model_sha", "dtype", "pooling", "version", "max_input_length")
NATIVE_PATH = "/embed"
OPENAI_BASE = "/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What a server says of itself (`/info`), and what a probe found out; None where it does not say.

    Attributes:
        kind: `tei` or `openai`.
        model_id, model_sha, dtype, pooling, version: Its identity.
        max_input_length: Tokens of one text; longer ones are cut or refused.
        max_client_batch_size: Texts of one request.
        max_concurrent_requests: Texts in flight; a permit belongs to a text, not to a request.
        max_batch_tokens: Tokens of one GPU batch.
        max_batch_requests: Texts of one GPU batch, when that is limited (TEI on a CPU: 4).
        auto_truncate: Whether long texts are cut without being asked for.
        tokenization_workers: Tokenizer threads.
        form: How its vectors stand in answers of the OpenAI route: `base64` or `openai floats`, or None when it has
            no such route.
        openai_base: What stands in front of `/embeddings` and `/models`; None as long as that is not known.
    """

    kind: str
    model_id: str
    model_sha: str | None = None
    dtype: str | None = None
    pooling: str | None = None
    version: str | None = None
    max_input_length: int | None = None
    max_client_batch_size: int | None = None
    max_concurrent_requests: int | None = None
    max_batch_tokens: int | None = None
    max_batch_requests: int | None = None
    auto_truncate: bool | None = None
    tokenization_workers: int | None = None
    form: str | None = AnswerForm.BASE64.value
    openai_base: str | None = OPENAI_BASE

    def as_dict(self) -> dict[str, Any]:
        """The facts as JSON values."""
        return dataclasses.asdict(self)

    def differences(self, other: ServerFacts) -> list[str]:
        """One phrase for each fact that decides vectors and in which `other` differs: `dtype 'a' is not 'b'`."""
        return [
            f"{name} {getattr(other, name)!r} is not {getattr(self, name)!r}"
            for name in _SAME_IN_A_FLEET
            if getattr(other, name) != getattr(self, name)
        ]

    @property
    def dialect(self) -> str | None:
        """`1.8` (validation errors are 413, batches wait for permits) or `1.9` (422, 429) for TEI, else None."""
        numbers = version_numbers(self.version)
        if self.kind != "tei" or not numbers:
            return None
        return "1.9" if numbers >= (1, 9) else "1.8"


def version_numbers(version: str | None) -> tuple[int, ...]:
    """`1.9.3` as (1, 9, 3); empty when it cannot be read."""
    numbers = []
    for part in (version or "").lstrip("v").split("."):
        digits = "".join(character for character in part if character.isdigit())
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How an embedding request is written: path, and the bytes around the JSON array of texts.

    Attributes:
        path: Path on the server.
        prefix, suffix: What stands before and behind the array.
        form: How vectors stand in the answer.
    """

    path: str
    prefix: bytes
    suffix: bytes
    form: AnswerForm


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedOptions:
    """What a run wants of every vector.

    Attributes:
        model: Name for OpenAI-compatible servers, or None for what the server says.
        dimensions: Numbers to keep, or None for all.
        normalize: Whether vectors are scaled to length 1.
        truncate: Whether long texts are cut instead of refused.
    """

    model: str | None = None
    dimensions: int | None = None
    normalize: bool = True
    truncate: bool = True


def choose_route(facts: ServerFacts, options: EmbedOptions) -> Route:
    """The cheapest route that can do what is asked.

    `/v1/embeddings` answers in base64, a tenth of the client's work; but TEI always normalises there and takes its own
    setting for truncation, so `/embed` is taken when an option says otherwise.
    """
    native_needed = not options.normalize or (
        facts.auto_truncate is not None and facts.auto_truncate != options.truncate
    )
    if facts.kind == "tei" and (native_needed or facts.form is None):
        return _native(options)
    form = AnswerForm(facts.form or AnswerForm.OPENAI_FLOATS.value)
    fields: dict[str, Any] = {}
    if facts.kind == "openai":
        fields["model"] = options.model or facts.model_id
    if form is AnswerForm.BASE64:
        fields["encoding_format"] = "base64"
    if options.dimensions is not None:
        fields["dimensions"] = options.dimensions
    base = OPENAI_BASE if facts.openai_base is None else facts.openai_base
    return Route(path=f"{base}/embeddings", prefix=b'{"input":', suffix=_rest(fields), form=form)


def _native(options: EmbedOptions) -> Route:
    fields: dict[str, Any] = {"truncate": options.truncate, "normalize": options.normalize}
    if options.dimensions is not None:
        fields["dimensions"] = options.dimensions
    return Route(path=NATIVE_PATH, prefix=b'{"inputs":', suffix=_rest(fields), form=AnswerForm.NATIVE_FLOATS)


def _rest(fields: dict[str, Any]) -> bytes:
    """Further fields and the end of the object: `,"a":1}`."""
    return b"," + orjson.dumps(fields)[1:] if fields else b"}"
