"""Positions as ids: what stands for a document of a file in sets, in the rings, and in the quarantine.

A position is the number of a file in the ledger's list, shifted by `ROW_BITS`, and the row. People see `file#row`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import orjson

from engine.memory.ids import pack_int64
from engine.ports import IdList

ROW_BITS = 40
"""As in `writers.shards.positions`, which this layer does not know; a test compares them."""

_ROW_MASK = (1 << ROW_BITS) - 1


def position_of(file: int, row: int) -> int:
    """The position of a row."""
    return file << ROW_BITS | row


def row_of(position: int) -> tuple[int, int]:
    """File and row of a position."""
    return position >> ROW_BITS, position & _ROW_MASK


class RowNaming:
    """The names of rows, both ways."""

    def __init__(self, names: Sequence[str]) -> None:
        """
        Args:
            names: The names of all files of the ledger, by number.
        """
        self._names = names
        self._numbers: dict[str, int] | None = None

    def name(self, position: int) -> str:
        """`file#row`."""
        file, row = row_of(position)
        return f"{self._names[file]}#{row}"

    def name_of_text(self, text: str) -> str:
        """The name of a row whose position is given as a decimal number (`engine.ledger.quarantine.Quarantine`)."""
        return self.name(int(text))

    def position(self, name: str) -> int:
        """The position of `file#row`.

        Raises:
            ValueError, KeyError: there is no such file.
        """
        if self._numbers is None:
            self._numbers = {one: number for number, one in enumerate(self._names)}
        file, _, row = name.rpartition("#")
        return position_of(self._numbers[file], int(row))


class PositionIds:
    """Positions as the ids of a source; fulfils `readers.batching.ports.SourceIds`."""

    def __init__(self, naming: RowNaming) -> None:
        self._naming = naming

    def key(self, value: Any) -> Hashable:
        """See the protocol."""
        return int(value)

    def keys(self, values: list[Any]) -> Sequence[Hashable]:
        """See the protocol."""
        return values

    def key_of_text(self, text: str) -> Hashable:
        """See the protocol; in the quarantine file a row has its name."""
        name = orjson.loads(text)
        if not isinstance(name, str):
            raise ValueError(f"{text} names no row of a file")
        return self._naming.position(name)

    def text(self, value: Any) -> str:
        """The position as a decimal number, as the clients write it, too; the supervisor gives it its name."""
        return str(value)

    def fit(self, values: list[Any]) -> bool:
        """See the protocol; a position always fits."""
        return True

    def misfit(self, value: Any) -> str | None:
        """See the protocol; a position always fits."""
        return None

    def column(self, values: Sequence[Any]) -> IdList:
        """See the protocol."""
        return list(values)

    def pack(self, values: Sequence[Any]) -> bytes:
        """See the protocol."""
        return pack_int64(values)
