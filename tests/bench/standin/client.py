"""What the tests of the stand-in servers share: a plain client, and a bare socket."""

from __future__ import annotations

import base64
import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import requests

from bench.standin import GpuConfig

Rows = npt.NDArray[np.float32]

TIMEOUT_S = 60.0
FAST_GPU = GpuConfig(tokens_per_s=1e7, fixed_overhead_s=0.0001)
PROMPTS = (("document", "title: none | text: "), ("query", "query: "))


def post(url: str, route: str, body: object, **headers: str) -> requests.Response:
    """Post `body` as JSON on a fresh connection."""
    return requests.post(
        url + route,
        data=orjson.dumps(body),
        headers={"Content-Type": "application/json", **headers},
        timeout=TIMEOUT_S,
        allow_redirects=False,
    )


def get(url: str, route: str, **headers: str) -> requests.Response:
    """Get `route` on a fresh connection."""
    return requests.get(url + route, headers=headers, timeout=TIMEOUT_S)


def base64_rows(answer: requests.Response) -> Rows:
    """Return the rows of a base64 answer in the order of the answer, float32 (n, dim)."""
    assert answer.status_code == 200, answer.text
    return np.stack([base64_row(item["embedding"]) for item in answer.json()["data"]])


def base64_row(text: str) -> Rows:
    """Return one decoded vector."""
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")


def embed64(url: str, texts: Sequence[object], **fields: Any) -> requests.Response:
    """Ask the OpenAI route for base64."""
    return post(url, "/v1/embeddings", {"input": texts, "encoding_format": "base64", **fields})


def embed(url: str, texts: object, **fields: Any) -> requests.Response:
    """Ask the native route."""
    return post(url, "/embed", {"inputs": texts, **fields})


def native_rows(answer: requests.Response) -> Rows:
    """Return the rows of a native answer, float32 (n, dim)."""
    assert answer.status_code == 200, answer.text
    return np.array(answer.json(), dtype=np.float32)


def request_bytes(route: str, body: object) -> bytes:
    """Return a whole request as it goes over the wire."""
    data = orjson.dumps(body)
    head = f"POST {route} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


@contextlib.contextmanager
def bare_socket(port: int) -> Iterator[socket.socket]:
    """Connect without any HTTP library."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as sock:
        yield sock


def read_until(sock: socket.socket, mark: bytes) -> bytes:
    """Read until `mark` has come, or the connection ended."""
    seen = b""
    while mark not in seen:
        piece = sock.recv(65536)
        if not piece:
            break
        seen += piece
    return seen


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for a condition that something is about to bring about."""
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline, "the awaited condition did not come"
