"""What each route expects in a request's body, field by field, as the real server declares it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import orjson

from bench.standin.api.json_reader import JsonReader, said

_ID_LIMIT: Final = 1 << 32
_SIZE_LIMIT: Final = 1 << 64


class Kind(Protocol):
    """What a field may hold."""

    def fits(self, value: Any) -> bool:
        """Whether a value that was parsed elsewhere is one."""

    def read(self, reader: JsonReader) -> Any:
        """Read one.

        Raises:
            Unreadable: something else stands there.
        """


@dataclass(frozen=True, slots=True)
class Scalar:
    """One plain value."""

    expected: str
    holds: Callable[[Any], bool]

    def fits(self, value: Any) -> bool:
        return self.holds(value)

    def read(self, reader: JsonReader) -> Any:
        value = reader.value()
        if self.holds(value):
            return value
        what = "value" if self is SIZE and type(value) is int else "type"
        raise reader.misfit(f"invalid {what}: {said(value)}, expected {self.expected}")


@dataclass(frozen=True, slots=True)
class Optional:
    """A value, or null."""

    kind: Kind

    def fits(self, value: Any) -> bool:
        return value is None or self.kind.fits(value)

    def read(self, reader: JsonReader) -> Any:
        if reader.peek() == ord("n"):
            return reader.scalar()
        return self.kind.read(reader)


@dataclass(frozen=True, slots=True)
class Variant:
    """One of some names; anything but a string there is no value at all to the parser."""

    names: tuple[str, ...]

    def fits(self, value: Any) -> bool:
        return type(value) is str and value in self.names

    def read(self, reader: JsonReader) -> Any:
        if reader.peek() not in b'"{':
            raise reader.no_value()
        value = reader.value()
        if self.fits(value):
            return value
        names = [f"`{name}`" for name in self.names]
        shown = " or ".join(names) if len(names) == 2 else "one of " + ", ".join(names)
        raise reader.misfit(f"unknown variant `{value}`, expected {shown}")


@dataclass(frozen=True, slots=True)
class Untagged:
    """Whatever fits one of several shapes."""

    name: str
    holds: Callable[[Any], bool]

    def fits(self, value: Any) -> bool:
        return self.holds(value)

    def read(self, reader: JsonReader) -> Any:
        value = reader.value()
        if not self.holds(value):
            reader.end_of_container()
            raise reader.misfit(f"data did not match any variant of untagged enum {self.name}")
        return value


@dataclass(frozen=True, slots=True)
class ListOf:
    """Any number of one kind."""

    kind: Kind

    def fits(self, value: Any) -> bool:
        return type(value) is list and all(map(self.kind.fits, value))

    def read(self, reader: JsonReader) -> Any:
        if not reader.is_list():
            raise reader.misfit(f"invalid type: {said(reader.value())}, expected a sequence")
        items: list[Any] = []
        reader.list(lambda _: items.append(self.kind.read(reader)))
        return items


@dataclass(frozen=True, slots=True)
class Struct:
    """Named fields; unknown ones are ignored, those in `needed` must be there.

    Attributes:
        name: The server's name for it.
        fields: Kind of each field, in the order of declaration.
        needed: Fields without a default.
    """

    name: str
    fields: dict[str, Kind]
    needed: tuple[str, ...]
    _quoted: dict[str, bytes] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._quoted.update({name: b'"%b"' % name.encode() for name in self.fields})

    def fits(self, value: Any) -> bool:
        if type(value) is not dict:
            return False
        fields = self.fields
        return all(name in value for name in self.needed) and all(
            fields[name].fits(one) for name, one in value.items() if name in fields
        )

    def read(self, reader: JsonReader) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if reader.is_list():  # the fields in their order
            names = list(self.fields)

            def item(number: int) -> None:
                if number < len(names):
                    found[names[number]] = self.fields[names[number]].read(reader)
                else:
                    reader.value()

            reader.list(item)
        elif reader.is_object():

            def refuse_repeated(name: str) -> None:
                if name in found:
                    raise reader.misfit(f"duplicate field `{name}`", named=False)

            def value_of(name: str) -> None:
                kind = self.fields.get(name)
                if kind is None:
                    reader.value()
                else:
                    found[name] = kind.read(reader)

            reader.object(value_of, refuse_repeated)
        else:
            raise reader.misfit(f"invalid type: {said(reader.value())}, expected struct {self.name}")
        for name in self.needed:
            if name not in found:
                raise reader.misfit(f"missing field `{name}`", named=False)
        return found

    def parse(self, body: bytes) -> dict[str, Any]:
        """The fields in a body.

        Raises:
            Unreadable: it is no JSON, or a field does not fit.
        """
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            document = None
        if self.fits(document) and not self._may_repeat(body, document):
            parsed: dict[str, Any] = document
            return parsed
        return self.read(JsonReader(body))

    def _may_repeat(self, body: bytes, document: dict[str, Any]) -> bool:
        """Whether a field may be there twice; a text that looks like one is a reason to look closer."""
        quoted = self._quoted
        return any(body.count(quoted[name]) > 1 for name in document if name in quoted)


def is_ids(value: Any) -> bool:
    """Whether a value is a list of token ids."""
    return type(value) is list and all(type(one) is int and 0 <= one < _ID_LIMIT for one in value)


def is_input(value: Any) -> bool:
    """Whether a value is what can be embedded: a text, the ids of one, or a list of such."""
    if type(value) is str:
        return True
    if type(value) is not list:
        return False
    kinds = set(map(type, value))
    if kinds <= {str}:
        return True
    return (kinds == {int} and is_ids(value)) or (
        kinds <= {str, list} and all(is_ids(one) for one in value if type(one) is list)
    )


def _is_texts(value: Any) -> bool:
    return type(value) is str or (type(value) is list and set(map(type, value)) <= {str})


def _is_id_lists(value: Any) -> bool:
    return type(value) is list and (is_ids(value) or all(map(is_ids, value)))


def _is_predict_input(value: Any) -> bool:
    if type(value) is str:
        return True
    return type(value) is list and all(type(one) is str or _is_texts(one) for one in value)


TEXT: Final = Scalar("a string", lambda value: type(value) is str)
FLAG: Final = Scalar("a boolean", lambda value: type(value) is bool)
SIZE: Final = Scalar("usize", lambda value: type(value) is int and 0 <= value < _SIZE_LIMIT)
DIRECTION: Final = Variant(("Left", "left", "Right", "right"))
INPUT: Final = Untagged("Input", is_input)
_SHARED: Final[dict[str, Kind]] = {
    "truncate": Optional(FLAG),
    "truncation_direction": DIRECTION,
    "prompt_name": Optional(TEXT),
}

EMBED: Final = Struct(
    "EmbedRequest", {"inputs": INPUT, **_SHARED, "normalize": FLAG, "dimensions": Optional(SIZE)}, ("inputs",)
)
OPENAI: Final = Struct(
    "OpenAICompatRequest",
    {
        "input": INPUT,
        "model": Optional(TEXT),
        "user": Optional(TEXT),
        "encoding_format": Variant(("float", "base64")),
        "dimensions": Optional(SIZE),
    },
    ("input",),
)
EMBED_ALL: Final = Struct("EmbedAllRequest", {"inputs": INPUT, **_SHARED}, ("inputs",))
EMBED_SPARSE: Final = Struct("EmbedSparseRequest", {"inputs": INPUT, **_SHARED}, ("inputs",))
SIMILARITY: Final = Struct(
    "SimilarityRequest",
    {
        "inputs": Struct(
            "SimilarityInput",
            {"source_sentence": TEXT, "sentences": ListOf(TEXT)},
            ("source_sentence", "sentences"),
        ),
        "parameters": Optional(Struct("SimilarityParameters", dict(_SHARED), ())),
    },
    ("inputs",),
)
VERTEX: Final = Struct("VertexRequest", {"instances": ListOf(EMBED)}, ("instances",))
PREDICT: Final = Struct(
    "PredictRequest",
    {
        "inputs": Untagged("PredictInput", _is_predict_input),
        "truncate": Optional(FLAG),
        "truncation_direction": DIRECTION,
        "raw_scores": FLAG,
    },
    ("inputs",),
)
RERANK: Final = Struct(
    "RerankRequest",
    {
        "query": TEXT,
        "texts": ListOf(TEXT),
        "truncate": Optional(FLAG),
        "truncation_direction": DIRECTION,
        "raw_scores": FLAG,
        "return_text": FLAG,
    },
    ("query", "texts"),
)
TOKENIZE: Final = Struct(
    "TokenizeRequest",
    {"inputs": Untagged("TokenizeInput", _is_texts), "add_special_tokens": FLAG, "prompt_name": Optional(TEXT)},
    ("inputs",),
)
DECODE: Final = Struct(
    "DecodeRequest", {"ids": Untagged("InputIds", _is_id_lists), "skip_special_tokens": FLAG}, ("ids",)
)
