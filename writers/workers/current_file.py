"""The name of the file that a worker is reading, kept where its parent finds it when the worker has not outlived it.

pyarrow ends the whole process over some damaged footers, where it has no exception to raise (seen with 26.0: counts in
the histogram of levels that do not fit, an unknown codec). The page is an anonymous memory file that both have open;
writing to it is a copy of a few bytes, which a message for each of a million files would not be.
"""

from __future__ import annotations

import mmap
import os

_BYTES = 4096
_page: mmap.mmap | None = None  # of this process, when it is a worker


class CurrentFile:
    """The parent's side.

    Attributes:
        fd: For the worker to inherit; until then.
    """

    def __init__(self, role: str) -> None:
        self.fd = os.memfd_create(f"engine-{role}", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, _BYTES)
        self._page = mmap.mmap(self.fd, _BYTES)

    def name(self) -> str:
        """The file that was being read, or nothing."""
        return os.fsdecode(self._page[:].split(b"\0", 1)[0])

    def inherited(self) -> None:
        """The worker has been started."""
        os.close(self.fd)


def inherit(fd: int) -> None:
    """Take the page that the parent reads; once, in a worker."""
    global _page  # noqa: PLW0603 - a process has one parent
    _page = mmap.mmap(fd, _BYTES)
    os.close(fd)


def working_on(name: str) -> None:
    """Say which file is read now; an empty name when none is. Elsewhere than in a worker nothing happens."""
    if _page is not None:
        text = os.fsencode(name)[: _BYTES - 1] + b"\0"
        _page[: len(text)] = text
