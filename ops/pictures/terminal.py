"""A command on a terminal: what it writes there, frame by frame, and one frame as SVG."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

COLUMNS, ROWS = 112, 30
_LAST_WORDS = 4_000
_REDRAWN = re.compile(r"\r\x1b\[2K(?:\x1b\[1A\x1b\[2K)*|\x1b\[\?25[lh]")
"""How rich takes a live display away before it draws the next one, and hides the cursor."""


def written_to_terminal(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[str]:
    """What a command writes to a terminal, as it comes; the command has ended when this has.

    Raises:
        subprocess.CalledProcessError: it ended with another exit code than 0.
    """
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        command, stdin=its, stdout=its, stderr=its, env={**plain, "TERM": "xterm-256color", **environment}
    )
    os.close(its)
    last = ""
    try:
        while True:
            try:
                piece = os.read(ours, 1 << 16)
            except OSError:  # Linux's word for: nobody has the other end any more
                break
            text = piece.decode(errors="replace")
            last = (last + text)[-_LAST_WORDS:]  # a terminal gives what was written in pieces of its own choice
            yield text
    finally:
        os.close(ours)
        code = process.wait(60)
    if code:
        raise subprocess.CalledProcessError(code, command, last)


def frames(written: str) -> list[str]:
    """The states of a live display, and what was printed before and between, in order; empty ones are left out."""
    return [frame for frame in _REDRAWN.split(written.replace("\r\n", "\n")) if frame.strip()]


def as_svg(lines: Sequence[str], title: str) -> str:
    """Lines with the colours of a terminal, in a window of one."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, legacy_windows=False)
    for line in lines:
        console.print(Text.from_ansi(line), crop=False, soft_wrap=True)
    svg = console.export_svg(title=title, theme=MONOKAI, unique_id="panel")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # fonts from elsewhere: a reader's own will do
