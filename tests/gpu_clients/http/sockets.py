"""A server that says what a script says, and a client to ask it with."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from gpu_clients.http.access import NO_ACCESS, Access
from gpu_clients.http.address import Address
from gpu_clients.http.client import HttpClient
from gpu_clients.http.connection import Exchange
from gpu_clients.http.polling import Poller

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
Script = Callable[[socket.socket, int], None]


@contextmanager
def server(script: Script) -> Iterator[str]:
    """A server that runs `script(connection, number)` for each connection, one after the other."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(60.0)

    def serve() -> None:
        number = 0
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(60.0)
                with suppress(OSError):
                    script(connection, number)
            number += 1

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(100.0)


def read_request(connection: socket.socket) -> bytes:
    """One whole request."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("the client left")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(
        next(line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    )
    while len(body) < length:
        body += connection.recv(1 << 20)
    return head + b"\r\n\r\n" + body


@contextmanager
def client(url: str, access: Access = NO_ACCESS) -> Iterator[HttpClient]:
    """A client with a poller of its own."""
    poller = Poller()
    http = HttpClient(Address.parse(url), poller, access)
    try:
        yield http
    finally:
        http.abandon()
        poller.close()


def exchange(http: HttpClient, body: bytes = b"[]", *, timeout_s: float = 60.0, release: bool = True) -> Exchange:
    """One request to its end."""
    http.start(
        "POST", "/x", [b"", memoryview(body), b""], deadline_s=time.monotonic() + timeout_s, max_body_bytes=10_000
    )
    while not http.finished:
        http.poller.run(0.02)
        http.check_deadlines()
    done = http.finished.popleft()
    status = done.status
    if release:
        done.release()
    assert done.status == status
    return done
