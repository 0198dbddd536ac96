"""HTTP/1.1 on one connection: pipelining, pieces, chunks, endings, large answers."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from bench.standin import StandinConfig, StandinFleet
from tests.bench.standin.client import bare_socket, base64_rows, embed, embed64, native_rows, read_until, request_bytes


def test_pipelined_requests_are_answered_in_order_on_one_connection(url: str) -> None:
    port = int(url.rsplit(":", 1)[1])
    with bare_socket(port) as sock:
        sock.sendall(b"".join(request_bytes("/tokenize", {"inputs": f"text {n}"}) for n in range(5)) + _LAST)
        said = read_until(sock, b"404 Not Found")
    places = [said.index(f'" {n}"'.encode()) for n in range(5)]
    assert places == sorted(places)


_LAST = b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n"


def test_a_request_in_many_small_pieces_and_chunks_is_understood(url: str) -> None:
    port = int(url.rsplit(":", 1)[1])
    head = b"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    body = orjson.dumps({"inputs": ["a", "b"]})
    wire = head + b"".join(b"%x\r\n%b\r\n" % (1, body[at : at + 1]) for at in range(len(body))) + b"0\r\n\r\n"
    with bare_socket(port) as sock:
        for at in range(0, len(wire), 7):
            sock.sendall(wire[at : at + 7])
        assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK")


def test_connection_close_is_honoured_and_garbage_is_400(url: str) -> None:
    port = int(url.rsplit(":", 1)[1])
    with bare_socket(port) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert b"connection: close" in read_until(sock, b"never")
    with bare_socket(port) as sock:
        sock.sendall(b"this is not http\r\n\r\n")
        assert read_until(sock, b"never").startswith(b"HTTP/1.1 400")


def test_expect_100_continue_is_answered_before_the_body(url: str) -> None:
    port = int(url.rsplit(":", 1)[1])
    whole = request_bytes("/embed", {"inputs": "a"})
    head, _, body = whole.partition(b"\r\n\r\n")
    with bare_socket(port) as sock:
        sock.sendall(head + b"\r\nexpect: 100-continue\r\n\r\n")
        assert read_until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK")


@pytest.mark.seconds
def test_an_answer_larger_than_the_socket_buffers_arrives_whole() -> None:
    with StandinFleet(StandinConfig(dim=4096, max_client_batch_size=400)) as fleet:
        rows = base64_rows(embed64(fleet.urls[0], ["x"] * 400))
        again = native_rows(embed(fleet.urls[0], ["y"] * 400))
    assert rows.shape == (400, 4096)
    assert np.array_equal(rows, again)
