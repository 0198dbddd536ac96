"""Faults that act before an answer or instead of it, and those that spoil how it is sent."""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from bench.standin.api import messages
from bench.standin.api.messages import ApiError
from bench.standin.faults.script import Fault
from bench.standin.http.connection import Block, Connection, Response
from bench.standin.http.loop import Loop

_HTML = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body><h1>It works!</h1></body></html>"
_KIND_OF_STATUS = {
    400: "Empty",
    413: "Validation",
    422: "Validation",
    424: "Backend",
    429: "Overloaded",
    503: "Unhealthy",
}
_PIECE_BYTES = 1 << 16
_DRIP_TICK_S = 0.02
_ZERO_BLOCK_BYTES = 1 << 20


class FaultyServer(Protocol):
    """What a fault may do to the server that it hits.

    Attributes:
        healthy: What `/health` says.
    """

    healthy: bool

    @property
    def loop(self) -> Loop:
        """The loop that the server runs on."""

    def answer(self, connection: Connection, response: Response) -> None:
        """Count and send an answer."""

    def refuse(self, connection: Connection, error: ApiError, *, openai: bool, err: str | None) -> None:
        """Answer with an error in the shape of the route."""

    def count_overload(self) -> None:
        """Count an answer 429."""

    def refuse_for(self, down_s: float) -> None:
        """Reset every connection and refuse new ones for `down_s` seconds."""

    def exit_process(self, code: int, down_s: float) -> None:
        """End the process, or refuse for `down_s` seconds where other servers live in it."""

    def set_slow_factor(self, factor: float) -> None:
        """Take `factor` times as long from now on."""

    def switch_model(self, model_id: str) -> None:
        """Become a server of another model."""


def act(
    server: FaultyServer,
    connection: Connection,
    fired: Sequence[Fault],
    *,
    openai: bool,
    proceed: Callable[[], None],
    taken: Callable[[], None],
) -> None:
    """Let `fired` act on a request; call `proceed` when it shall be answered, `taken` when a fault did that."""

    def act() -> None:
        if connection.closed:
            return
        for fault in fired:
            rule = _BEFORE_THE_ANSWER.get(fault.kind)
            if rule is not None and rule(server, connection, fault, openai):
                taken()
                return
        proceed()

    delay_s = sum(fault["s"] for fault in fired if fault.kind == "delay")
    if delay_s:
        server.loop.call_later(delay_s, act)
    else:
        act()


def send(loop: Loop, connection: Connection, response: Response, fired: Sequence[Fault]) -> None:
    """Send an answer the way `fired` wants it."""
    for fault in fired:
        if fault.kind == "content_type":
            response.content_type = fault["value"].encode()
        elif fault.kind == "truncated_json":
            body = response.body()
            response.blocks = [body[: int(len(body) * fault["share"])]]
    for fault in fired:
        if fault.kind == "drip":
            _drip(loop, connection, response, fault["bytes_per_s"])
            return
        if fault.kind == "reset" and fault["at"] in ("headers", "body"):
            _break_off(connection, response, fault)
            return
        if fault.kind == "close":
            # no "connection: close": the client must find out
            connection.send([response.head(), *response.blocks])
            connection.finish(close=True)
            return
    connection.answer(response)


# -- instead of an answer: return True when the request is taken ------------------------------------------


def _status(server: FaultyServer, connection: Connection, fault: Fault, openai: bool) -> bool:
    code = fault["code"]
    kind = fault.params.get("error_type") or _KIND_OF_STATUS.get(code, "Backend")
    message = fault.params.get("message") or f"scripted failure {code}"
    body = fault["body"]
    if body == "html":
        response = Response(status=code, blocks=[_HTML], content_type=b"text/html")
    elif body == "plain":
        response = messages.plain(code, message)
    elif body == "empty":
        response = messages.empty(code)
    else:
        error = ApiError(status=code, kind=kind, message=message)
        response = messages.error_response(error, openai=openai if body == "auto" else body == "openai")
    if fault.params.get("retry_after") is not None:
        response.headers += b"retry-after: %b\r\n" % fault["retry_after"].encode("latin-1")
    if code == 424:
        server.healthy = False
    if code == 429:
        server.count_overload()
    server.answer(connection, response)
    return True


def _poison(server: FaultyServer, connection: Connection, fault: Fault, openai: bool) -> bool:
    if fault["scope"] == "batch":
        return False  # the backend fails the whole GPU batch
    return _status(server, connection, fault, openai)


def _dead_gpu(server: FaultyServer, connection: Connection, fault: Fault, openai: bool) -> bool:
    server.healthy = False
    server.refuse(connection, messages.BACKEND_FAILED, openai=openai, err="inference")
    return True


def _html200(server: FaultyServer, connection: Connection, fault: Fault, openai: bool) -> bool:
    server.answer(connection, Response(status=200, blocks=[_HTML], content_type=b"text/html; charset=utf-8"))
    return True


def _redirect(server: FaultyServer, connection: Connection, fault: Fault, openai: bool) -> bool:
    location = b"location: %b\r\n" % fault["location"].encode("latin-1")
    server.answer(connection, messages.empty(fault["code"], location))
    return True


