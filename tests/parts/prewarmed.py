"""Processes of the command line and of stand-in servers that need not import first: forks of one that has.

Half of what a short command costs is the start of an interpreter and its imports. Here one process a session of pytest
imports everything once, before it does anything else, and then forks: what comes out is a process of its own as ever,
with the descriptors, environment, folder and session that were asked for, which may be signalled, killed and waited
for. It has one parent more between itself and the test.

`Popen` starts truly whatever it does not know (another program, `pass_fds`, a variable that an interpreter reads at its
start, Ray, which looks at the interpreter that it is in), so that it may stand wherever `subprocess.Popen` does. A test
about the start itself takes the latter.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from engine.supervision.interpreter import python
from tests.parts import prewarmed_children
from tests.parts.prewarmed_children import read_at_start, show_command

COMMANDS = ("cli", "bench.standin.__main__")
"""What it starts: each has a `main()`."""
IMPORTED = (
    *COMMANDS,
    *prewarmed_children.IMPORTED,
    "commands.composition.files.inspection",
    "commands.composition.marking",
    "commands.run.http_address",
    "commands.run.report",
    "commands.run.run",
    "commands.status.status",
    "pyarrow.parquet",
    "readers.mongo.marker",
    "typer._adapters",
    "writers.merge.merge",
    "writers.verify.verify",
)
"""Everything that most of them import. What is not here is imported by the process that needs it, as ever."""
EXECUTABLE = sys.executable  # a test may name another one
ROOT = Path(__file__).resolve().parents[2]

_NUMBER = struct.Struct("i")
_MAX_REQUEST = 1 << 20
_ROOM = 4096  # for the command lines of what it starts
_HERE = "tests.parts.prewarmed"


class _Forkserver:
    """The process that forks, as the test's process sees it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"import {_HERE} as here; here.serve({theirs.fileno()})", " " * _ROOM],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._variables = read_at_start(os.environ)
        self._one_at_a_time = threading.Lock()
        self.pid = self._process.pid

    def knows(self, args: Any, environment: dict[str, str]) -> bool:
        """Whether a command is one of `COMMANDS` in an environment that makes no difference to its imports."""
        return _request_of(args) is not None and read_at_start(environment) == self._variables

    def start(self, args: Any, environment: dict[str, str], folder: str, fds: list[int]) -> int:
        """Start a command with standard streams and a socket for its end; its process id."""
        request = json.dumps([list(args), _request_of(args), environment, folder]).encode()
        with self._one_at_a_time:
            socket.send_fds(self._socket, [request], fds)
            answer = self._socket.recv(_NUMBER.size)
        assert answer, "the process that forks for the tests has ended"
        return int(_NUMBER.unpack(answer)[0])

    def close(self) -> None:
        """End it; what it has started goes on."""
        self._socket.close()
        self._process.wait()


_forkserver: _Forkserver | None = None


def pids() -> set[int]:
    """The process that forks, once there is one."""
    return set() if _forkserver is None else {_forkserver.pid}


def close() -> None:
    """End the process that forks, if there is one."""
    global _forkserver  # noqa: PLW0603 - one a session
    if _forkserver is not None:
        _forkserver.close()
        _forkserver = None


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """`subprocess.Popen` for commands in a session of their own; the process that forks starts with the first."""

    _end: socket.socket | None = None
    """Says how a fork has ended, and asks for its zombie to be taken away."""

    def _execute_child(self, args: Any, *rest: Any) -> None:
        executable, preexec, _, pass_fds, folder, environment, _, _, shell = rest[:9]
        stdin, p2cwrite, c2pread, stdout, errread, stderr, _, *ids, session = rest[9:21]
        environment = dict(os.environ if environment is None else environment)
        unusual = executable or preexec or pass_fds or shell or not session or ids != [None, None, None, -1]
        if unusual or _request_of(args) is None or not _server().knows(args, environment):
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        self._end, theirs = socket.socketpair()
        streams = [usual if fd == -1 else fd for usual, fd in enumerate((stdin, stdout, stderr))]
        with theirs:
            self.pid = _server().start(args, environment, str(folder or Path.cwd()), [*streams, theirs.fileno()])
        self._child_created = True
        self._close_pipe_fds(stdin, p2cwrite, c2pread, stdout, errread, stderr)  # type: ignore[attr-defined]

    def _internal_poll(self, *arguments: Any, **options: Any) -> int | None:
        if self._end is None:
            return super()._internal_poll(*arguments, **options)  # type: ignore[misc, no-any-return]
        if not arguments and not options:  # those come from a Popen that is forgotten
            self._take_code(self._end, 0)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self._end is None:
            return super()._wait(timeout)  # type: ignore[misc, no-any-return]
        if not self._take_code(self._end, timeout if timeout is None else max(0.0, timeout)):
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def _take_code(self, end: socket.socket, timeout: float | None) -> bool:
        """Until here it is a zombie, as any process that nobody has waited for; then it is gone."""
        if self.returncode is not None:
            return True
        if not select.select([end], [], [], timeout)[0]:
            return False
        with self._waitpid_lock:  # type: ignore[attr-defined]
            if self.returncode is None:
                said = end.recv(_NUMBER.size)
                assert said, "the process that forks for the tests has ended"
                end.shutdown(socket.SHUT_WR)
                while end.recv(1):
                    pass
                self.returncode = _NUMBER.unpack(said)[0]
                end.close()
        return True


