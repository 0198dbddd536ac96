"""The keeper of one server: a small process that starts it, keeps its log, and ends with it and with its owner.

A server is somebody else's program and knows nothing of our life-line, and it has children of its own. So a keeper
stands between: its standard input is the life-line. When that ends, whatever ended its owner, the keeper ends the
server and all that descends from it, orphans too (it adopts them). A keeper that is killed takes the server with it.

    owner --life-line (stdin)--> keeper --> server --> its children
                                    \\--> log, and the log before it

Only the standard library is imported: it starts with every server, and again with every restart.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NAME = 1, 36, 15
ORDERLY = b"stop"
"""What an owner writes before it closes the life-line when the server has time to finish."""
GRACE_S = 10.0
"""What an orderly end may take ..."""
ABANDONED_S = 1.0
"""... and what it may when the owner is gone: nothing of it shall be left two seconds later."""
LOG_BYTES = 8 << 20
"""A log that has grown so large becomes the log before it; both together are all that is kept."""
_CONTAINER_S = 30.0


def main() -> None:
    """Entry point: one JSON argument with command, log, container; prints the server's process id."""
    job = json.loads(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    libc.prctl(_PR_SET_NAME, f"engine-keeper {job['name']}"[:15].encode())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal signals everybody; only the life-line counts
    log = _Log(Path(job["log"]))
    me = os.getpid()

    def die_with_keeper() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != me:
            os._exit(1)

    try:
        server = subprocess.Popen(
            job["command"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_keeper,  # noqa: PLW1509 - there are no threads here
        )
    except OSError as error:
        log.write(f"cannot be started: {error.strerror}\n".encode())
        os._exit(127)
    with contextlib.suppress(OSError):
        os.write(1, b"%d\n" % server.pid)
    code = _keep(server, log)
    if job["container"]:
        program, name = job["container"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run([program, "kill", name], capture_output=True, timeout=_CONTAINER_S, check=False)
    _end_descendants(signal.SIGKILL)
    log.drain(server)
    os._exit(code if code >= 0 else 128 - code)


def _keep(server: subprocess.Popen[bytes], log: _Log) -> int:
    """Hold the server's log until it has ended, by itself or because the life-line did; its exit code."""
    assert server.stdout is not None
    output, orders = server.stdout.fileno(), b""
    deadline_s: float | None = None
    watched = [0, output]
    while (code := server.poll()) is None:
        # the end of its output is nearly always its end; a server that closes it is looked at now and then
        readable, _, _ = select.select(watched, [], [], 0.2 if deadline_s is not None or output not in watched else 1.0)
        if output in readable and not log.take(output):
            watched.remove(output)
        if 0 in readable:
            told = os.read(0, 64)
            orders += told
            if not told:
                watched.remove(0)
                deadline_s = time.monotonic() + (GRACE_S if orders.startswith(ORDERLY) else ABANDONED_S)
                _signal_group(server.pid, signal.SIGTERM)
        if deadline_s is not None and time.monotonic() > deadline_s:
            _signal_group(server.pid, signal.SIGKILL)
            _end_descendants(signal.SIGKILL)
            return server.wait()
    return code


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _end_descendants(number: signal.Signals) -> None:
    """Signal every descendant until there is none: who lost his parent became a child of this process."""
    while children := _children_of(os.getpid()):
        for child in children:
            for each in (*_all_below(child), child):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, number)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def _all_below(pid: int) -> list[int]:
    found = []
    for child in _children_of(pid):
        found += [*_all_below(child), child]
    return found


def _children_of(pid: int) -> list[int]:
    """Children of a process, from the stat file of every process; the dead ones too."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
                if int(stat.rpartition(")")[2].split()[1]) == pid:
                    found.append(int(folder.name))
    return found


class _Log:
    """A log of bounded size, with the one before it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def take(self, fd: int) -> bool:
        """Write what can be read now; False at the end."""
        data = os.read(fd, 1 << 16)
        self.write(data)
        return bool(data)

    def write(self, data: bytes) -> None:
        """Write; a disk that is full costs the log, not the server."""
        with contextlib.suppress(OSError):
            if self._file.tell() > LOG_BYTES:
                self._file.close()
                self._path.replace(self._path.with_suffix(".log.1"))
                self._file = self._path.open("ab", buffering=0)
            self._file.write(data)

    def drain(self, server: subprocess.Popen[bytes]) -> None:
        """Write what the server said last."""
        assert server.stdout is not None
        while select.select([server.stdout], [], [], 0)[0] and self.take(server.stdout.fileno()):
            pass


if __name__ == "__main__":
    main()
