"""A balancer in front of servers, as a Kubernetes service is one."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress


@contextmanager
def balancer(*ports: int, joined: Sequence[int] = ()) -> Iterator[str]:
    """A round robin over connections, as a Kubernetes service is one; its URL.

    Args:
        joined: Ports of replicas that have joined; may grow meanwhile.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []
    sockets: list[socket.socket] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def accept() -> None:
        for number in itertools.count():
            try:
                outer, _ = listener.accept()
                replicas = (*ports, *joined)
                port = replicas[number % len(replicas)]
                inner = socket.create_connection(("127.0.0.1", port))
            except OSError:
                return
            sockets.extend((outer, inner))
            for pair in ((outer, inner), (inner, outer)):
                threads.append(threading.Thread(target=pump, args=pair))
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(100.0)
        for one in sockets:
            with suppress(OSError):  # a close alone does not wake a thread that reads
                one.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(100.0)
        for one in sockets:
            one.close()
