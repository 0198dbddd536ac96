"""Faults that answer something else than vectors: error statuses, web pages, redirects, bodies without an end."""

from __future__ import annotations

import zlib

import pytest
import requests

from tests.bench.standin.client import TIMEOUT_S, bare_socket, embed, read_until
from tests.bench.standin.target import ASK, TEXTS, Target


def test_status_takes_any_code_and_the_body_shape_of_the_route(target: Target) -> None:
    target.fault("status:code=503,retry_after=21600")
    native, openai = embed(target.url, TEXTS), target.ask()
    assert (native.status_code, native.json()["error_type"]) == (503, "Unhealthy")
    assert openai.json() == {"message": "scripted failure 503", "code": 503, "type": "Unhealthy"}
    assert native.headers["retry-after"] == "21600"


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        ("html", "text/html", "<html>"),
        ("plain", "text/plain; charset=utf-8", "scripted failure 502"),
        ("native", "application/json", "error_type"),
        ("openai", "application/json", '"code":502'),
    ],
)
def test_status_takes_the_body_of_a_proxy_or_of_the_other_route(
    target: Target, body: str, kind: str, says: str
) -> None:
    target.fault({"kind": "status", "code": 502, "body": body})
    answer = target.ask()
    assert (answer.status_code, answer.headers["content-type"]) == (502, kind)
    assert says in answer.text


def test_status_can_have_no_body_and_a_date_as_retry_after(target: Target) -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    target.fault({"kind": "status", "code": 429, "body": "empty", "retry_after": date})
    answer = target.ask()
    assert (answer.status_code, answer.content, answer.headers["retry-after"]) == (429, b"", date)
    assert target.fleet.control(target.port)["answered_429"] == 1


def test_html200_looks_like_success_and_is_a_web_page(target: Target) -> None:
    target.fault("html200")
    answer = target.ask()
    assert (answer.status_code, answer.headers["content-type"][:9], "<html>" in answer.text) == (
        200,
        "text/html",
        True,
    )


def test_redirect_points_elsewhere(target: Target) -> None:
    target.fault({"kind": "redirect", "code": 307, "location": "http://127.0.0.1:9/x"})
    answer = target.ask()
    assert (answer.status_code, answer.headers["location"]) == (307, "http://127.0.0.1:9/x")


@pytest.mark.parametrize("chunked", [False, True])
def test_huge_body_goes_on_for_as_long_as_it_is_read(target: Target, chunked: bool) -> None:
    target.fault({"kind": "huge_body", "bytes": 2_000_000_000, "chunked": chunked})
    with bare_socket(target.port) as sock:
        sock.sendall(ASK)
        seen = 0
        head = read_until(sock, b"\r\n\r\n")
        while seen < 20_000_000:
            seen += len(sock.recv(1 << 20))
    assert (b"chunked" in head, b"content-length: 2000000000" in head) == (chunked, not chunked)


def test_a_huge_body_of_bounded_size_ends_and_the_connection_stays_usable(target: Target) -> None:
    target.fault("huge_body:bytes=300000,first=1")
    with requests.Session() as session:
        assert len(session.post(target.url + "/embed", json={"inputs": "a"}, timeout=TIMEOUT_S).content) == 300_000
        assert session.post(target.url + "/embed", json={"inputs": "a"}, timeout=TIMEOUT_S).status_code == 200
    assert target.fleet.control(target.port)["connections_open"] <= 1


def test_gzip_bomb_is_small_on_the_wire_and_huge_inside(target: Target) -> None:
    target.fault("gzip_bomb:bytes=67108864")
    with bare_socket(target.port) as sock:
        sock.sendall(ASK)
        head, _, body = read_until(sock, b"\r\n\r\n").partition(b"\r\n\r\n")
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += sock.recv(65536)
    assert b"content-encoding: gzip" in head
    assert length < 200_000
    assert len(zlib.decompress(body, wbits=31)) == 67_108_864


def test_endless_headers_never_end(target: Target) -> None:
    target.fault("endless_headers:interval_s=0.001")
    with bare_socket(target.port) as sock:
        sock.sendall(ASK)
        seen = read_until(sock, b"x-filler-50:")
    assert b"\r\n\r\n" not in seen
