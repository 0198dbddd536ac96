"""Children of a prewarmed command that need not import either: forks, and yet children of that command.

A command has threads by the time it starts its children, so it must not fork itself. Beside it stands a process that
was forked before the command's first line and does nothing but fork; the kernel makes what it forks a child of the
command (CLONE_PARENT), which may signal it, wait for it and be missed by it as if it had started it. A start that this
cannot be (another program, streams of its own, a kernel without it) is a true one.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib
import json
import os
import platform
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.supervision.interpreter import python

CHILDREN = ("engine.supervision.worker", "writers.workers.pool")
"""What it starts: each has a `main()`."""
IMPORTED = (
    *CHILDREN,
    "gpu_clients.stage",
    "readers.mongo.source",
    "readers.stage",
    "writers.stage",
)
AT_START = ("PYTHON", "LD_", "OPENBLAS_", "OMP_", "MALLOC_", "ARROW_", "GLIBC_")
"""Variables that are read before a program begins, or when a library is imported."""
NAME = "test-forks"

_FOR_THE_COMMAND = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals to its whole group that are no business of the process that forks."""

_CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine())
_CLONE_PARENT = 0x8000
_PR_SET_NAME = 15
_ARG_START = 45
"""Which of the numbers behind a process's name in /proc/PID/stat is the address of its command line (proc(5))."""
_NUMBER = struct.Struct("i")
_MAX_REQUEST = 1 << 20
_MAX_FDS = 64
_ROOT = str(Path(__file__).resolve().parents[2])
_BY_COMMAND = {tuple(python(module)[1:]): module for module in CHILDREN}


def stand_beside() -> None:
    """Fork the process that forks, and let `subprocess.Popen` of this one ask it; before there is any thread."""
    if _CLONE is None or threading.active_count() > 1:
        return
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        _serve(theirs)
    theirs.close()
    Popen.beside = ours
    Popen.variables = read_at_start(os.environ)
    subprocess.Popen = Popen  # type: ignore[misc]


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """`subprocess.Popen` in a prewarmed command."""

    beside: socket.socket
    variables: dict[str, str]
    one_at_a_time = threading.Lock()

    def _execute_child(self, args: Any, *rest: Any) -> None:
        executable, preexec, _, pass_fds, folder, environment, _, _, shell = rest[:9]
        stdin, _, _, stdout, _, stderr, _, *ids, session = rest[9:21]
        usual = not (executable or preexec or folder or environment or shell or session) and ids == [
            None,
            None,
            None,
            -1,
        ]
        module = _BY_COMMAND.get(tuple(args[1:3])) if usual and args[0] == sys.executable else None
        if module is not None and len(pass_fds) < _MAX_FDS and read_at_start(os.environ) == self.variables:
            request = {
                "command": [str(word) for word in args],
                "module": module,
                "environment": dict(os.environ),
                "folder": str(Path.cwd()),
                "files": resource.getrlimit(resource.RLIMIT_NOFILE),
                "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
                "ignored": [n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN],
                "numbers": list(pass_fds),
            }
            streams = [own if fd == -1 else fd for own, fd in enumerate((stdin, stdout, stderr))]
            pid = self._ask(json.dumps(request).encode(), [*streams, *pass_fds])
            if pid:
                self.pid = pid
                self._child_created = True
                self._close_pipe_fds(*rest[9:15])  # type: ignore[attr-defined]
                return
        super()._execute_child(args, *rest)  # type: ignore[misc]

    def _ask(self, request: bytes, fds: list[int]) -> int:
        with self.one_at_a_time, contextlib.suppress(OSError):  # a test may have ended it with all others
            socket.send_fds(self.beside, [request], fds)
            if answer := self.beside.recv(_NUMBER.size):
                return int(_NUMBER.unpack(answer)[0])
        return 0


def show_command(command: list[str]) -> None:
    """Let /proc/self/cmdline tell this command, as far as there is room in the former one."""
    numbers = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    start, end = map(int, numbers[_ARG_START : _ARG_START + 2])
    room = end - start
    if room > 0:
        text = b"".join(os.fsencode(word) + b"\0" for word in command)
        ctypes.memmove(start, (text[: room - 1]).ljust(room, b"\0"), room)


def read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of an environment in which processes have to agree for one to be a fork of the other."""
    return {name: value for name, value in environment.items() if name.startswith(AT_START)}


def _serve(requests: socket.socket) -> None:
    """Fork for every request until the command has gone."""
    libc = ctypes.PyDLL(None)  # keeps the interpreter's lock
    libc.prctl(_PR_SET_NAME, NAME.encode())
    for number in _FOR_THE_COMMAND:
        signal.signal(number, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):  # whoever reads what the command says waits for its end, not for this one's
        os.dup2(nothing, stream)
    os.close(nothing)
    while True:
        request, fds, _, _ = socket.recv_fds(requests, _MAX_REQUEST, _MAX_FDS + 3)
        if not request:
            os._exit(0)
        child = _fork_sibling(libc)
        if child == 0:
            requests.detach()
            _be(json.loads(request), fds)
        for fd in fds:
            os.close(fd)
        requests.send(_NUMBER.pack(max(0, child)))


def _fork_sibling(libc: ctypes.PyDLL) -> int:
    """`os.fork()` for a child of the parent."""
    ctypes.pythonapi.PyOS_BeforeFork()
    child = libc.syscall(_CLONE, _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    return int(child)


def _be(request: dict[str, Any], fds: list[int]) -> None:
    """Be as an interpreter that has just been started with this command; this never returns."""
    code = 1
    try:
        _take_files(fds, request["numbers"])
        resource.setrlimit(resource.RLIMIT_NOFILE, request["files"])
        ignored = set(request["ignored"])
        for number in _FOR_THE_COMMAND:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, signal.SIG_IGN if number in ignored else usual)
        signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        sys.argv = ["-c", *request["command"][3:]]
        sys.path[:] = [path for path in sys.path if path] + [_ROOT]
        show_command(request["command"])
        importlib.import_module(request["module"]).main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as an interpreter does it
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _take_files(fds: list[int], numbers: list[int]) -> None:
    """Give the descriptors the numbers that they have in the command, and close all others."""
    beyond = 1 + max([*fds, *numbers])
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, beyond) for fd in fds]
    wanted = [0, 1, 2, *numbers]
    for fd, number in zip(moved, wanted, strict=True):
        os.dup2(fd, number)
    for fd in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if fd not in wanted:
            with contextlib.suppress(OSError):
                os.close(fd)
