"""Reading an HTTP answer: status line, headers, and a body of any of HTTP/1.1's three framings.

The bytes go straight from the kernel into a buffer that is kept for the next answer; a body whose length was announced
(every body of TEI) is a view into that buffer.
"""

from __future__ import annotations

import enum

from gpu_clients.errors import FailureKind

MAX_HEAD_BYTES = 64 << 10
_FIRST_BUFFER_BYTES = 32 << 10


class BadAnswer(Exception):
    """What came is not an HTTP answer that can be used."""

    def __init__(self, kind: FailureKind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class _Part(enum.Enum):
    HEAD = "head"
    KNOWN_LENGTH = "body of known length"
    CHUNKS = "body in chunks"
    UNTIL_END = "body until the connection ends"
    DONE = "done"


class AnswerReader:
    """Reads one answer after the other from one connection.

    Attributes:
        began: Whether a byte of the answer has come.
        status: Status, 0 before the head is complete.
        headers: Header values by lower-case name; of a repeated header the last.
        keeps_alive: Whether the connection may be used again after this answer.
    """

    __slots__ = (
        "_body_start", "_buffer", "_chunks", "_end", "_filled", "_max_body_bytes", "_part", "_view", "began", "headers",
        "keeps_alive", "status",
    )  # fmt: skip

    def __init__(self) -> None:
        self._buffer = bytearray(_FIRST_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self.start(0)

    def start(self, max_body_bytes: int) -> None:
        """Begin with the next answer; its body may have at most `max_body_bytes`."""
        self._max_body_bytes = max_body_bytes
        self._part = _Part.HEAD
        self._filled = 0
        self._body_start = 0
        self._end = 0
        self._chunks: ChunkedBody | None = None
        self.began = False
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.keeps_alive = False

    def room(self) -> memoryview:
        """Where the next bytes go, never empty."""
        if self._part is _Part.KNOWN_LENGTH:
            return self._view[self._filled : self._end]
        if self._filled == len(self._buffer):
            self._grow(2 * self._filled)
        return self._view[self._filled :]

    def take(self, n_bytes: int) -> bool:
        """Take note that `n_bytes` were received into `room()`; tells whether the answer is complete.

        Raises:
            BadAnswer: not HTTP, too big, or encoded.
        """
        self.began = True
        self._filled += n_bytes
        while self._part is _Part.HEAD:
            if not self._read_head(n_bytes):
                return False
        if self._part is _Part.KNOWN_LENGTH:
            if self._filled < self._end:
                return False
            self._part = _Part.DONE
        elif self._part is _Part.CHUNKS:
            self._read_chunks()
        elif self._part is _Part.UNTIL_END and self._filled - self._body_start > self._max_body_bytes:
            raise self._oversized()
        return self._part is _Part.DONE

    def end(self) -> bool:
        """The connection ended; tells whether that makes the answer complete."""
        if self._part is _Part.UNTIL_END:
            self._part = _Part.DONE
            self._end = self._filled
            return True
        return False

    def body(self) -> memoryview:
        """The body of the complete answer; a view that is valid until the next `start`."""
        if self._chunks is not None:
            return memoryview(self._chunks.data)
        return self._view[self._body_start : self._end]

    def release(self) -> None:
        """Forget a body in chunks; the buffer is kept."""
        self._chunks = None

    def _grow(self, size_bytes: int) -> None:
        # a new buffer: views into the old one may be in other hands
        buffer = bytearray(size_bytes)
        buffer[: self._filled] = self._view[: self._filled]
        self._buffer = buffer
        self._view = memoryview(buffer)

    def _oversized(self) -> BadAnswer:
        return BadAnswer(FailureKind.OVERSIZED, f"the answer has more than {self._max_body_bytes} bytes")

    def _read_head(self, n_bytes: int) -> bool:
        """Read the head if all of it is there; an interim head (1xx) is skipped."""
        # the end mark may straddle what came now and what came before
        found = self._buffer.find(b"\r\n\r\n", max(0, self._filled - n_bytes - 3), self._filled)
        if found < 0:
            if self._filled > MAX_HEAD_BYTES:
                raise BadAnswer(FailureKind.OVERSIZED, f"the answer's headers have more than {MAX_HEAD_BYTES} bytes")
            return False
        version = self._parse_head(bytes(self._view[:found]))
        if 100 <= self.status < 200:
            if self.status == 101:
                raise BadAnswer(FailureKind.WRONG_SERVICE, "the server wants to switch protocols (HTTP 101)")
            rest = bytes(self._view[found + 4 : self._filled])
            self._view[: len(rest)] = rest
            self._filled = len(rest)
            return self._filled > 0 and self._read_head(self._filled)
        self._body_start = found + 4
        self._choose_framing(version)
        return True

    def _parse_head(self, head: bytes) -> bytes:
        """Set status and headers; return the HTTP version."""
        lines = head.split(b"\r\n")
        version, _, rest = lines[0].partition(b" ")
        code = rest[:3]
        if not version.startswith(b"HTTP/1.") or len(code) != 3 or not code.isdigit():
            raise BadAnswer(FailureKind.WRONG_SERVICE, f"not an HTTP/1.x answer: {lines[0][:60]!r}")
        self.status = int(code)
        headers: dict[bytes, bytes] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if not colon or line[0] in b" \t":
                raise BadAnswer(FailureKind.MALFORMED, f"header line {line[:60]!r} cannot be read")
            headers[name.lower()] = value.strip()
        self.headers = headers
        return version

    def _choose_framing(self, version: bytes) -> None:
        headers = self.headers
        connection = headers.get(b"connection", b"").lower()
        self.keeps_alive = b"close" not in connection if version == b"HTTP/1.1" else b"keep-alive" in connection
        encoding = headers.get(b"content-encoding", b"identity").lower()
        if encoding not in (b"identity", b""):
            raise BadAnswer(
                FailureKind.MALFORMED, f"the answer is encoded ({encoding[:20]!r}), which was not asked for"
            )
        announced = headers.get(b"content-length")
        if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
            self._chunks = ChunkedBody(self._max_body_bytes)
            self._part = _Part.CHUNKS
        elif self.status in (204, 304) or announced == b"0":
            self._end = self._body_start
            self._part = _Part.DONE
        elif announced is None:
            self.keeps_alive = False
            self._part = _Part.UNTIL_END
        else:
            self._expect(announced)

    def _expect(self, announced: bytes) -> None:
        if not announced.isdigit():
            raise BadAnswer(FailureKind.MALFORMED, f"Content-Length {announced[:30]!r} is not a number")
        length = int(announced)
        if length > self._max_body_bytes:
            raise self._oversized()
        self._end = self._body_start + length
        if self._end > len(self._buffer):
            self._grow(self._end)
        if self._filled > self._end:
            self.keeps_alive = False  # bytes nobody asked for: whose answer would they be?
        self._part = _Part.KNOWN_LENGTH

    def _read_chunks(self) -> None:
        assert self._chunks is not None
        done = self._chunks.feed(self._view[self._body_start : self._filled])
        self._filled = self._body_start = 0
        if done:
            self.keeps_alive = self.keeps_alive and not self._chunks.trailing
            self._part = _Part.DONE


class ChunkedBody:
    """Joins the chunks of a body.

    Attributes:
        data: The body so far.
        trailing: Whether bytes came behind the body's end.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self.data = bytearray()
        self.trailing = False
        self._max_body_bytes = max_body_bytes
        self._line = bytearray()
        self._left = 0  # bytes of the current chunk that have not come yet
        self._in_trailer = False
        self._after_chunk = False  # the line break behind a chunk is still to come

    def feed(self, data: memoryview) -> bool:
        """Take bytes in; tells whether the body is complete.

        Raises:
            BadAnswer: not chunked as it should be, or too big.
        """
        raw = bytes(data)
        at = 0
        while at < len(raw):
            if self._left:
                part = raw[at : at + self._left]
                self.data += part
                self._left -= len(part)
                at += len(part)
                self._after_chunk = self._left == 0
                continue
            end = raw.find(b"\n", at)
            if end < 0:
                self._line += raw[at:]
                if len(self._line) > MAX_HEAD_BYTES:
                    raise BadAnswer(FailureKind.MALFORMED, "a chunk's first line does not end")
                return False
            line = bytes(self._line + raw[at:end]).rstrip(b"\r")
            self._line.clear()
            at = end + 1
            if self._take_line(line):
                self.trailing = at < len(raw)
                return True
        return False

    def _take_line(self, line: bytes) -> bool:
        if self._after_chunk:
            if line:
                raise BadAnswer(FailureKind.MALFORMED, "a chunk is longer than it says")
            self._after_chunk = False
        elif self._in_trailer:
            return not line
        else:
            size = line.split(b";")[0].strip()
            try:
                # int() alone would take "0x", "_" and signs too
                self._left = int(size, 16) if size.isalnum() else -1
            except ValueError:
                self._left = -1
            if self._left < 0:
                raise BadAnswer(FailureKind.MALFORMED, f"chunk size {size[:20]!r} is not a number")
            if len(self.data) + self._left > self._max_body_bytes:
                raise BadAnswer(FailureKind.OVERSIZED, f"the answer has more than {self._max_body_bytes} bytes")
            self._in_trailer = self._left == 0
        return False
