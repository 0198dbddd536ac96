"""The `canned` backend: fixed rows, answered at once, for measuring the engine.

Row i of every answer is the same unit vector, whatever the texts. The rows are encoded once, one behind the other, so
an answer of n rows is a slice of that buffer and costs no work.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.standin.api.encoding import Rows, encoded_rows
from bench.standin.backends import tokens
from bench.standin.backends.base import Backend, BackendDefaults, Job, prepare_by_rule
from bench.standin.backends.minilm_tokenizer import MiniLmTokenizer
from bench.standin.backends.vectors import RAW_NORM, numbered_rows, numbered_token_rows, shaped
from bench.standin.http.connection import Block

DEFAULTS = BackendDefaults(model_id="google/embeddinggemma-300m", dim=768, dtype="float32", max_input_length=2_048)


@dataclass(slots=True)
class _Prepared:
    joined: memoryview  # row 0 "," row 1 "," ...
    ends: list[int]  # where each row ends


class CannedBackend(Backend):
    """Answers at once with rows that depend on their position only."""

    def __init__(
        self, *, model_id: str, dim: int, max_input_length: int, tokenizer: MiniLmTokenizer | None = None
    ) -> None:
        """
        Args:
            tokenizer: A real one that counts and cuts; None for the made-up rule.
        """
        self._tokenizer = tokenizer
        self.model_id = model_id
        self.dim = dim
        self._max_input_length = max_input_length
        self._rows = numbered_rows(model_id, 32, dim)
        self._halves = self._rows.astype("<f2")
        self._prepared: dict[tuple[bool, bool], _Prepared] = {}

    def submit(self, job: Job) -> None:
        if self._tokenizer is None:
            n_rows = len(prepare_by_rule(job, self._max_input_length))
        else:
            n_rows = len(self._tokenizer.prepare(job, self._max_input_length))
        self._grow(n_rows)
        rows = self._rows[:n_rows]
        if job.dimensions is not None or not job.normalize:
            rows = shaped(rows * RAW_NORM, job.dimensions, job.normalize)
        job.rows = rows
        job.on_done(job)

    def prepared(self, n_rows: int, *, base64: bool, openai: bool) -> Block | None:
        self._grow(n_rows)
        found = self._prepared.get((base64, openai))
        if found is None:
            found = self._encode(base64=base64, openai=openai)
        return found.joined[: found.ends[n_rows - 1]]

    def prepared_halves(self, n_rows: int) -> Block | None:
        self._grow(n_rows)
        if len(self._halves) != len(self._rows):
            self._halves = self._rows.astype("<f2")
        return self._halves[:n_rows].data.cast("B")

    def tokenize(self, text: str, *, add_special_tokens: bool) -> list[tokens.Token]:
        if self._tokenizer is not None:
            return self._tokenizer.tokenize(text, add_special_tokens=add_special_tokens)
        return tokens.tokenize(text, add_special_tokens=add_special_tokens)

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        if self._tokenizer is not None:
            return self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return tokens.decode(ids, skip_special_tokens=skip_special_tokens)

    def token_rows(self, job: Job) -> list[Rows]:
        return numbered_token_rows(self.model_id, job.n_tokens, self.dim)

    def free_at_s(self) -> float:
        return 0.0

    def set_slow_factor(self, factor: float) -> None:
        """Do nothing: an answer that takes no time stays so. Use the `delay` fault."""

    def switch_model(self, model_id: str) -> None:
        self.model_id = model_id
        self._prepared.clear()
        self._rows = numbered_rows(model_id, len(self._rows), self.dim)
        self._halves = self._rows.astype("<f2")

    def metrics(self) -> dict[str, float]:
        return {}

    @property
    def rows(self) -> Rows:
        """Return the rows made so far, float32 (n, dim)."""
        return self._rows

    def _grow(self, n_rows: int) -> None:
        if n_rows > len(self._rows):
            self._rows = numbered_rows(self.model_id, max(n_rows, 2 * len(self._rows)), self.dim)
            self._prepared.clear()

    def _encode(self, *, base64: bool, openai: bool) -> _Prepared:
        rows = encoded_rows(self._rows, base64=base64, openai=openai)
        ends, end = [], -1
        for row in rows:
            end += 1 + len(row)
            ends.append(end)
        found = self._prepared[base64, openai] = _Prepared(memoryview(b",".join(rows)), ends)
        return found
