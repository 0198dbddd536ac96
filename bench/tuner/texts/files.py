"""Texts to measure with, from a file: one text a line, or JSON lines with a field `text`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import orjson

from bench.tuner.texts.corpus import WINDOW_TEXTS
from engine.errors import ConfigError

MAX_TEXTS = 2 * WINDOW_TEXTS
"""More texts than a run sorts at a time would not change what is measured."""

_MAX_READ_BYTES = 256 << 20


def read_texts(path: Path, seed: int) -> list[str]:
    """At most `MAX_TEXTS` texts of a file, drawn at random from its first 256 MiB.

    Raises:
        ConfigError: the file cannot be read, holds no text, or a line is not what its name promises.
    """
    rng = random.Random(seed)
    drawn: list[str] = []
    try:
        for number, text in enumerate(_texts(path)):
            if len(drawn) < MAX_TEXTS:
                drawn.append(text)
            elif (place := rng.randrange(number + 1)) < MAX_TEXTS:
                drawn[place] = text
    except OSError as error:
        raise ConfigError(f"--texts {path} cannot be read ({error.strerror})") from error
    if not drawn:
        raise ConfigError(f"--texts {path} holds no text; expected one text a line, or .jsonl with a field `text`")
    return drawn


def _texts(path: Path) -> Iterator[str]:
    read_bytes = 0
    is_json = path.suffix in (".jsonl", ".ndjson")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            read_bytes += len(line)
            if read_bytes > _MAX_READ_BYTES:
                return
            content = line.rstrip(b"\r\n")
            if not content.strip():
                continue
            # invalid UTF-8 becomes lone surrogates, which no server takes: counted as unusable later
            yield _field(path, number, content) if is_json else content.decode("utf-8", "surrogateescape")


def _field(path: Path, number: int, line: bytes) -> str:
    try:
        parsed = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"--texts {path}: line {number} is not JSON ({error})") from error
    text = parsed.get("text") if isinstance(parsed, dict) else None
    if not isinstance(text, str):
        raise ConfigError(f"--texts {path}: line {number} has no string in a field `text`")
    return text
