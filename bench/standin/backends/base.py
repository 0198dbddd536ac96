"""The backend protocol: what computes vectors for a server, and the job that passes between the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

from bench.standin.api.encoding import Rows
from bench.standin.api.messages import ApiError, Input
from bench.standin.backends import tokens
from bench.standin.http.connection import Block


@dataclass(slots=True)
class Job:
    """One admitted embedding request: what is asked, and (once done) what came out."""

    inputs: list[Input]
    truncate: bool
    left: bool
    prompt: str
    dimensions: int | None
    normalize: bool
    arrived_s: float
    too_long_status: int  # 422, or 413 in the older dialect
    on_done: Callable[[Job], None]
    poison: frozenset[int] = frozenset()  # indexes whose whole GPU batch fails
    on_abandoned: Callable[[], None] | None = None  # set by a backend that can skip what nobody waits for
    # results
    rows: Rows | None = None
    n_tokens: list[int] = field(default_factory=list)
    n_chars: int = 0
    error: ApiError | None = None  # of the first bad input
    backend_failed: bool = False
    panics: bool = False  # it ends the server that it was sent to
    tokenization_s: float = 0.0  # means over the inputs
    queue_s: float = 0.0
    inference_s: float = 0.0

    def abandon(self) -> None:
        """Say that the client went away: whatever is not computed yet may be skipped."""
        if self.on_abandoned is not None:
            self.on_abandoned()


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendDefaults:
    """What a backend is by itself; a configuration may say otherwise where it makes sense."""

    model_id: str
    dim: int
    dtype: str
    max_input_length: int


class Backend(Protocol):
    """Computes vectors for one server (one port)."""

    model_id: str
    dim: int

    def submit(self, job: Job) -> None:
        """Compute `job` and call `job.on_done(job)` on the loop's thread, at once or later."""

    def prepared(self, n_rows: int, *, base64: bool, openai: bool) -> Block | None:
        """Return a ready-made run of `n_rows` encoded rows (the inside of the array), if there is one."""

    def prepared_halves(self, n_rows: int) -> Block | None:
        """Return a ready-made run of `n_rows` rows as float16 bytes, if there is one."""
        return None

    def tokenize(self, text: str, *, add_special_tokens: bool) -> list[tokens.Token]:
        """Return the tokens of `text`, not truncated."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        """Return the text of `ids`."""

    def token_rows(self, job: Job) -> list[Rows]:
        """Return the vectors of each token of a job that is done, float32 (tokens, dim) for each text."""

    def free_at_s(self) -> float:
        """Return the loop's time at which the batch that is running now ends; any past time when idle."""

    def set_slow_factor(self, factor: float) -> None:
        """Take `factor` times as long from now on."""

    def switch_model(self, model_id: str) -> None:
        """Give another model's vectors from now on."""

    def metrics(self) -> dict[str, float]:
        """Return the backend's own counters by metric name."""


def too_long(job: Job, unit: str, limit: int, given: int) -> ApiError:
    """Return the error of an input above a limit that may not be truncated."""
    return ApiError(
        status=job.too_long_status,
        kind="Validation",
        message=f"Input validation error: `inputs` must have less than {limit} {unit}. Given: {given}",
    )


def empty_input() -> ApiError:
    """Return the error of an input without characters or ids."""
    return ApiError(status=400, kind="Empty", message="Input validation error: `inputs` cannot be empty")


#: The server refuses (or cuts) texts of more characters than this per token of the limit.
MAX_CHARS_PER_TOKEN = 250


def prepare_by_rule(job: Job, max_input_length: int) -> list[str]:
    """Tokenise the inputs of `job` by the made-up rule; return the texts that are left to embed, cut.

    Sets `n_tokens`, `n_chars` and `error` of the job. An input that is in error is left out: the real server, too,
    computes the others before it answers with the first error.
    """
    limit_chars = (max_input_length - tokens.SPECIAL_TOKENS) * tokens.CHARS_PER_TOKEN
    if not job.prompt and set(map(type, job.inputs)) == {str}:
        # the usual case, without a look at each text: it is half of what a canned answer costs
        lengths = list(map(len, job.inputs))
        if min(lengths) > 0 and max(lengths) <= limit_chars:
            job.n_chars = sum(lengths)
            job.n_tokens = [(length + 3) // 4 + 2 for length in lengths]
            return cast("list[str]", job.inputs)
    texts: list[str] = []
    counts = job.n_tokens
    prompt = job.prompt
    n_chars = 0
    for one in job.inputs:
        text = one if isinstance(one, str) else tokens.decode(one)
        if not text:
            job.error = job.error or empty_input()
            continue
        n_chars += len(text)
        if prompt:
            text = prompt + text
        if len(text) > limit_chars:
            if not job.truncate:
                job.error = job.error or _refusal(job, text, max_input_length)
                continue
            text = tokens.cut(text, max_input_length, left=job.left, prompt_chars=len(prompt))
        texts.append(text)
        counts.append(tokens.n_tokens(text))
    job.n_chars = n_chars
    return texts


def _refusal(job: Job, text: str, max_input_length: int) -> ApiError:
    if len(text) > MAX_CHARS_PER_TOKEN * max_input_length:
        return too_long(job, "characters", MAX_CHARS_PER_TOKEN * max_input_length, len(text))
    return too_long(job, "tokens", max_input_length, tokens.n_tokens(text))
