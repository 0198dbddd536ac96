"""The nodes of a Ray cluster as the driver sees them (`engine.cluster.ports.Nodes`): through a bridge process."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
from pathlib import Path

from engine.cluster.ports import Heard, News, NodesSeen, SessionLost
from engine.errors import BY_NAME, ConfigError, WorkerDied
from engine.memory.channels import Channel, Message
from engine.supervision.interpreter import python

_END_S = 20.0
_TAIL_BYTES = 4096


class RayNodes:
    """Starts the bridge, and ends it."""

    def __init__(self, address: str, resource: str, log: Path) -> None:
        """
        Args:
            address: `auto`, an address, or `local:N`.
            resource: What the nodes have to offer.
            log: Where Ray's own words go.

        Raises:
            ConfigError: Ray is not installed.
        """
        if importlib.util.find_spec("ray") is None:
            raise ConfigError("--ray needs Ray, which is not installed: pip install 'embedding-engine[ray]'")
        self._channel, theirs = Channel.pair()
        with log.open("ab") as out:
            self._said_before = out.tell()
            self._process = subprocess.Popen(
                python("commands.cluster.bridge", str(theirs.fd), address, resource),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                pass_fds=[theirs.fd],
                start_new_session=True,
            )
        theirs.close()
        self._log = log

    @property
    def wake_fd(self) -> int:
        """See `Nodes`."""
        return self._channel.fd

    def last_words(self) -> str:
        """What Ray has said last, in one line; empty when it has said nothing."""
        with contextlib.suppress(OSError), self._log.open("rb") as said:
            size = said.seek(0, os.SEEK_END)
            said.seek(max(self._said_before, size - _TAIL_BYTES))
            return (said.read().decode(errors="replace").strip().splitlines() or [""])[-1]
        return ""

    def collect(self) -> list[News]:
        """See `Nodes`.

        Raises:
            ConfigError: there is no such cluster.
            WorkerDied: the bridge is gone.
        """
        messages, has_ended = self._channel.poll()
        news: list[News] = []
        for message in messages:
            if message["event"] == "nodes":
                news.append(NodesSeen(message["names"]))
            elif message["event"] == "heard":
                news.append(Heard(message["session"], [message["message"]]))
            elif message["event"] == "lost":
                news.append(SessionLost(message["session"], message["why"]))
            elif message["event"] == "failed":
                raise BY_NAME.get(message["kind"], WorkerDied)(message["message"])
        if has_ended:
            raise WorkerDied(
                f"the connection to Ray has ended ({self._log} has its last words): what is committed is safe, run the "
                "same command again"
            )
        return news

    def begin(self, session: int, node: str, job: Message) -> None:
        """See `Nodes`."""
        self._send({"do": "begin", "session": session, "node": node, "job": job})

    def send(self, session: int, message: Message) -> None:
        """See `Nodes`."""
        self._send({"do": "send", "session": session, "message": message})

    def end(self, session: int) -> None:
        """See `Nodes`."""
        self._send({"do": "end", "session": session})

    def _send(self, message: Message) -> None:
        with contextlib.suppress(ConnectionError):  # `collect` says so
            self._channel.send(message)

    def close(self) -> None:
        """End the bridge, its actors, and a cluster that it has started."""
        self._send({"do": "exit"})
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self._channel.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
