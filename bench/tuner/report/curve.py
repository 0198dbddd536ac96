"""The curve of throughput and latency in a terminal, drawn with plain characters."""

from __future__ import annotations

import math

from bench.tuner.search.record import Record

_WIDTH = 60
_HEIGHT = 14
_MARKS = "abcdefghijklmnopqrstuvwxyz"


def draw(records: list[Record], chosen: Record | None, target_p95_s: float | None) -> list[str]:
    """Lines of text: documents a second to the right, 95th percentile upward (logarithmic), a letter for a batch size.

    The chosen point is an asterisk, the target a dotted line.
    """
    shown = [record for record in records if record.works and record.rate.per_s > 0 and record.p_s(0.95) > 0]
    if len(shown) < 2:
        return []
    rates = [record.rate.per_s for record in shown]
    levels = [math.log10(record.p_s(0.95)) for record in shown]
    bottom, top = min(levels), max(levels)
    if target_p95_s is not None:
        near = math.log10(target_p95_s)
        bottom, top = min(bottom, max(near, bottom - 0.5)), max(top, min(near, top + 0.5))
    width, height = max(rates), max(top - bottom, 1e-6)
    cells = [[" "] * _WIDTH for _ in range(_HEIGHT)]

    def row_of(level: float) -> int:
        return round((top - level) / height * (_HEIGHT - 1))

    if target_p95_s is not None and bottom <= math.log10(target_p95_s) <= top:
        cells[row_of(math.log10(target_p95_s))] = list(". " * (_WIDTH // 2))
    sizes = sorted({record.point.batch_size for record in shown})
    # the chosen one last, so that nothing covers it
    for record in sorted(shown, key=lambda item: item is chosen):
        column = round(record.rate.per_s / width * (_WIDTH - 1))
        mark = "*" if record is chosen else _MARKS[sizes.index(record.point.batch_size) % len(_MARKS)]
        cells[row_of(math.log10(record.p_s(0.95)))][column] = mark
    lines = []
    for number, row in enumerate(cells):
        p95_s = 10 ** (top - height * number / (_HEIGHT - 1))
        label = f"{p95_s:8.3f}" if number % 4 == 0 or number == _HEIGHT - 1 else " " * 8
        lines.append(f"{label} |{''.join(row).rstrip()}")
    lines.append(" " * 9 + "+" + "-" * _WIDTH)
    lines.append(f"{'p95 (s)':>8}  0{f'{width:,.0f} docs/s':>{_WIDTH - 1}}")
    legend = [f"{_MARKS[at % len(_MARKS)]} batch size {size}" for at, size in enumerate(sizes)]
    if chosen is not None:
        legend.append("* chosen")
    if target_p95_s is not None:
        legend.append(". . target")
    lines.append(" " * 10 + ", ".join(legend))
    return lines
