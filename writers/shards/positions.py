"""Positions: which rows of a source without marks a shard holds, in its footer and in its COMMIT record.

A *position* is an int64: the number of a file in the ledger's list, and the row in that file (0 is the first). In the
slots of the rings it stands where another source has its ids; the writer puts the real ids into the file. A set of
positions is written as *stretches* of neighbouring rows: differences of their ends, compressed, in base64. The rows of
a shard are one stretch but for the two windows at its ends, which were sorted by length: about 4 KB.
"""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from engine.errors import DamageError, ProtocolError

Int64s = npt.NDArray[np.int64]

ROW_BITS = 40
"""A file may have 2^40 rows, a ledger 2^23 files."""

MAX_STRETCHES = 25_000
"""A shard with more is sealed, so that what is told of it fits into a message (`engine.memory.channels`)."""

_FEW = 1 << 16


class Positions:
    """The positions of an open shard, as stretches; memory grows with their number, not with the rows."""

    def __init__(self) -> None:
        self._firsts = self._lasts = np.empty(0, dtype=np.int64)

    @property
    def n_stretches(self) -> int:
        """Stretches of neighbouring rows."""
        return len(self._firsts)

    def add(self, positions: Int64s) -> None:
        """Take positions in.

        Raises:
            ProtocolError: one of them is there already (G2).
        """
        firsts, lasts = stretches_of(np.sort(positions))
        self._firsts, self._lasts = joined([(self._firsts, self._lasts), (firsts, lasts)])

    def encoded(self) -> str:
        """What `decoded` reads."""
        ends = np.empty(2 * len(self._firsts), dtype=np.int64)
        ends[0::2], ends[1::2] = self._firsts, self._lasts
        differences = np.diff(ends, prepend=np.int64(0)).astype("<u8")
        planes = np.ascontiguousarray(differences.view(np.uint8).reshape(-1, 8).T)  # bytes of one weight together
        return base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode()


def decoded(text: str) -> tuple[Int64s, Int64s]:
    """First and last position of each stretch, ascending; int64 (stretches,) each.

    Raises:
        DamageError: the text is none of `Positions.encoded`.
    """
    try:
        planes = np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), dtype=np.uint8)
        differences = np.ascontiguousarray(planes.reshape(8, -1).T).view("<u8").reshape(-1)
        ends = np.cumsum(differences.astype(np.int64))
        firsts, lasts = ends[0::2], ends[1::2]
        is_sound = len(firsts) == len(lasts) and bool(np.all(firsts <= lasts) and np.all(lasts[:-1] < firsts[1:]))
    except (ValueError, zlib.error) as error:
        raise DamageError(f"the positions of a shard cannot be read ({error})") from error
    if not is_sound:
        raise DamageError("the positions of a shard are not in order")
    return firsts, lasts


def count_of(text: str) -> int:
    """How many positions an encoded set has, -1 when it is damaged."""
    try:
        firsts, lasts = decoded(text)
    except DamageError:
        return -1
    return int((lasts - firsts + 1).sum())


def stretches_of(positions: Int64s) -> tuple[Int64s, Int64s]:
    """Stretches of positions that are in ascending order.

    Raises:
        ProtocolError: a position is there twice.
    """
    gaps = np.diff(positions)
    if len(gaps) and gaps.min() < 1:
        raise ProtocolError(f"row {described(int(positions[int(gaps.argmin())]))} of the source is there twice")
    breaks = np.flatnonzero(gaps > 1)
    firsts = positions[np.concatenate(([0], breaks + 1))] if len(positions) else positions
    lasts = positions[np.concatenate((breaks, [len(positions) - 1]))] if len(positions) else positions
    return firsts, lasts


def joined(sets: list[tuple[Int64s, Int64s]]) -> tuple[Int64s, Int64s]:
    """The union of sets of stretches that have no position in common.

    Raises:
        ProtocolError: two of them have one (G2).
    """
    firsts = np.concatenate([one for one, _ in sets]) if sets else np.empty(0, dtype=np.int64)
    lasts = np.concatenate([other for _, other in sets]) if sets else np.empty(0, dtype=np.int64)
    order = np.argsort(firsts, kind="stable")
    firsts, lasts = firsts[order], lasts[order]
    overlaps = np.flatnonzero(firsts[1:] <= lasts[:-1])
    if len(overlaps):
        raise ProtocolError(f"row {described(int(firsts[overlaps[0] + 1]))} of the source is in two committed rows")
    is_first = np.concatenate(([True], firsts[1:] > lasts[:-1] + 1)) if len(firsts) else np.empty(0, dtype=bool)
    is_last = np.concatenate((is_first[1:], [True])) if len(firsts) else is_first
    return firsts[is_first], lasts[is_last]


class Union:
    """The union of the positions of any number of shards, with few of their stretches in memory at a time."""

    def __init__(self) -> None:
        self._sets: list[tuple[Int64s, Int64s]] = []
        self._held = 0

    def add(self, text: str) -> None:
        """Take a shard's positions in (`Positions.encoded`).

        Raises:
            DamageError: they cannot be read.
            ProtocolError: one of them is there already (G2).
        """
        self._sets.append(decoded(text))
        self._held += len(self._sets[-1][0])
        if self._held > _FEW:
            self._sets = [joined(self._sets)]
            self._held = 0

    def stretches(self) -> tuple[Int64s, Int64s]:
        """First and last position of each stretch; int64 (stretches,) each."""
        return joined(self._sets)


def described(position: int) -> str:
    """A position for a message."""
    return f"{position & ((1 << ROW_BITS) - 1)} of file {position >> ROW_BITS}"


class RowNames:
    """Makes `file#row` of positions."""

    def __init__(self, path: Path) -> None:
        """Read the names of the files: one JSON object a line with `name`, in the order of their numbers."""
        with path.open("rb") as stream:
            self._names = pa.array([orjson.loads(line)["name"] for line in stream], type=pa.string())

    def of(self, positions: Int64s) -> pa.Array:
        """The names of rows, string (rows,)."""
        import pyarrow.compute as pc  # noqa: PLC0415 - it takes a while to import, and only files need it

        files = self._names.take(pa.array(positions >> ROW_BITS))
        rows = pa.array(positions & ((1 << ROW_BITS) - 1)).cast(pa.string())
        return pc.binary_join_element_wise(files, rows, "#")
