"""What is known of a server, and what a run wants of its vectors: the nouns that settings and servers share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from gpu_clients.vectors.decode import AnswerForm

_SAME_IN_A_FLEET = (
    "kind", "model_id", "model_sha", "dtype", "pooling", "version", "max_input_length", "canary_tokens", "unit_length",
    "default_prompt",
)  # fmt: skip
_MAY_BE_UNKNOWN = ("default_prompt",)
"""A server that could not be asked at the moment differs in nothing; its canary shows a prompt all the same."""
OPENAI_BASE = "/v1"
LONGEST_TIMEOUT_S = 7_200.0
_TIMEOUT_FACTOR = 8.0


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
        form: How its vectors stand in answers of the OpenAI route: `base64`, `openai floats` or `float32 bytes`, or
            None when it has no such route.
        is_indexed: Whether it says of each vector which text it belongs to; otherwise they stand in the texts' order.
        unit_length: Whether its vectors have length 1.
        cuts_with: The field of a request that makes it cut long texts, when it wants one.
        short_is_steady: Whether the canary's short text has one vector alone and among others.
        seconds_a_text: What a long text of the canary took, when that was long.
        software: What it is and its version, when it says so and is no TEI: `vllm 0.11.0`; names no vector space.
        canary_tokens: Tokens that the canary texts have to fit into, when `max_input_length` does not say so.
        default_prompt: Text that it puts before every text by itself, empty for none; None when it cannot say.
        special_tokens: Special tokens that its tokenizer puts around a text; None when it cannot be asked.
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
    is_indexed: bool = True
    unit_length: bool = True
    cuts_with: str | None = None
    short_is_steady: bool = False
    canary_tokens: int | None = None
    default_prompt: str | None = None
    special_tokens: int | None = None
    seconds_a_text: float | None = None
    software: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The facts as JSON values."""
        return dataclasses.asdict(self)

    def differences(self, other: ServerFacts) -> list[str]:
        """One phrase for each fact that decides vectors and in which `other` differs: `dtype 'a' is not 'b'`."""
        return [
            f"{name} {getattr(other, name)!r} is not {getattr(self, name)!r}"
            for name in _SAME_IN_A_FLEET
            if getattr(other, name) != getattr(self, name)
            and not (name in _MAY_BE_UNKNOWN and self._lacks(name, other))
        ]

    def _lacks(self, name: str, other: ServerFacts) -> bool:
        return getattr(self, name) is None or getattr(other, name) is None

    @property
    def can_count(self) -> bool:
        """Whether it counts the tokens of texts (TEI's `/tokenize`)."""
        return self.special_tokens is not None

    @property
    def is_vllm(self) -> bool:
        """Whether it is a vLLM."""
        return self.software is not None and self.software.startswith("vllm")

    @property
    def most_texts(self) -> int | None:
        """Texts that a request may hold; a permit is needed for each."""
        limits = (self.max_client_batch_size, self.max_concurrent_requests)
        return min((limit for limit in limits if limit is not None), default=None)

    def timeout_s(self, n_texts: int, least_s: float) -> float:
        """Time for a request before its server's answers tell better: longer for one that is known to be slow.

        Args:
            n_texts: Texts that are embedded meanwhile, those that were sent before included.
            least_s: What any server gets.
        """
        return max(least_s, min(LONGEST_TIMEOUT_S, _TIMEOUT_FACTOR * (self.seconds_a_text or 0.0) * n_texts))

    @property
    def canary_limit(self) -> int | None:
        """Tokens that the canary texts have to fit into; None when any will do."""
        return self.canary_tokens or self.max_input_length

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
class EmbedOptions:
    """What a run wants of every vector.

    Attributes:
        model: Name for OpenAI-compatible servers, or None for what the server says.
        dimensions: Numbers to keep, or None for all.
        normalize: Whether vectors are scaled to length 1.
        truncate: Whether long texts are cut instead of refused.
        half: Whether numbers of 16 bits do, because vectors are stored so.
    """

    model: str | None = None
    dimensions: int | None = None
    normalize: bool = True
    truncate: bool = True
    half: bool = False
