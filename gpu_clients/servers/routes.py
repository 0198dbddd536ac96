"""Which of a server's routes serves a run best, and how a request to it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from gpu_clients.server_facts import OPENAI_BASE, EmbedOptions, ServerFacts
from gpu_clients.vectors.decode import AnswerForm

NATIVE_PATH = "/embed"
_EMBED_DTYPES = {AnswerForm.BYTES: "float32", AnswerForm.HALF_BYTES: "float16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How an embedding request is written: path, and the bytes around the JSON array of texts.

    Attributes:
        path: Path on the server.
        prefix, suffix: What stands before and behind the array.
        form: How vectors stand in the answer.
        is_indexed: Whether the answer says which vector belongs to which text.
        scale: Whether the client brings the vectors to length 1, because the server does not.
    """

    path: str
    prefix: bytes
    suffix: bytes
    form: AnswerForm
    is_indexed: bool = True
    scale: bool = False


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
    if form.is_raw:
        form = AnswerForm.HALF_BYTES if options.half else AnswerForm.BYTES
    fields: dict[str, Any] = {}
    if facts.kind == "openai":
        fields["model"] = options.model or facts.model_id
    if form is AnswerForm.BASE64:
        fields["encoding_format"] = "base64"
    elif form.is_raw:
        fields |= {"encoding_format": "bytes_only", "embed_dtype": _EMBED_DTYPES[form], "endianness": "little"}
    if options.dimensions is not None:
        fields["dimensions"] = options.dimensions
    if facts.cuts_with is not None and options.truncate:
        fields[facts.cuts_with] = -1  # the model's own limit
    base = OPENAI_BASE if facts.openai_base is None else facts.openai_base
    return Route(
        path=f"{base}/embeddings",
        prefix=b'{"input":',
        suffix=_rest(fields),
        form=form,
        is_indexed=facts.is_indexed,
        scale=options.normalize and not facts.unit_length,
    )


def _native(options: EmbedOptions) -> Route:
    fields: dict[str, Any] = {"truncate": options.truncate, "normalize": options.normalize}
    if options.dimensions is not None:
        fields["dimensions"] = options.dimensions
    return Route(path=NATIVE_PATH, prefix=b'{"inputs":', suffix=_rest(fields), form=AnswerForm.NATIVE_FLOATS)


def _rest(fields: dict[str, Any]) -> bytes:
    """Further fields and the end of the object: `,"a":1}`."""
    return b"," + orjson.dumps(fields)[1:] if fields else b"}"
