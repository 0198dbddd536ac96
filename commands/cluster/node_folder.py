"""The folder of a node process: open shards on their way to a store, the copy of the quarantine, small temporaries.

It is a temporary of one session. Where a node is killed it stays, and the next node process on the machine removes it:
whose process and children still live is told by a lock that ends with the last of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from engine.errors import SinkError

HOT_DIR_ENV = "ENGINE_NODE_HOT_DIR"
"""In the environment of a node: where its folder is made; else where temporary files are (`TMPDIR`)."""
_PREFIX = "engine-node-"
_NEW = "engine-new-node-"
"""Until it has its lock it is called otherwise, or another one could take it for one that was left."""
_LOCK = "lock"


class NodeFolder:
    """A folder of this process.

    Attributes:
        path: Where it is.
        lock_fd: Held by this process and by those it is handed to.
    """

    def __init__(self, base: Path | None = None) -> None:
        """Make it, and remove those that killed node processes have left.

        Raises:
            SinkError: it cannot be made.
        """
        base = base or Path(os.environ.get(HOT_DIR_ENV) or tempfile.gettempdir())
        try:
            base.mkdir(parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(prefix=_NEW, dir=base))
            self.lock_fd = os.open(new / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.path = new.rename(new.with_name(new.name.replace(_NEW, _PREFIX, 1)))
        except OSError as error:
            raise SinkError(
                f"a node cannot make its folder in {base} ({error.strerror}): name a writable one on a local disk in "
                f"{HOT_DIR_ENV}, in the node's environment"
            ) from error
        for other in base.glob(f"{_PREFIX}*"):
            if other != self.path:
                _remove_if_left(other)

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)


def _remove_if_left(folder: Path) -> None:
    """Remove a folder of which no process lives; those of other users stay."""
    with contextlib.suppress(OSError):
        fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(fd)
