"""A chart of points on a plane, joined by lines: its figures stand beside the axes as text of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bench.page.charts import key, number

WIDTH, HEIGHT = 1000, 420
_N_COLOURS = 5
_STEPS = (1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class Dot:
    """A point: where it is, half the length of its error bar along x, what it is called, and whether it is the one."""

    x: float
    y: float
    half_width: float = 0.0
    title: str = ""
    is_chosen: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis from a value to another one.

    Attributes:
        name: With its unit.
        is_log: Whether equal lengths are equal factors.
    """

    name: str
    low: float
    high: float
    is_log: bool = False

    def place(self, value: float) -> float:
        """Where a value is, 0 to 1."""
        if self.is_log:
            low, high, value = math.log(self.low), math.log(self.high), math.log(max(value, 1e-12))
        else:
            low, high = self.low, self.high
        return min(1.0, max(0.0, (value - low) / (high - low or 1.0)))

    def marks(self) -> list[float]:
        """Round values along it, three to six."""
        if self.is_log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            every = [step * 10.0**power for power in range(first, last + 1) for step in _STEPS]
            shown = [value for value in every if self.low <= value <= self.high]
            return shown if len(shown) <= 6 else [value for value in shown if f"{value:e}"[0] == "1"] or shown[::3]
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / 3 or 1.0))
        step *= next((factor for factor in (1, 2, 5, 10) if (self.high - self.low) / (step * factor) <= 5), 10)
        first = math.ceil(self.low / step)
        return [index * step for index in range(first, math.floor(self.high / step) + 1)]


def axis_of(name: str, values: Sequence[float], *, is_log: bool = False) -> Axis:
    """An axis on which all of some values have room."""
    low, high = min(values), max(values)
    if is_log:
        return Axis(name, low / 1.25, high * 1.25, is_log=True)
    return Axis(name, 0.0, high * 1.05 or 1.0)


def plane(
    title: str,
    series: Sequence[tuple[str, Sequence[Dot]]],
    *,
    across: Axis,
    up: Axis,
    limit: tuple[float, str] | None = None,
) -> str:
    """Points joined in their order, a colour for each series.

    Args:
        limit: A value of `up` to draw a line at, and what it is.
    """
    dots = [dot for _, some in series for dot in some]
    if not dots:
        return f'<p class="dim">{escape(title)}: nothing was measured.</p>'
    parts = [_grid(across, up)]
    if limit is not None:
        y = _y(up, limit[0])
        parts.append(
            f'<line class="limit" x1="0" x2="{WIDTH}" y1="{y}" y2="{y}"><title>{escape(limit[1])}</title></line>'
        )
    for index, (_, some) in enumerate(series):
        parts += _line(index % _N_COLOURS, some, across, up)
    chosen = [dot.title for dot in dots if dot.is_chosen]
    told = f"{len(dots)} points. {'Chosen: ' + chosen[0] + '.' if chosen else 'None is chosen.'}"
    marks = "".join(f'<span style="bottom:{up.place(value) * 100:.1f}%">{number(value)}</span>' for value in up.marks())
    below = "".join(
        f'<span style="left:{across.place(value) * 100:.1f}%">{number(value)}</span>' for value in across.marks()
    )
    names = [name for name, _ in series]
    extra = "".join(
        f"<li>{escape(text)}</li>"
        for text in ("a ring: the chosen point" if chosen else "", limit[1] if limit else "")
        if text
    )
    legend = key(names).removesuffix("</ul>") + extra + "</ul>"
    return (
        f'<div class="plane"><span class="top">{escape(title)}; up: {escape(up.name)}, across: {escape(across.name)}'
        f'</span><div class="field"><svg role="img" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title><desc>{escape(told)}</desc>{"".join(parts)}</svg>'
        f'{_round(series, across, up)}<div class="ups" aria-hidden="true">{marks}</div></div>'
        f'<div class="acrosses" aria-hidden="true">{below}</div>{legend}</div>'
    )


def _y(up: Axis, value: float) -> str:
    return f"{HEIGHT - up.place(value) * HEIGHT:.1f}"


def _x(across: Axis, value: float) -> str:
    return f"{across.place(value) * WIDTH:.1f}"


def _grid(across: Axis, up: Axis) -> str:
    lines = [f'<path class="grid" d="M0 {_y(up, value)}H{WIDTH}"/>' for value in up.marks()]
    lines += [f'<path class="grid" d="M{_x(across, value)} 0V{HEIGHT}"/>' for value in across.marks()]
    return "".join(lines)


def _line(colour: int, dots: Sequence[Dot], across: Axis, up: Axis) -> list[str]:
    path = "".join(f"{'L' if at else 'M'}{_x(across, dot.x)} {_y(up, dot.y)}" for at, dot in enumerate(dots))
    bars = "".join(
        f"M{_x(across, dot.x - dot.half_width)} {_y(up, dot.y)}H{_x(across, dot.x + dot.half_width)}"
        for dot in dots
        if dot.half_width > 0
    )
    drawn = [f'<path class="line c{colour}" d="{path}"/>']
    return [*drawn, f'<path class="line bar c{colour}" d="{bars}"/>'] if bars else drawn


def _round(series: Sequence[tuple[str, Sequence[Dot]]], across: Axis, up: Axis) -> str:
    """The points themselves: elements of the page, so that they are round however wide it is."""
    return "".join(
        f'<i class="dot c{index % _N_COLOURS}{" chosen" if dot.is_chosen else ""}" title="{escape(dot.title)}" '
        f'style="left:{across.place(dot.x) * 100:.2f}%;bottom:{up.place(dot.y) * 100:.2f}%"></i>'
        for index, (_, dots) in enumerate(series)
        for dot in dots
    )