def _server() -> _Forkserver:
    global _forkserver  # noqa: PLW0603 - one a session
    if _forkserver is None:
        _forkserver = _Forkserver()
    return _forkserver


def _request_of(args: Any) -> list[str] | None:
    """The module and `sys.argv` of a command line, None for one that is not known."""
    if isinstance(args, str | bytes | os.PathLike) or len(args) < 3 or args[0] != EXECUTABLE or "--ray" in args:
        return None
    if list(args[1:3]) == ["-m", "cli"]:
        return ["cli", str(ROOT / "cli.py"), *args[3:]]
    for module in COMMANDS:
        if list(args[1:3]) == python(module)[1:]:
            return [module, "-c", *args[3:]]
    return None


def serve(fd: int) -> None:
    """Import, then fork for every request; only a child comes back from here, after its command, by `SystemExit`."""
    for module in IMPORTED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page
    command, (module, *argv), environment, folder = _serve_until_forked(fd)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = argv
    show_command(command)
    if module == "cli":
        prewarmed_children.stand_beside()
    sys.exit(importlib.import_module(module).main())


def _serve_until_forked(fd: int) -> Any:
    requests = socket.socket(fileno=fd)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, socket.socket] = {}
    ended: dict[socket.socket, int] = {}
    while True:
        ready, _, _ = select.select([requests, woken, *ended], [], [])
        if woken in ready:
            os.read(woken, 4096)
            for child in [child for child in running if _tell_end(child, running[child])]:
                ended[running.pop(child)] = child
        for end in [end for end in ended if end in ready]:  # waited for, or forgotten
            os.waitpid(ended.pop(end), 0)
            end.close()
        if requests in ready:
            request, fds, _, _ = socket.recv_fds(requests, _MAX_REQUEST, 4)
            if not request:
                os._exit(0)
            child = os.fork()
            if child == 0:
                for one in (requests, *running.values(), *ended):
                    one.detach()  # or its number would be closed once more, whoever has it by then
                _become(fds[:3])
                return json.loads(request)
            running[child] = socket.socket(fileno=fds[3])
            for one in fds[:3]:
                os.close(one)
            requests.send(_NUMBER.pack(child))


def _tell_end(child: int, end: socket.socket) -> bool:
    """Say how a child has ended; False while it runs."""
    told = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if told is None:
        return False
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # nobody waits for it any more
        end.send(_NUMBER.pack(told.si_status if told.si_code == os.CLD_EXITED else -told.si_status))
    return True


def _become(streams: list[int]) -> None:
    """Be as a process that has just been started."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
    os.closerange(3, 1 + max(int(path.name) for path in Path("/proc/self/fd").iterdir()))
    sys.stdin = sys.__stdin__ = _opened(0, sys.stdin)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _opened(1, sys.stdout)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _opened(2, sys.stderr)  # type: ignore[misc]


def _opened(fd: int, former: Any) -> io.TextIOWrapper:
    """A standard stream as an interpreter opens it at its start: what kind of file it is says how it is buffered."""
    at_once = fd != 0 and os.environ.get("PYTHONUNBUFFERED", "") != ""
    raw = open(fd, "rb" if fd == 0 else "wb", buffering=0 if at_once else -1, closefd=False)  # noqa: SIM115
    by_line = fd == 2 or os.isatty(fd)
    return io.TextIOWrapper(raw, former.encoding, former.errors, line_buffering=by_line, write_through=at_once)
