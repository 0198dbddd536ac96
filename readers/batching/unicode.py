"""Whether text can be written as UTF-8: bytes that are not valid come out of a source as lone surrogates."""

from __future__ import annotations


def is_encodable(text: str) -> bool:
    """Whether a text holds no lone surrogate, so that UTF-8 and JSON can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
