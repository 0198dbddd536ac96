"""Which processes are below another one, as the kernel lists them.

psutil looks through all processes of the machine for that: on a busy one each look takes milliseconds, and tests look a
hundred times a second.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

_HAS_LISTS = Path("/proc/thread-self/children").exists()


def children_of(pid: int, *, recursive: bool = False) -> set[int]:
    """Children of a process, zombies included; with `recursive` theirs too.

    A process that ends in between may hide another one, so two looks must agree. A kernel without such lists is asked
    by psutil.
    """
    if not _HAS_LISTS:
        with contextlib.suppress(psutil.NoSuchProcess):
            return {child.pid for child in psutil.Process(pid).children(recursive=recursive)}
        return set()
    found, before = _look(pid, recursive), None
    while found != before:
        found, before = _look(pid, recursive), found
    return found


def _look(pid: int, recursive: bool) -> set[int]:
    found: set[int] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found.update(map(int, (task / "children").read_text().split()))
    return found.union(*(_look(child, True) for child in found)) if recursive else found
