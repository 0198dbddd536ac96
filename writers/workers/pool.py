"""A few worker processes that do one task at a time: what `merge` and `verify` use the cores with.

A worker is a fresh interpreter that dies with its parent, like the children of a run (engine/supervision/worker.py).
Jobs and results are small JSON messages over its channel; rows travel through files only. There is no queue to corrupt:
a worker that is killed in the middle of anything shows as the end of its channel, and its task as not done.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, NoReturn, cast

from engine.errors import BY_NAME, DamageError, EngineError, Exit, WorkerDied
from engine.ledger import durable
from engine.memory.channels import Channel, Message
from engine.supervision.interpreter import full_name, python
from writers.workers.current_file import CurrentFile, inherit

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15

_PARENTS_BUSINESS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""A terminal signals the whole group; only the parent decides, and its end ends the workers."""

_FAULTS = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
"""What ends a process that native code leads astray: pyarrow does so over some damaged footers (seen with 26.0)."""

Report = Callable[[Message], None]
Task = Callable[[Message, Report], Message]


class Fault(NamedTuple):
    """The end of a worker that native code led astray over a file.

    Attributes:
        job: What it was doing.
        file: What it was reading (`writers.workers.current_file`).
        process: Its number.
        signal: How it ended.
    """

    job: Message
    file: str
    process: int
    signal: int


OnFault = Callable[[Fault], Message | None]
"""Says what is to be done instead of the job, or None when nobody can go on."""


