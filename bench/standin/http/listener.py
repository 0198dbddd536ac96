"""A listening port that can go away for a while and come back without losing its number."""

from __future__ import annotations

import socket
from collections.abc import Callable

from bench.standin.http.loop import READ, Loop, Timer

_BACKLOG = 1024
_RETRY_S = 0.2


class Listener:
    """Accepts connections on one port; `refuse_for` makes the kernel refuse them."""

    def __init__(self, loop: Loop, host: str, accepted: Callable[[socket.socket], None]) -> None:
        self._loop = loop
        self._host = host
        self._accepted = accepted
        self._sock: socket.socket | None = None
        self._reopening: Timer | None = None
        self.port = 0
        self.listening = False

    def open(self, port: int) -> None:
        """Listen on `port`, 0 for any free one.

        Raises:
            OSError: the port is taken or not ours.
        """
        self._sock = _bound(self._host, port)
        self.port = self._sock.getsockname()[1]
        self._listen(self._sock)

    def close(self) -> None:
        """Give the port back."""
        if self._sock is not None:
            if self.listening:
                self._loop.drop(self._sock.fileno())
            self._sock.close()
            self._sock = None
        self.listening = False

    def refuse_for(self, down_s: float) -> None:
        """Refuse new connections for `down_s` seconds, then listen again."""
        self.close()
        try:
            # bound but not listening: connections are refused, and nobody else can take the port meanwhile
            self._sock = _bound(self._host, self.port)
        except OSError:
            self._sock = None
        if self._reopening is not None:
            self._reopening.cancel()
        self._reopening = self._loop.call_later(down_s, self.reopen)

    def reopen(self) -> None:
        """Listen again now, if the port is refusing."""
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None
        # before `open` there is nothing to come back to
        if self.listening or not self.port:
            return
        try:
            if self._sock is None:
                self._sock = _bound(self._host, self.port)
            self._listen(self._sock)
        except OSError:
            # somebody took the port in the moment between two sockets: it is ours again when he is done
            self._reopening = self._loop.call_later(_RETRY_S, self.reopen)

    def _listen(self, sock: socket.socket) -> None:
        sock.listen(_BACKLOG)
        self._loop.add(sock.fileno(), READ, self._accept)
        self.listening = True

    def _accept(self, _events: int) -> None:
        assert self._sock is not None
        try:
            sock, _ = self._sock.accept()
        except OSError:
            return  # gone before it was taken
        self._accepted(sock)


def _bound(host: str, port: int) -> socket.socket:
    """Return a non-blocking socket on `port` that does not listen yet: connections to it are refused.

    Raises:
        OSError: the address is taken or not ours.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