def _huge_body(server: FaultyServer, connection: Connection, fault: Fault, openai: bool) -> bool:
    n_bytes, chunked = fault["bytes"], fault["chunked"]
    length = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % n_bytes
    connection.send([b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%b\r\n\r\n" % length])
    connection.stream(_pieces(n_bytes, chunked=chunked))
    return True


def _pieces(n_bytes: int, *, chunked: bool) -> Iterator[Block]:
    piece = b"0.125, " * (_PIECE_BYTES // 7)
    while n_bytes > 0:
        part = piece[:n_bytes]
        n_bytes -= len(part)
        yield b"%x\r\n%b\r\n" % (len(part), part) if chunked else part
    if chunked:
        yield b"0\r\n\r\n"


def _gzip_bomb(server: FaultyServer, connection: Connection, fault: Fault, openai: bool) -> bool:
    body = _zeros_gzipped(fault["bytes"])
    server.answer(connection, Response(status=200, blocks=[body], headers=b"content-encoding: gzip\r\n"))
    return True


@functools.lru_cache(maxsize=2)
def _zeros_gzipped(n_bytes: int) -> bytes:
    """Return a valid gzip stream of `n_bytes` zeros (rounded up to 1 MiB), made without compressing them all."""
    block = bytes(_ZERO_BLOCK_BYTES)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # after a full flush every block compresses to the same bytes, so one serves for all
    first = deflate.compress(block) + deflate.flush(zlib.Z_FULL_FLUSH)
    again = deflate.compress(block) + deflate.flush(zlib.Z_FULL_FLUSH)
    n_blocks = -(-n_bytes // _ZERO_BLOCK_BYTES)
    checksum = 0
    for _ in range(n_blocks):
        checksum = zlib.crc32(block, checksum)
    tail = struct.pack("<II", checksum, (n_blocks * _ZERO_BLOCK_BYTES) & 0xFFFFFFFF)
    head = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03"
    return head + first + again * (n_blocks - 1) + deflate.flush(zlib.Z_FINISH) + tail


def _endless_headers(server: FaultyServer, connection: Connection, fault: Fault, openai: bool) -> bool:
    connection.send([b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"])
    number = 0

    def more() -> None:
        nonlocal number
        if connection.closed:
            return
        number += 1
        connection.send([b"x-filler-%d: %b\r\n" % (number, b"z" * 64)])
        server.loop.call_later(max(fault["interval_s"], 0.001), more)

    more()
    return True


def _reset(server: FaultyServer, connection: Connection, fault: Fault, openai: bool) -> bool:
    if fault["at"] != "request":
        return False
    _end(connection, fault)
    return True


def _black_hole(server: FaultyServer, connection: Connection, fault: Fault, openai: bool) -> bool:
    return bool(fault["at"] == "request")


def _refuse(server: FaultyServer, connection: Connection, fault: Fault, openai: bool) -> bool:
    server.refuse_for(fault["down_s"])
    return True


def _exit(server: FaultyServer, connection: Connection, fault: Fault, openai: bool) -> bool:
    server.exit_process(fault["code"], fault["down_s"])
    return True


def _slow(server: FaultyServer, connection: Connection, fault: Fault, openai: bool) -> bool:
    server.set_slow_factor(fault["factor"])
    return False


def _switch_model(server: FaultyServer, connection: Connection, fault: Fault, openai: bool) -> bool:
    server.switch_model(fault["model_id"])
    return False


_BEFORE_THE_ANSWER: dict[str, Callable[[FaultyServer, Connection, Fault, bool], bool]] = {
    "status": _status,
    "poison": _poison,
    "dead_gpu": _dead_gpu,
    "html200": _html200,
    "redirect": _redirect,
    "huge_body": _huge_body,
    "gzip_bomb": _gzip_bomb,
    "endless_headers": _endless_headers,
    "reset": _reset,
    "black_hole": _black_hole,
    "refuse": _refuse,
    "exit": _exit,
    "slow": _slow,
    "switch_model": _switch_model,
}


# -- the right answer, badly sent -------------------------------------------------------------------------


def _end(connection: Connection, fault: Fault) -> None:
    if fault["how"] == "rst":
        connection.reset()
    else:
        connection.close()


def _break_off(connection: Connection, response: Response, fault: Fault) -> None:
    head, body = response.head(), response.body()
    connection.send([head[: len(head) // 2]] if fault["at"] == "headers" else [head, body[: len(body) // 2]])
    _end(connection, fault)


def _drip(loop: Loop, connection: Connection, response: Response, bytes_per_s: int) -> None:
    body = memoryview(response.body())
    tick_s = max(_DRIP_TICK_S, 1 / bytes_per_s)
    step = max(1, round(bytes_per_s * tick_s))
    at = 0
    connection.send([response.head()])

    def drop() -> None:
        nonlocal at
        if connection.closed:
            return
        connection.send([body[at : at + step]])
        at += step
        if at >= len(body):
            connection.finish(close=False)
        else:
            loop.call_later(tick_s, drop)

    drop()
