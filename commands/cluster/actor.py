"""The actor on a node: starts one node process and carries messages to it and back. It knows nothing else.

Ray makes one of `NodeActor` on each node. Messages are JSON in bytes, so that nothing of the engine is pickled. Ray may
run calls in another order than they were made in, so what is told has a number.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess

import orjson

from engine.memory.channels import Channel, Message
from engine.supervision.interpreter import python

_PORTION = 64


class NodeActor:
    """Carries messages; every method is called by the driver's bridge (`commands.cluster.bridge`)."""

    def __init__(self) -> None:
        self._channel: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._heard: list[Message] = []
        self._has_ended = False
        self._news = asyncio.Event()
        self._next = 0
        self._early: dict[int, list[Message]] = {}
        self._unsent: list[Message] = []

    async def start(self, job: bytes) -> int:
        """Start the node process; returns its process id."""
        ours, theirs = Channel.pair()
        self._process = subprocess.Popen(
            python("commands.cluster.agent", str(theirs.fd)),
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fd],
            start_new_session=True,
        )
        theirs.close()
        self._channel = ours
        ours.send(orjson.loads(job))
        asyncio.get_running_loop().add_reader(ours.fd, self._take)
        return self._process.pid

    async def tell(self, number: int, messages: bytes) -> None:
        """Send messages to the node process, in the order of their numbers."""
        self._early[number] = orjson.loads(messages)
        while self._next in self._early:
            self._unsent += self._early.pop(self._next)
            self._next += 1
        self._send()

    async def hear(self, wait_s: float) -> bytes:
        """What the node process has told since the last call, waiting for something for a while.

        Returns:
            `{"messages": [...], "ended": null, or how the process ended}`
        """
        self._unsent.append({"do": "ping"})
        self._send()
        if not self._heard and not self._has_ended:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), wait_s)
        self._news.clear()
        messages, self._heard = self._heard, []
        return orjson.dumps({"messages": messages, "ended": self._how_it_ended() if self._has_ended else None})

    def _send(self) -> None:
        """Send what can be sent without waiting; a node process that is stopped must not stop this one."""
        while self._unsent and self._channel is not None:
            if not self._channel.try_send(self._unsent[0]):
                return
            self._unsent.pop(0)

    def _take(self) -> None:
        assert self._channel is not None  # it is what is read from
        messages, has_ended = self._channel.poll()
        self._heard += messages
        if has_ended:
            asyncio.get_running_loop().remove_reader(self._channel.fd)
            self._has_ended = True
        self._news.set()

    def _how_it_ended(self) -> str:
        assert self._process is not None  # it has ended
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # children that have outlived it
        try:
            code = self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            return "its process has let go of the channel"
        return f"its process ended by {signal.Signals(-code).name}" if code < 0 else f"its process ended with {code}"
