"""What batching needs of a source, as small protocols: it knows no MongoDB and no file format."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.errors import ProtocolError
from engine.ports import IdList

Document = dict[str, Any]
"""A document of a source: its fields by name, its id under `_id`."""


class UnreadableDocument(Document):
    """A document that the source could not read: only its id is there.

    Attributes:
        reason, detail: As the quarantine names them (`engine.records.Quarantined`).
    """

    __slots__ = ("detail", "reason")

    def __init__(self, value: Any, reason: str, detail: str) -> None:
        super().__init__(_id=value)
        self.reason = reason
        self.detail = detail


class IdTypeMismatch(Exception):
    """An id does not fit the id column; the document cannot be in this data set."""


class SourceIds(Protocol):
    """What the ids of a source are in a set, in the id column, and in the quarantine file.

    A *key* is what stands for an id in Python sets: two ids have the same key when the source takes them for the same.
    Most methods take a whole page or batch, so that the usual document costs no call of its own.
    """

    def key(self, value: Any) -> Hashable:
        """The key of one id."""

    def keys(self, values: list[Any]) -> Sequence[Hashable]:
        """The keys of a page's ids; may be the list itself."""

    def key_of_text(self, text: str) -> Hashable:
        """The key of the id that `text` wrote.

        Raises:
            ValueError, TypeError, KeyError: no id is written like that.
        """

    def text(self, value: Any) -> str:
        """One id as the quarantine file names it."""

    def fit(self, values: list[Any]) -> bool:
        """Whether a page's ids surely fit the column; when not, `misfit` tells of each."""

    def misfit(self, value: Any) -> str | None:
        """Why an id does not fit the column, or None when it does."""

    def column(self, values: Sequence[Any]) -> IdList:
        """Ids that fit as the id column holds them."""

    def pack(self, values: Sequence[Any]) -> bytes:
        """The id column of a batch (see `engine.memory.ids`).

        Raises:
            IdTypeMismatch: some id does not fit; `misfit` says which.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueTypes:
    """How the values of a source become those of carried columns.

    Attributes:
        kinds: The column type of each Python type that the source uses; a value of any other type is `json`.
        milliseconds: Milliseconds since 1970, UTC, of a value whose kind is `timestamp`.
        json: Any value as JSON text.
        has_wide_integers: Whether an integer may be too wide for 64 bits with a sign; such a one fits no `int64`.
    """

    kinds: Mapping[type, str]
    milliseconds: Callable[[Any], int]
    json: Callable[[Any], str]
    has_wide_integers: bool = False


class Outage(Protocol):
    """How long a source has been away, and what its last error said."""

    @property
    def going_on(self) -> bool:
        """Whether the last call failed."""

    @property
    def last_error(self) -> str | None:
        """What the last failure said, or None."""

    def over(self) -> None:
        """Note that a call worked."""

    def pause_s(self, error: Any, /) -> float:
        """Note a failed call; how long to wait before the next one.

        Raises:
            EngineError: the error does not pass by itself, or the outage has lasted too long.
        """


class Page(Protocol):
    """Some documents of a source in its order."""

    @property
    def documents(self) -> list[Document]:
        """The documents; may be empty, also before the end."""

    @property
    def position(self) -> Any:
        """Where the next page begins, None at the end."""


class DocumentQueue(Protocol):
    """The documents of a source that are to be embedded, a page at a time."""

    def start(self) -> Any:
        """Where the first page begins."""

    def read(self, position: Any, n_rows: int, /) -> Page:
        """The page that begins at `position`, of about so many documents at most."""


class DocumentSource(Protocol):
    """A source of documents as the reader's stage sees it; every wing that reads one has one.

    Attributes:
        ids: What its ids are.
        types: How its values become those of carried columns.
        outage: How long it has been away.
        passing: Errors of `open` and of a queue's `read` that may pass; `outage` says for how long to wait.
        columns: Name and type of the values that travel with each document.
    """

    ids: SourceIds
    types: ValueTypes
    outage: Outage
    passing: tuple[type[Exception], ...]
    columns: tuple[tuple[str, str], ...]

    def may_wait(self, entry: dict[str, Any], /) -> bool:
        """Note an entry of the quarantine; whether its document may turn out to be in no page (`take_in`)."""

    def begin_pass(self) -> None:
        """Told before every pass, by the reader's thread: go by what is in quarantine now."""

    def take_range(self, wanted: dict[str, Any], /) -> None:
        """Told before a pass that is to read a range only.

        Raises:
            ProtocolError: this source has no ranges.
        """
        raise ProtocolError(f"{type(self).__name__} cannot be read by ranges")

    def take_in(self, skip: Any, is_enough: Callable[[], bool], /) -> bool:
        """See to it, before the first page of a pass, that quarantined documents in its pages are in the skip set.

        Args:
            skip: The reader's `readers.batching.skip.SkipSet`.

        Returns:
            False when `is_enough` ended it: then no page may be looked at.
        """

    def open(self) -> DocumentQueue:
        """Begin a pass over what is to be embedded.

        Raises:
            ConfigError: it cannot be read as it is.
        """

    def first_page_is_there(self) -> None:
        """Told after every page: what may take a while, and the first page should not wait for, can begin now."""

    @property
    def estimate(self) -> int | None:
        """About how many documents the first pass finds; None while that is not known."""

    def close(self) -> None:
        """Close connections and files."""
