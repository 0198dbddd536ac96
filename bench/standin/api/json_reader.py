"""Reading JSON the way the real server's parser does it, to the same end and in the same words.

It reads a document from front to back into the fields that it expects, so which of two errors it finds, and whether
that is one of JSON (400) or of a field (422), follows from where it stands. It stops behind the document and looks at
nothing that follows. Only what the fast parser cannot take, or what does not fit, is read this way.

Source: observed answers of text-embeddings-inference 1.9.3; the words are those of Rust's serde_json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

_BLANK = re.compile(rb"[ \t\r\n]*")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_HEX = re.compile(rb"[0-9a-fA-F]{4}")
_ESCAPES = {
    0x22: '"', 0x5C: "\\", 0x2F: "/", 0x62: "\b", 0x66: "\f", 0x6E: "\n", 0x72: "\r", 0x74: "\t",
}  # fmt: skip
_WORDS = ((b"null", None), (b"true", True), (b"false", False))
_CONTROL = "control character (\\u0000-\\u001F) found while parsing a string"
_OPEN, _CLOSE, _COMMA, _COLON, _QUOTE, _LIST, _LIST_END, _BACKSLASH = b'{},:"[]\\'


class Unreadable(Exception):
    """The document cannot be read.

    Attributes:
        is_json: Whether it is JSON, and a field of it is the trouble.
        message: What the server says about it.
    """

    def __init__(self, message: str, *, is_json: bool) -> None:
        super().__init__(message)
        self.message = message
        self.is_json = is_json


class JsonReader:
    """Reads one document from its first byte on.

    Attributes:
        path: Where in the document it stands: `inputs[0]`.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self.path = ""

    # -- errors ----------------------------------------------------------------------------------------

    def misfit(self, what: str, *, named: bool = True) -> Unreadable:
        """A field is not what was expected; `named` says where."""
        return self._failed(what, is_json=True, named=named)

    def no_value(self) -> Unreadable:
        """Something stands there that the parser takes for no value at all."""
        self._at += 1
        return self._broken("expected value")

    def _broken(self, what: str) -> Unreadable:
        return self._failed(what, is_json=False, named=True)

    def _failed(self, what: str, *, is_json: bool, named: bool) -> Unreadable:
        before = self._data[: self._at]
        line = before.count(b"\n") + 1
        column = len(before) - (before.rfind(b"\n") + 1)
        where = f"{self.path}: " if named and self.path else ""
        return Unreadable(f"{where}{what} at line {line} column {column}", is_json=is_json)

    # -- structure -------------------------------------------------------------------------------------

    def peek(self, what: str = "a value") -> int:
        """The next byte that is not blank."""
        match = _BLANK.match(self._data, self._at)
        self._at = match.end() if match else self._at
        if self._at >= len(self._data):
            raise self._broken(f"EOF while parsing {what}")
        return self._data[self._at]

    def is_object(self) -> bool:
        """Whether an object begins."""
        return self.peek() == _OPEN

    def is_list(self) -> bool:
        """Whether a list begins."""
        return self.peek() == _LIST

    def end_of_container(self) -> None:
        """Go behind what ends the container, as the real parser does before it says what was wrong in it."""
        byte = self.peek()
        if byte in (_CLOSE, _LIST_END, _COMMA):
            self._at += 1
            if byte == _COMMA:
                self.peek()

    def object(self, field: Callable[[str], None], name: Callable[[str], None] | None = None) -> None:
        """Read an object; `name` hears each key, `field` reads its value."""
        outer = self.path
        self._at += 1
        first = True
        while True:
            byte = self.peek("an object")
            if byte == _CLOSE:
                self._at += 1
                self.path = outer
                return
            if not first:
                if byte != _COMMA:
                    raise self._broken("expected `,` or `}`")
                self._at += 1
                byte = self.peek("a value")
                if byte == _CLOSE:
                    raise self._broken("trailing comma")
            first = False
            if byte != _QUOTE:
                self._at += 1
                raise self._broken("key must be a string")
            key = self._string()
            if name is not None:
                name(key)
            if self.peek("an object") != _COLON:
                raise self._broken("expected `:`")
            self._at += 1
            self.path = f"{outer}.{key}" if outer else key
            field(key)
            self.path = outer

    def list(self, item: Callable[[int], None]) -> None:
        """Read a list; `item` reads each value."""
        outer = self.path
        self._at += 1
        number = 0
        while True:
            byte = self.peek("a list")
            if byte == _LIST_END:
                self._at += 1
                return
            if number:
                if byte != _COMMA:
                    raise self._broken("expected `,` or `]`")
                self._at += 1
                if self.peek("a value") == _LIST_END:
                    self._at += 1
                    raise self._broken("trailing comma")
            self.path = f"{outer}[{number}]"
            item(number)
            self.path = outer
            number += 1

    def value(self) -> Any:
        """Read any value."""
        byte = self.peek()
        if byte == _OPEN:
            found: dict[str, Any] = {}

            def field(key: str) -> None:
                found[key] = self.value()

            self.object(field)
            return found
        if byte == _LIST:
            items: list[Any] = []
            self.list(lambda _: items.append(self.value()))
            return items
        return self.scalar()

    def scalar(self) -> Any:
        """Read a string, a number, true, false or null."""
        byte = self.peek()
        if byte == _QUOTE:
            return self._string()
        for word, value in _WORDS:
            if byte == word[0]:
                if self._data[self._at : self._at + len(word)] != word:
                    self._at += 2
                    raise self._broken("expected ident")
                self._at += len(word)
                return value
        match = _NUMBER.match(self._data, self._at)
        if match is None:
            self._at += 1
            raise self._broken("expected value")
        self._at = match.end()
        text = match.group()
        return float(text) if match.group(1) or match.group(2) else int(text)

    # -- strings ---------------------------------------------------------------------------------------

    def _string(self) -> str:
        self._at += 1
        parts: list[str] = []
        while True:
            match = _PLAIN.match(self._data, self._at)
            plain = match.group() if match else b""
            self._at += len(plain)
            parts.append(self._decoded(plain))
            if self._at >= len(self._data):
                raise self._broken("EOF while parsing a string")
            byte = self._data[self._at]
            self._at += 1
            if byte == _QUOTE:
                return "".join(parts)
            if byte != _BACKSLASH:
                raise self._broken(_CONTROL)
            parts.append(self._escape())

    def _decoded(self, plain: bytes) -> str:
        try:
            return plain.decode()
        except UnicodeDecodeError as error:
            self._at += 1 + len(plain) - error.start
            raise self._broken("invalid unicode code point") from error

    def _escape(self) -> str:
        byte = self._data[self._at : self._at + 1]
        self._at += 1
        if byte == b"u":
            return self._code_point()
        if not byte:
            raise self._broken("EOF while parsing a string")
        plain = _ESCAPES.get(byte[0])
        if plain is None:
            raise self._broken("invalid escape")
        return plain

    def _code_point(self) -> str:
        first = self._hex()
        if 0xDC00 <= first <= 0xDFFF:
            raise self._broken("lone leading surrogate in hex escape")
        if not 0xD800 <= first <= 0xDBFF:
            return chr(first)
        if self._data[self._at : self._at + 2] != b"\\u":
            self._at += 1
            raise self._broken("unexpected end of hex escape")
        self._at += 2
        second = self._hex()
        if not 0xDC00 <= second <= 0xDFFF:
            raise self._broken("lone leading surrogate in hex escape")
        return chr(0x10000 + ((first - 0xD800) << 10) + second - 0xDC00)

    def _hex(self) -> int:
        match = _HEX.match(self._data, self._at)
        if match is None:
            raise self._broken("invalid escape")
        self._at = match.end()
        return int(match.group(), 16)


def said(value: Any) -> str:
    """A value as an error names it: `integer `1``, `string "a"`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"boolean `{str(value).lower()}`"
    if isinstance(value, int):
        return f"integer `{value}`"
    if isinstance(value, float):
        return f"floating point `{value}`"
    if isinstance(value, str):
        return f"string {json.dumps(value, ensure_ascii=False)}"
    return "map" if isinstance(value, dict) else "sequence"
