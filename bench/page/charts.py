"""Charts of the page: SVG that stretches with the page, with its words beside it as text of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
WIDTH, HEIGHT = 1000, 100
N_POINTS = 700
"""Points of a line: more than that a screen does not show."""


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch behind a line: x from and to, 0 to 1, a class of the style sheet, words, and a place on the page."""

    begin: float
    end: float
    kind: str
    title: str
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """An event: x, 0 to 1, a class of the style sheet, and words."""

    at: float
    kind: str
    title: str


def number(value: float, unit: str = "") -> str:
    """A figure for people: `12,345`, `0.42`, or a dash when there is none."""
    if not math.isfinite(value):
        return "-"
    if abs(value) >= 100 or value == int(value):
        text = f"{value:,.0f}"
    elif abs(value) >= 1:
        text = f"{value:,.1f}"
    else:
        text = f"{value:.3g}"
    return f"{text}{unit}"


def binned(at: Values, weights: Values, values: Values, begin: float, end: float) -> Values:
    """Means of a series over `N_POINTS` equal spans of time, float64 (N_POINTS, 2): x from 0 to 1, and the mean.

    Args:
        at: Middles of the samples.
        weights: Their seconds.
        values: NaN where there is none; a span without any is left out.
    """
    there = np.isfinite(values)
    if end <= begin or not there.any():
        return np.empty((0, 2))
    place = np.clip(((at[there] - begin) / (end - begin) * N_POINTS).astype(np.int64), 0, N_POINTS - 1)
    weight = np.bincount(place, weights[there], N_POINTS)
    total = np.bincount(place, (values * weights)[there], N_POINTS)
    found = np.flatnonzero(weight > 0)
    return np.column_stack([(found + 0.5) / N_POINTS, total[found] / weight[found]])


def line_chart(
    title: str,
    series: Sequence[tuple[str, Values]],
    *,
    unit: str,
    ends: tuple[str, str],
    bands: Sequence[Band] = (),
    ticks: Sequence[Tick] = (),
    low: bool = False,
    gap: float = 0.05,
) -> str:
    """Lines over time.

    Args:
        series: Names and what `binned` gave.
        ends: Words for the left and the right end of the axis.
        gap: Spans without a point that are longer than this share of the chart interrupt a line.
    """
    top = max((float(points[:, 1].max()) for _, points in series if len(points)), default=0.0)
    if top <= 0:
        return f'<p class="dim">{escape(title)}: nothing was recorded.</p>'
    parts = [_band(band) for band in bands]
    for index, (_, points) in enumerate(series):
        parts.append(f'<path class="line c{index}" d="{_path(points, top * 1.06, gap)}"/>')
    parts += [
        f'<line class="tick {tick.kind}" x1="{tick.at * WIDTH:.1f}" x2="{tick.at * WIDTH:.1f}" y1="0" y2="{HEIGHT}">'
        f"<title>{escape(tick.title)}</title></line>"
        for tick in ticks
    ]
    last = ", ".join(f"{name} {number(float(points[-1, 1]))} at the end" for name, points in series if len(points))
    key = "" if len(series) < 2 else _key([name for name, _ in series])
    return (
        f'<div class="chart{" low" if low else ""}">'
        f'<span class="top">{escape(title)}, top {number(top)} {escape(unit)}</span>'
        f'<svg role="img" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'preserveAspectRatio="none" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        f"<desc>{escape(f'Highest {number(top)} {unit}; {last}.')}</desc>{''.join(parts)}</svg>"
        f'<div class="ends"><span>{escape(ends[0])}</span><span>{escape(ends[1])}</span></div>{key}</div>'
    )


def _band(band: Band) -> str:
    width = max(1.0, (band.end - band.begin) * WIDTH)
    shape = (
        f'<rect class="band {band.kind}" x="{band.begin * WIDTH:.1f}" y="0" width="{width:.1f}" height="{HEIGHT}">'
        f"<title>{escape(band.title)}</title></rect>"
    )
    return f'<a href="#{band.anchor}" aria-label="{escape(band.title)}">{shape}</a>' if band.anchor else shape


