"""A made-up tokenizer, for the backends that have no real one.

One token for every 4 characters begun, plus two special ones ([CLS] and [SEP]): `ceil(len(text) / 4) + 2`. Cutting
keeps whole tokens, so a cut text counts exactly the limit.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

CHARS_PER_TOKEN: Final = 4
SPECIAL_TOKENS: Final = 2
CLS_ID: Final = 101
SEP_ID: Final = 102
_FIRST_ID: Final = 1_000
_N_IDS: Final = 64_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token as `/tokenize` shows it; `start` and `stop` are characters, None for special tokens."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


def n_tokens(text: str) -> int:
    """Return the number of tokens of `text`, special tokens included."""
    return (len(text) + 3) // CHARS_PER_TOKEN + SPECIAL_TOKENS


def cut(text: str, max_tokens: int, *, left: bool, prompt_chars: int = 0) -> str:
    """Return `text` cut to `max_tokens`; the first `prompt_chars` characters are kept, `left` cuts after them."""
    room = max(0, max_tokens - SPECIAL_TOKENS) * CHARS_PER_TOKEN
    if len(text) <= room:
        return text
    if not left:
        return text[:room]
    prompt = text[: min(prompt_chars, room)]
    rest = room - len(prompt)
    return prompt + (text[len(text) - rest :] if rest else "")


def tokenize(text: str, *, add_special_tokens: bool) -> list[Token]:
    """Return the tokens of `text`; equal pieces have equal ids."""
    pieces = [
        Token(
            id=_id_of(text[start : start + CHARS_PER_TOKEN]),
            text=text[start : start + CHARS_PER_TOKEN],
            special=False,
            start=start,
            stop=min(start + CHARS_PER_TOKEN, len(text)),
        )
        for start in range(0, len(text), CHARS_PER_TOKEN)
    ]
    if not add_special_tokens:
        return pieces
    first = Token(id=CLS_ID, text="[CLS]", special=True, start=None, stop=None)
    last = Token(id=SEP_ID, text="[SEP]", special=True, start=None, stop=None)
    return [first, *pieces, last]


def decode(ids: list[int], *, skip_special_tokens: bool = True) -> str:
    """Return a text of one 4-character piece per id. The rule has no vocabulary: it is not the original text."""
    special = {CLS_ID: "[CLS]", SEP_ID: "[SEP]"}
    return "".join(
        special.get(one, f"{one % 10_000:04d}") for one in ids if not (skip_special_tokens and one in special)
    )


def _id_of(piece: str) -> int:
    digest = hashlib.blake2b(piece.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return _FIRST_ID + int.from_bytes(digest, "little") % _N_IDS
