"""The frame of every page: one HTML document that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bench.page.style import CSS

Place = tuple[str, str]
"""An `id` on the page, and the word that leads there."""


def document(title: str, body: str, *, made_by: str, places: Sequence[Place] = (), refresh_s: int | None = None) -> str:
    """A page as HTML.

    Args:
        body: HTML.
        made_by: The command that made it.
        places: Links to what is on the page, those that are there.
        refresh_s: Seconds after which a browser asks for it anew, or None.
    """
    refresh = f'<meta http-equiv="refresh" content="{refresh_s}">' if refresh_s else ""
    links = " · ".join(f'<a href="#{place}">{word}</a>' for place, word in places if f'id="{place}"' in body)
    nav = f'<nav aria-label="Sections">{links}</nav>' if links else ""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"{refresh}<title>{escape(title)}</title><style>{CSS}</style></head>"
        f"<body><header><h1>{escape(title)}</h1></header><main>{nav}{body}</main>"
        f'<footer><p class="dim">Made by <code>{escape(made_by)}</code>. Times are local.</p></footer></body></html>\n'
    )


def verdict_box(sentences: Sequence[str], *, is_bad: bool) -> str:
    """What to read first."""
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    return f'<section class="verdict{" bad" if is_bad else ""}" aria-label="Verdict">{said}</section>'


def cards(facts: Sequence[tuple[str, str]]) -> str:
    """Figures side by side, each with its name."""
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return f'<dl class="cards">{items}</dl>'
