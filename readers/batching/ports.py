"""What batching needs of a source, as small protocols: it knows no MongoDB and no file format."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.ports import IdList

Document = dict[str, Any]
"""A document of a source: its fields by name, its id under `_id`."""


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
    """

    kinds: Mapping[type, str]
    milliseconds: Callable[[Any], int]
    json: Callable[[Any], str]
