"""A run's processes, what they share, and the order in which a shard becomes true; docs/design.md in one picture."""

from __future__ import annotations

from html import escape
from pathlib import Path

WIDTH, HEIGHT = 980, 452
STYLE = """
:root{--paper:#fff;--ink:#1b1f24;--dim:#57606a;--line:#8c959f;--process:#ddf4ff;--edge:#0a58ca;--store:#fff1d6;
--rim:#a85d00;--ring:#eaeef2;--order:#b3261e}
@media (prefers-color-scheme:dark){:root{--paper:#0d1117;--ink:#e6edf3;--dim:#9aa7b4;--line:#6e7781;--process:#0c2d4a;
--edge:#79b8ff;--store:#3a2a0c;--rim:#ffb757;--ring:#21262d;--order:#ff8d85}}
.paper{fill:var(--paper);stroke:var(--line);stroke-opacity:.4}
text{font:15px system-ui,sans-serif;fill:var(--ink);text-anchor:middle}
.small{font-size:12.5px;fill:var(--dim)}.name{font-weight:600}.start{text-anchor:start}.end{text-anchor:end}
.process{fill:var(--process);stroke:var(--edge);stroke-width:1.5}
.store{fill:var(--store);stroke:var(--rim);stroke-width:1.5}
.other{fill:var(--ring);stroke:var(--line);stroke-width:1.5}
.slot{fill:var(--ring);stroke:var(--line)}.full{fill:var(--edge);fill-opacity:.55}
.flow{fill:none;stroke:var(--edge);stroke-width:2.2}.order{fill:none;stroke:var(--order);stroke-width:1.8}
.tip{fill:var(--edge)}.ordertip{fill:var(--order)}.number{fill:var(--order);font-weight:700}
"""


def draw_architecture(picture: Path) -> None:
    """Write the picture."""
    picture.write_text(architecture(), encoding="utf-8")


def architecture() -> str:
    """The picture as SVG; its colours are those that the reader's system prefers, on a ground of its own."""
    parts = [
        _box("store", 20, 56, 140, "MongoDB", "or a folder of files"),
        _box("process", 222, 56, 124, "reader", "pages by key"),
        _ring(402, 66, "document ring", "ids + ready JSON"),
        _pile("process", 610, 56, 130, "client k", "one for each server"),
        _pile("other", 816, 56, 136, "server k", "TEI, vLLM, ..."),
        _ring(610, 198, "vector ring", "ids + float32"),
        _box("process", 410, 188, 124, "writer", "row groups, shards"),
        _box("store", 206, 188, 140, "shards", "cold: disk or S3"),
        _box("process", 410, 336, 124, "supervisor", "one for a run"),
        _box("store", 774, 336, 178, "ledger", "hot: NVMe"),
        _arrow("flow", (160, 91), (222, 91)),
        _arrow("flow", (346, 91), (402, 91)),
        _arrow("flow", (556, 91), (610, 91)),
        _arrow("flow", (752, 80), (816, 80)),
        _arrow("flow", (816, 104), (752, 104)),
        _arrow("flow", (680, 138), (680, 197)),
        _arrow("flow", (610, 223), (534, 223)),
        _arrow("flow", (410, 223), (346, 223)),
        _arrow("order", (472, 258), (472, 336)),
        _arrow("order", (534, 356), (774, 356)),
        _arrow("order", (410, 371), (90, 371), (90, 126)),
        _arrow("order", (534, 388), (774, 388)),
        _step(482, 316, "1", "shard n is durable: fsync, link, fsync", "start"),
        _step(546, 348, "2", "COMMIT n, fsync: it counts", "start"),
        _step(104, 363, "3", "mark its documents", "start"),
        _step(546, 406, "4", "MARKED n", "start"),
        _text(
            490, 436, "Killed between any two steps, the same command goes on: nothing lost, nothing doubled.", "small"
        ),
        _text(490, 30, "One run: blue is a process, yellow is durable, rings are shared memory", "small"),
    ]
    title = "A run's processes and the order of its commits"
    described = (
        "MongoDB or files, reader, document ring, a client for each server, vector ring, writer, shards. "
        "The supervisor writes COMMIT to the ledger once a shard is durable, marks its documents, then writes MARKED."
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{title}"><title>{title}</title><desc>{escape(described)}</desc>'
        f"<style>{STYLE}</style>"
        '<defs><marker id="flow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="5" markerHeight="5" orient="auto">'
        '<path class="tip" d="M0 0L8 4L0 8z"/></marker>'
        '<marker id="order" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path class="ordertip" d="M0 0L8 4L0 8z"/></marker></defs>'
        f'<rect class="paper" x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8"/>'
        + "\n".join(parts)
        + "</svg>\n"
    )


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(words)}</text>'


def _box(kind: str, x: float, y: float, width: float, name: str, about: str) -> str:
    shape = f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="70" rx="{14 if kind == "store" else 4}"/>'
    middle = x + width / 2
    return shape + _text(middle, y + 31, name, "name") + _text(middle, y + 52, about, "small")


def _pile(kind: str, x: float, y: float, width: float, name: str, about: str) -> str:
    """Several of a kind, one behind the other."""
    behind = "".join(
        f'<rect class="{kind}" x="{x + step}" y="{y + step}" width="{width}" height="70" rx="4"/>' for step in (12, 6)
    )
    return behind + _box(kind, x, y, width, name, about)


def _ring(x: float, y: float, name: str, about: str) -> str:
    """A ring of slots, some of which are full."""
    full = (1, 2, 3)
    slots = "".join(
        f'<rect class="slot{" full" if number in full else ""}" x="{x + number * 22}" y="{y}" width="22" height="50"/>'
        for number in range(7)
    )
    below = y + 70
    return slots + _text(x + 77, below, name, "name") + _text(x + 77, below + 18, about, "small")


def _arrow(kind: str, *points: tuple[float, float]) -> str:
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
    return f'<path class="{kind}" d="{path}" marker-end="url(#{kind})"/>'


def _step(x: float, y: float, number: str, words: str, anchor: str) -> str:
    return f'<text class="{anchor}" x="{x}" y="{y}"><tspan class="number">{number}</tspan> {escape(words)}</text>'