def _path(points: Values, top: float, gap: float) -> str:
    words: list[str] = []
    before = -math.inf
    for x, y in points:
        words.append(f"{'M' if x - before > gap else 'L'}{x * WIDTH:.0f} {HEIGHT - y / top * HEIGHT:.1f}")
        before = x
    if len(points) == 1:
        words.append("h2")
    return "".join(words)


def bar_chart(title: str, bars: Sequence[tuple[str, float]], *, ends: tuple[str, str]) -> str:
    """Bars side by side, each with words that name it."""
    top = max((value for _, value in bars), default=0.0)
    if top <= 0:
        return f'<p class="dim">{escape(title)}: nothing was recorded.</p>'
    width = WIDTH / len(bars)
    shapes = "".join(
        f'<rect x="{index * width + width * 0.08:.1f}" width="{width * 0.84:.1f}" y="{HEIGHT - value / top * 94:.1f}" '
        f'height="{value / top * 94:.1f}"><title>{escape(name)}</title></rect>'
        for index, (name, value) in enumerate(bars)
    )
    most = max(bars, key=lambda bar: bar[1])[0]
    return (
        f'<div class="chart"><svg role="img" class="bars" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title><desc>{escape(f"Most: {most}.")}</desc>'
        f"{shapes}</svg>"
        f'<div class="ends"><span>{escape(ends[0])}</span><span>{escape(ends[1])}</span></div></div>'
    )


def share_bar(title: str, shares: Sequence[tuple[str, float]]) -> str:
    """Parts of a whole in one bar, with their words under it."""
    known = [(name, value) for name, value in shares if math.isfinite(value) and value > 0]
    total = sum(value for _, value in known)
    if total <= 0:
        return '<span class="dim">-</span>'
    words = ", ".join(f"{name} {value / total:.0%}" for name, value in known)
    names = [name for name, _ in shares]
    parts = "".join(
        f'<i class="c{names.index(name) % 5}" style="width:{value / total * 100:.1f}%" title="{escape(name)}"></i>'
        for name, value in known
    )
    return f'<div class="share" role="img" aria-label="{escape(f"{title}: {words}")}">{parts}</div>'


def _key(names: Sequence[str]) -> str:
    return key(names)


def key(names: Sequence[str]) -> str:
    """What the colours of a chart mean."""
    items = "".join(f'<li><i class="c{index % 5}"></i>{escape(name)}</li>' for index, name in enumerate(names))
    return f'<ul class="key">{items}</ul>'


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str,
    anchors: Sequence[str] = (),
    chosen: Sequence[bool] = (),
) -> str:
    """A table; cells are HTML, and those that begin with `<` are text that may wrap.

    Args:
        anchors: The `id` of each row, from the first one on.
        chosen: Of each row, whether it stands out.
    """
    cells = []
    for index, row in enumerate(rows):
        anchor = f' id="{anchors[index]}"' if index < len(anchors) else ""
        line = "".join(f'<td class="text">{cell}</td>' if cell.startswith("<") else f"<td>{cell}</td>" for cell in row)
        stands_out = ' class="chosen"' if index < len(chosen) and chosen[index] else ""
        cells.append(f"<tr{anchor}{stands_out}>{line}</tr>")
    wraps = [any(row[index].startswith("<") for row in rows) for index in range(len(head))]
    top = "".join(
        f'<th scope="col"{" class=text" if wrap else ""}>{escape(name)}</th>'
        for name, wrap in zip(head, wraps, strict=True)
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption class='dim'>{escape(caption)}</caption><thead><tr>{top}</tr></thead>"
        f"<tbody>{''.join(cells)}</tbody></table></div>"
    )
