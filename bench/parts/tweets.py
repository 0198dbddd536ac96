"""The 4,200 tweets that travel with the project, and how they become a collection."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from importlib import resources
from typing import Any

from bench import data

_LANGS = ("en", "en", "en", "es", "de", "fr")
_RETWEETED_EVERY = 20


def texts() -> list[str]:
    """The texts, in the file's order. Source: see `bench/data/README.md`."""
    lines = resources.files(data).joinpath("tweets.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def documents(count: int, *, retweeted: bool = True) -> Iterator[dict[str, Any]]:
    """`count` tweets with `lang`, `classified` and a share of `retweeted`, as a collection of tweets has them.

    Texts repeat after 4,200, with their number behind them, so that no two are equal.
    """
    known = texts()
    for number, text in zip(range(1, count + 1), itertools.cycle(known), strict=False):
        document: dict[str, Any] = {
            "_id": number,
            "text": text if number <= len(known) else f"{text} {number}",
            "lang": _LANGS[number % len(_LANGS)],
            "classified": number % 3 == 0,
        }
        if retweeted and number % _RETWEETED_EVERY == 0:
            document["retweeted"] = {"by": number}
        yield document