class Pool:
    """Worker processes; use as a context manager, which ends them all, whatever they are doing."""

    def __init__(
        self, role: str, jobs: int, inherited_fds: tuple[int, ...] = (), modules: tuple[str, ...] = ()
    ) -> None:
        """
        Args:
            role: Names the processes, and which fail points are meant for them.
            jobs: How many.
            inherited_fds: Kept open by every worker: a lock that must outlive none of them.
            modules: Those of the tasks to come, which workers import before they are asked for the first.
        """
        self._start = partial(_Worker, role, inherited_fds, modules)
        self._workers = [self._start() for _ in range(jobs)]

    def run(
        self, jobs: Iterable[Message], on_progress: Report, on_fault: OnFault | None = None
    ) -> Iterator[tuple[Message, Message]]:
        """Do jobs in any order; yields (job, result) as they finish.

        Args:
            jobs: Each names its task as `module:function`.
            on_progress: Gets what tasks report while they work.
            on_fault: Asked when a worker ended over a file; a fresh worker does what it says.

        Raises:
            EngineError: what a task raised; the other tasks are left unfinished.
            WorkerDied: a worker ended without a result.
        """
        waiting = iter(jobs)
        idle = list(self._workers)
        busy: dict[int, tuple[_Worker, Message]] = {}
        while True:
            while idle and (job := next(waiting, None)) is not None:
                worker = idle.pop()
                worker.send(job)
                busy[worker.channel.fd] = (worker, job)
            if not busy:
                return
            ready, _, _ = select.select(list(busy), [], [])
            for fd in ready:
                worker, job = busy[fd]
                messages, ended = worker.channel.poll()
                for message in messages:
                    if message["event"] == "progress":
                        on_progress(message)
                    elif message["event"] == "error":
                        raise _error_of(message)
                    else:
                        del busy[fd]
                        idle.append(worker)
                        yield job, message["result"]
                if ended:
                    del busy[fd]
                    busy.update([self._replace(worker, job, on_fault)])

    def _replace(self, worker: _Worker, job: Message, on_fault: OnFault | None) -> tuple[int, tuple[_Worker, Message]]:
        """Start a worker in place of one that has ended, when it is known how to go on."""
        fault = worker.fault(job)
        instead = None if fault is None or on_fault is None else on_fault(fault)
        if instead is None:
            raise worker.death()
        worker.channel.close()
        fresh = self._start()
        self._workers[self._workers.index(worker)] = fresh
        fresh.send(instead)
        return fresh.channel.fd, (fresh, instead)

    def close(self) -> None:
        """Kill all workers and wait for their end. Killing is the normal way out: nothing of theirs is final."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
            worker.channel.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Worker:
    def __init__(self, role: str, inherited_fds: tuple[int, ...], modules: tuple[str, ...]) -> None:
        self.channel, theirs = Channel.pair()
        self._role = role
        self._current_file = CurrentFile(role)
        numbers = [str(number) for number in (theirs.fd, self._current_file.fd, os.getpid())]
        command = python(__name__, role, *numbers, *modules)
        # Blocked signals stay blocked in the child: a Ctrl-C that comes while it starts must not make it complain.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _PARENTS_BUSINESS)
        try:
            passed = (theirs.fd, self._current_file.fd, *inherited_fds)
            self.process = subprocess.Popen(command, pass_fds=passed, stdin=subprocess.DEVNULL)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
            self._current_file.inherited()

    def send(self, job: Message) -> None:
        try:
            self.channel.send(job)
        except ConnectionError:
            raise self.death() from None

    def fault(self, job: Message) -> Fault | None:
        """What it ended over, when that was a file."""
        number, file = -self.process.wait(), self._current_file.name()
        return Fault(job, file, self.process.pid, number) if number in _FAULTS and file else None

    def death(self) -> EngineError:
        """What the end of this worker is to the user."""
        code = self.process.wait()
        if (fault := self.fault({})) is not None:
            return DamageError(
                f"{fault.file} cannot be read: the process that was reading it was ended by signal {fault.signal}: "
                "restore it from a copy, or report this if the file is sound; nothing was removed"
            )
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        hint = " (likely out of memory)" if code == -signal.SIGKILL else ""
        return WorkerDied(
            f"a {self._role} process {how}{hint}: nothing that was finished is lost, run the same command again"
        )


def _error_of(message: Message) -> EngineError:
    kind = BY_NAME.get(str(message["kind"]))
    if kind is not None:
        return kind(message["message"])
    error = WorkerDied(f"a worker failed: {message['message']}: run again with --debug and report it")
    error.__cause__ = RuntimeError(f"in a worker:\n{message.get('traceback', '')}")
    return error


def main() -> NoReturn:
    """Entry point of a worker: `role channel_fd current_file_fd parent_pid module...`."""
    role, (channel_fd, current_file_fd, parent_pid), modules = sys.argv[1], map(int, sys.argv[2:5]), sys.argv[5:]
    _tie_to_parent(role, parent_pid)
    inherit(current_file_fd)
    channel = Channel.from_fd(channel_fd)
    try:
        durable.arm(role)
        _prepare_arrow()
        for name in modules:
            importlib.import_module(full_name(name))
        while (job := channel.receive()) is not None:
            module, _, function = str(job["task"]).partition(":")
            task = cast(Task, getattr(importlib.import_module(full_name(module)), function))
            channel.send({"event": "result", "result": task(job, lambda facts: _report(channel, facts))})
    except EngineError as error:
        channel.try_send({"event": "error", "kind": type(error).__name__, "message": str(error)})
        os._exit(error.exit_code)
    except ConnectionError:
        os._exit(Exit.UNEXPECTED)  # the parent is gone
    except BaseException as error:  # noqa: BLE001 - the last line of a process: whatever it was is reported
        import traceback  # noqa: PLC0415 - only a bug pays for this import

        text = "".join(traceback.format_exception(error))[-30_000:]
        channel.try_send({"event": "error", "kind": "UNEXPECTED", "message": repr(error), "traceback": text})
        os._exit(Exit.UNEXPECTED)
    os._exit(Exit.DONE)


def _report(channel: Channel, facts: dict[str, Any]) -> None:
    channel.try_send({"event": "progress", **facts})


def _prepare_arrow() -> None:
    """One core is one worker: Arrow's own threads would only compete, and each keeps buffers of its own.

    The system's allocator gives back what it does not need, and is as quick as the others. Said before the import,
    it serves Parquet's encoders too, which otherwise keep a second heap: 14 MiB less a worker.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    import pyarrow as pa  # noqa: PLC0415 - the parent of a pool does not need it

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def _tie_to_parent(role: str, parent_pid: int) -> None:
    """Die with the parent, ignore the terminal, leave no core dump, carry a readable name."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_NAME, f"engine-{role}"[:15].encode())
    if os.getppid() != parent_pid:
        os._exit(Exit.UNEXPECTED)
    for number in _PARENTS_BUSINESS:
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
