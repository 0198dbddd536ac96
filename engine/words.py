"""Words: what every tokenizer makes at least one token of, so that their number is a bound that needs no tokenizer."""

from __future__ import annotations

import itertools
import re

_WORD = re.compile(r"\w\S*")
"""Up to the next blank. What has no letter and no digit in it is left out: control characters, accents alone and the
like are thrown away by some tokenizers. No tokenizer in use makes one token of two words."""


def start_of_word(text: str, number: int) -> int | None:
    """Where word `number` of a text begins, in characters, the first word being number 0; None when it has fewer."""
    if len(text) <= 2 * number:  # a letter and a blank each
        return None
    word = next(itertools.islice(_WORD.finditer(text), number, None), None)
    return None if word is None else word.start()
