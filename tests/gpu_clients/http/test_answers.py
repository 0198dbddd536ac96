"""Reading HTTP answers, however they are cut into pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_clients.errors import FailureKind
from gpu_clients.http.answers import MAX_HEAD_BYTES, AnswerReader, BadAnswer

CAP = 100_000


def feed(reader: AnswerReader, pieces: list[bytes]) -> bool:
    """Give the pieces one after the other, each in as many parts as the reader has room for."""
    done = False
    for piece in pieces:
        rest = piece
        while rest and not done:
            room = reader.room()
            n_bytes = min(len(room), len(rest))
            room[:n_bytes] = rest[:n_bytes]
            rest = rest[n_bytes:]
            done = reader.take(n_bytes)
    return done


def read(data: bytes, *, cap: int = CAP) -> AnswerReader:
    """The reader of a whole answer given at once."""
    reader = AnswerReader()
    reader.start(cap)
    assert feed(reader, [data])
    return reader


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at some places."""
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


KNOWN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\ncontent-LENGTH: 11\r\n\r\nhello world"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: x\r\n\r\n"
)
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + KNOWN


@pytest.mark.parametrize("data", [KNOWN, CHUNKED, CONTINUED])
@given(cuts=st.lists(st.integers(min_value=0, max_value=400), max_size=12))
def test_an_answer_is_the_same_however_it_arrives(data: bytes, cuts: list[int]) -> None:
    reader = AnswerReader()
    reader.start(CAP)

    assert feed(reader, pieces_of(data, cuts))
    assert (reader.status, bytes(reader.body()), reader.keeps_alive) == (200, b"hello world", True)


def test_one_reader_reads_one_answer_after_the_other() -> None:
    reader = AnswerReader()
    for size in (10, 50_000, 3, 90_000, 0):
        reader.start(CAP)
        assert feed(reader, [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size])
        assert bytes(reader.body()) == b"x" * size


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    reader = AnswerReader()
    reader.start(CAP)

    assert not feed(reader, [b"HTTP/1.0 200 OK\r\nServer: BaseHTTP/0.6\r\n\r\nhel", b"lo"])
    assert reader.end()
    assert bytes(reader.body()) == b"hello"
    assert not reader.keeps_alive


@pytest.mark.parametrize("data", [b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"])
def test_the_end_of_the_connection_does_not_complete_any_other_answer(data: bytes) -> None:
    reader = AnswerReader()
    reader.start(CAP)

    assert not feed(reader, [data])
    assert not reader.end()


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", True),
    ],
)
def test_it_is_known_whether_the_connection_may_be_used_again(head: bytes, expected: bool) -> None:
    assert read(head + b"Content-Length: 2\r\n\r\nok").keeps_alive is expected


def test_bytes_behind_an_answer_cost_the_connection() -> None:
    assert not read(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok?").keeps_alive


@pytest.mark.parametrize("status", [204, 304])
def test_some_statuses_have_no_body(status: int) -> None:
    assert bytes(read(b"HTTP/1.1 %d Nothing\r\n\r\n" % status).body()) == b""


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"<!DOCTYPE html><html>\r\n\r\n", FailureKind.WRONG_SERVICE),
        (b"HTTP/2 200\r\n\r\n", FailureKind.WRONG_SERVICE),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", FailureKind.WRONG_SERVICE),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", FailureKind.WRONG_SERVICE),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", FailureKind.WRONG_SERVICE),
        (b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n", FailureKind.MALFORMED),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n folded: c\r\n\r\n", FailureKind.MALFORMED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", FailureKind.MALFORMED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", FailureKind.MALFORMED),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\n12345", FailureKind.MALFORMED),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", FailureKind.MALFORMED),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", FailureKind.MALFORMED),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n", FailureKind.MALFORMED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100001\r\n\r\n", FailureKind.OVERSIZED),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n", FailureKind.OVERSIZED),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (CAP + 1), FailureKind.OVERSIZED),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * (2 * MAX_HEAD_BYTES), FailureKind.OVERSIZED),
    ],
)
def test_what_is_no_usable_answer_is_refused_with_its_kind(data: bytes, kind: FailureKind) -> None:
    with pytest.raises(BadAnswer) as caught:
        read(data)
    assert caught.value.kind is kind


@given(st.binary(max_size=300))
def test_no_bytes_whatever_raise_anything_else(data: bytes) -> None:
    reader = AnswerReader()
    reader.start(CAP)
    try:
        feed(reader, [b"HTTP/1.1 200 OK\r\n", data])
    except BadAnswer as error:
        assert str(error)
