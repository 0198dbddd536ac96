"""The tokenizer of all-MiniLM-L6-v2: a real one, with the cutting and refusing that the server does around it."""

from __future__ import annotations

from pathlib import Path

from bench.standin.api.messages import ApiError
from bench.standin.backends import tokens
from bench.standin.backends.base import MAX_CHARS_PER_TOKEN, Job, empty_input, too_long
from bench.standin.errors import ModelMissing


class MiniLmTokenizer:
    """Tokenises the inputs of jobs; may be used by several threads."""

    def __init__(self, folder: Path) -> None:
        """Read the tokenizer.

        Raises:
            ModelMissing: the package that it needs is not installed.
        """
        try:
            # optional: the other backends do without it
            from tokenizers import Tokenizer  # noqa: PLC0415
        except ModuleNotFoundError as missing:
            raise ModelMissing(
                "The minilm backend needs tokenizers, which is not installed: pip install tokenizers."
            ) from missing
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._n_ids = int(self._tokenizer.get_vocab_size())

    def prepare(self, job: Job, limit: int) -> list[list[int]]:
        """Return the ids of the sound inputs, cut to `limit`; set the counts, the error, and whether it panics."""
        kept: list[list[int]] = []
        for one in job.inputs:
            ids = self._ids(one, job, limit)
            if isinstance(ids, ApiError):
                job.error = job.error or ids
            else:
                kept.append(ids)
        job.n_tokens = [len(ids) for ids in kept]
        return kept

    def tokenize(self, text: str, *, add_special_tokens: bool) -> list[tokens.Token]:
        """Return the tokens of `text`, not cut."""
        found = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return [
            tokens.Token(
                id=one,
                text=piece if special else text[start:stop],
                special=bool(special),
                start=None if special else start,
                stop=None if special else stop,
            )
            for one, piece, special, (start, stop) in zip(
                found.ids, found.tokens, found.special_tokens_mask, found.offsets, strict=True
            )
        ]

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        """Return the text of `ids`."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))

    def _ids(self, one: str | list[int], job: Job, limit: int) -> list[int] | ApiError:
        if not one:
            return empty_input()
        special = True
        if isinstance(one, str):
            text = one
        else:
            job.panics = job.panics or max(one) >= self._n_ids
            # ids are decoded and encoded again, as the real server does: no short cut
            special = bool(job.prompt)
            text = self.decode(one, skip_special_tokens=special)
        job.n_chars += len(text)
        text = job.prompt + text
        if len(text) > MAX_CHARS_PER_TOKEN * limit:
            if not job.truncate:
                return too_long(job, "characters", MAX_CHARS_PER_TOKEN * limit, len(text))
            text = text[-MAX_CHARS_PER_TOKEN * limit :] if job.left else text[: MAX_CHARS_PER_TOKEN * limit]
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special).ids
        if len(ids) <= limit:
            return ids
        if not job.truncate:
            return too_long(job, "tokens", limit, len(ids))
        # the special tokens at both ends survive
        if job.left:
            return [ids[0], *ids[len(ids) - limit + 1 :]]
        return [*ids[: limit - 1], ids[-1]]
