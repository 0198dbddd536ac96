"""The channel between the supervisor and one child: messages both ways, and the child's life-line.

A UNIX socket pair of type SEQPACKET: messages arrive whole or not at all, so a child killed in the middle of a send
leaves no torn message behind. Only the supervisor holds the other end of a child's channel; when the supervisor
ends, however it ends, the child reads an end of file and stops (G6). Messages are JSON objects, never pickles.
"""

from __future__ import annotations

import socket
from typing import Any

import orjson

Message = dict[str, Any]
MAX_MESSAGE_BYTES = 128 << 10
"""Well under the kernel's default socket buffer; batches and vectors never travel here."""


class Channel:
    """One end of a channel.

    Attributes:
        fd: Readable when a message or the end of the peer waits.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self.fd = end.fileno()

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two connected ends."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(left), cls(right)

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        """The end that a parent passed to this process."""
        return cls(socket.socket(fileno=fd))

    def send(self, message: Message) -> None:
        """Send one message, waiting while the peer's buffer is full.

        Raises:
            BrokenPipeError, ConnectionError: the peer is gone.
        """
        data = orjson.dumps(message, option=orjson.OPT_NON_STR_KEYS)
        if len(data) > MAX_MESSAGE_BYTES:
            raise ValueError(f"message of {len(data)} bytes exceeds the channel's {MAX_MESSAGE_BYTES}")
        self._socket.sendall(data)

    def try_send(self, message: Message) -> bool:
        """Send one message unless the peer's buffer is full or the peer is gone; tells whether it went out."""
        data = orjson.dumps(message, option=orjson.OPT_NON_STR_KEYS)
        try:
            self._socket.send(data, socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionError):
            return False
        return True

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """Receive one message; None at the end of the peer.

        Raises:
            TimeoutError: nothing came in time.
        """
        self._socket.settimeout(timeout_s)
        try:
            data = self._socket.recv(MAX_MESSAGE_BYTES)
        except ConnectionError:
            return None
        finally:
            self._socket.settimeout(None)
        return orjson.loads(data) if data else None

    def poll(self) -> tuple[list[Message], bool]:
        """All messages that wait, and whether the peer has ended."""
        messages: list[Message] = []
        while True:
            try:
                data = self._socket.recv(MAX_MESSAGE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return messages, False
            except ConnectionError:
                return messages, True
            if not data:
                return messages, True
            messages.append(orjson.loads(data))

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
