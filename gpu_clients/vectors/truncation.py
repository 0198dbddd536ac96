"""Which texts did the server cut? TEI says nothing about it, but it counts tokens.

Nothing is cleared or condemned without a proof; in the order of what they cost:

1. A cut text has exactly `max_input_length` tokens and every other text at least its special tokens. A batch whose
   tokens together are fewer holds no text that was cut: nearly every batch, for the price of a comparison.
2. A text has at most as many tokens as bytes, and what the server puts around it. Normalising may make more bytes of
   some characters (one half becomes three), so texts that are not plain ASCII count with those of their longest form.
3. A word is at least one token (`engine.words`), so a text of more words than the limit was cut.
4. The tokenizer counts. Bytes a token say little: `!` four hundred times, a thousand emoji and base64 are all unlike.

Only where nobody counts tokens (an OpenAI-compatible server) does the bytes a token seen so far have to do instead.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from engine.words import start_of_word

_SPARE_TOKENS = 8
"""Room for what a tokenizer may add to a text: a mark of its beginning, and the like."""
_UNKNOWN_TOKENS = 64
"""Likewise, of a server that does not say what it puts around a text."""
_MOST_EXPANSION = 11
"""Bytes that normalising makes of one byte at most: the three of U+FDFA become 33."""
_BYTES_PER_TOKEN = 4.0


@dataclass(frozen=True, slots=True)
class Suspects:
    """Texts that may have been cut.

    Attributes:
        cut: Texts that surely were.
        unsure: Texts that the tokenizer has to judge.
    """

    cut: list[int]
    unsure: list[int]


@dataclass(frozen=True, slots=True)
class Truncation:
    """The judgement on a batch.

    Attributes:
        cut: Texts that were cut.
        n_estimated: Texts that only an estimate could judge.
    """

    cut: list[int]
    n_estimated: int = 0


_NOBODY = Suspects([], [])


class TruncationJudge:
    """Judges the texts of one server's batches.

    Args:
        max_input_length: Tokens after which the server cuts; None when it does not cut, or does not say.
        special_tokens: Special tokens that its tokenizer puts around a text; None when that is not known.
        default_prompt: What the server puts before a text by itself; None when that is not known.

    Attributes:
        limit_tokens: `max_input_length`.
        can_count: Whether the server's tokenizer can be asked.
    """

    def __init__(
        self, max_input_length: int | None, *, special_tokens: int | None = None, default_prompt: str | None = None
    ) -> None:
        self.limit_tokens = max_input_length
        self.can_count = special_tokens is not None
        self._special_tokens = special_tokens or 0
        known = special_tokens is not None and default_prompt is not None
        prompt_bytes = _most_bytes(default_prompt or "")
        self._around = self._special_tokens + prompt_bytes + _SPARE_TOKENS if known else _UNKNOWN_TOKENS
        self._bytes_per_token = _BYTES_PER_TOKEN

    def clears(self, body_bytes: int, n_texts: int, tokens: int | None) -> bool:
        """Whether a batch's size and tokens alone show that nothing of it was cut; learns from those.

        Args:
            body_bytes: Bytes of its texts as JSON.
            n_texts: Texts in it.
            tokens: What the server counted; None when it does not say.
        """
        limit = self.limit_tokens
        if limit is None or body_bytes * _MOST_EXPANSION + self._around <= limit:
            return True
        if tokens is not None and tokens < limit + (n_texts - 1) * self._special_tokens:
            self.learn(body_bytes, tokens)
            return True
        return False

    def suspects(self, texts: list[str]) -> Suspects:
        """The texts of a batch that was not cleared which may have been cut."""
        limit = self.limit_tokens
        if limit is None:
            return _NOBODY
        cut, unsure = [], []
        room = limit - self._around
        for number, text in enumerate(texts):
            n_characters = len(text)
            # the usual text passes here, without being encoded
            if n_characters <= room and (text.isascii() or _most_bytes(text) <= room):
                continue
            if start_of_word(text, limit) is not None:
                cut.append(number)
            else:
                unsure.append(number)
        return Suspects(cut, unsure)

    def is_cut(self, n_tokens: int) -> bool:
        """Whether a text of so many tokens was cut; one of exactly the limit was not."""
        return self.limit_tokens is not None and n_tokens > self.limit_tokens

    def learn(self, n_bytes: int, n_tokens: int) -> None:
        """Take a true number of tokens in."""
        if n_tokens:
            self._bytes_per_token += 0.05 * (n_bytes / n_tokens - self._bytes_per_token)

    def estimate(self, text: str) -> bool:
        """Whether a text was cut, as far as an estimate goes."""
        return self.limit_tokens is not None and len(text.encode()) / self._bytes_per_token > self.limit_tokens


def _most_bytes(text: str) -> int:
    """Bytes of a text in its longest form, which no tokenizer makes more tokens of."""
    if text.isascii():
        return len(text)
    return max(len(text.encode()), len(unicodedata.normalize("NFKD", text).encode()))
