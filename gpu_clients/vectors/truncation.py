"""Which texts did the server cut? TEI says nothing about it, but it counts tokens.

A batch whose tokens together are fewer than `max_input_length` cannot hold a text that was cut, and no text has more
tokens than bytes: that clears nearly every batch for the price of a comparison. For the others the texts' tokens are
estimated from the bytes per token seen so far; only those near the limit are put before the server's tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass

_SPECIAL_TOKENS = 8
"""Room for special tokens and what a tokenizer may add around a text."""
SURELY = 1.5
"""An estimate that many times above or below the limit is taken as it is."""


@dataclass(frozen=True, slots=True)
class Suspects:
    """Texts that may have been cut.

    Attributes:
        cut: Texts that surely were.
        unsure: Texts that the tokenizer has to judge.
    """

    cut: list[int]
    unsure: list[int]


_NOBODY = Suspects([], [])


class TruncationJudge:
    """Judges the texts of one server's batches.

    Args:
        max_input_length: Tokens after which the server cuts; None when it does not cut, or does not say.
    """

    def __init__(self, max_input_length: int | None) -> None:
        self.limit_tokens = max_input_length
        self._bytes_per_token = 4.0

    def clears(self, body_bytes: int, tokens: int | None) -> bool:
        """Whether a batch's body size and tokens alone show that nothing of it was cut; learns from those."""
        limit = self.limit_tokens
        if limit is None or body_bytes + _SPECIAL_TOKENS < limit:
            return True
        if tokens is not None and tokens < limit:
            if tokens:
                self._bytes_per_token += 0.05 * (body_bytes / tokens - self._bytes_per_token)
            return True
        return False

    def suspects(self, texts: list[str]) -> Suspects:
        """The texts of a batch that was not cleared which may have been cut."""
        limit = self.limit_tokens
        if limit is None:
            return _NOBODY
        cut, unsure = [], []
        for number, text in enumerate(texts):
            # characters first: most texts are cleared without being encoded
            if 4 * len(text) + _SPECIAL_TOKENS < limit:
                continue
            n_bytes = len(text.encode("utf-8"))
            if n_bytes + _SPECIAL_TOKENS < limit:
                continue
            estimate = n_bytes / self._bytes_per_token
            if estimate > SURELY * limit:
                cut.append(number)
            elif estimate * SURELY > limit:
                unsure.append(number)
        return Suspects(cut, unsure)

    def learn(self, n_bytes: int, n_tokens: int) -> None:
        """Take a text's true number of tokens in."""
        if n_tokens:
            self._bytes_per_token += 0.05 * (n_bytes / n_tokens - self._bytes_per_token)

    def estimate(self, text: str) -> bool:
        """Whether a text was cut, as far as an estimate goes."""
        return self.limit_tokens is not None and len(text.encode()) / self._bytes_per_token > self.limit_tokens
