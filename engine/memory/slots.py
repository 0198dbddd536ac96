"""The layouts of a slot: one for documents on their way to a server, one for vectors on their way to a shard.

Document slot                                   Vector slot
    header, 64 bytes                                header, 64 bytes
    meta: ids | flags | columns                     meta: ids | flags | columns     (capacity fixed per ring)
    fan-out: uint16 a row, or nothing               matrix: float32 (n_rows, dim), 64-byte aligned
    body: JSON array of texts, ready to send

`flags` is one byte a row (`TRUNCATED`). `columns` is a JSON array with one array of values a row, or empty. When
identical texts are embedded once, the body holds each text once and the fan-out says which text belongs to which
row; without a fan-out, text i belongs to row i. A batch keeps its sequence number and its generation on the way, so
that a late result of an old generation is refused and every document can be accounted for.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from engine.errors import ProtocolError

HEADER_BYTES = 64
TRUNCATED = 1

_HEADER = struct.Struct("<IIQIIIIIIII")  # the fields of Header in their order


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a slot; sizes in bytes, one batch a slot.

    Attributes:
        generation: Which set of processes the batch belongs to.
        n_rows: Documents in the batch.
        sequence: Number of the batch in reading order, from 0 in every generation.
        ids_bytes: Size of the id column (see `engine.memory.ids`).
        flags_bytes: Size of the flags, `n_rows`.
        columns_bytes: Size of the further columns, 0 when there are none.
        body_bytes: Size of the JSON array of texts; 0 in a vector slot.
        n_texts: Texts in the body; fewer than `n_rows` only with a fan-out.
        fanout_bytes: Size of the fan-out, 0 or two bytes a row.
        estimated_tokens: What the reader expects the batch to cost, in tokens.
        characters: Characters of all texts.
    """

    generation: int
    n_rows: int
    sequence: int
    ids_bytes: int
    flags_bytes: int
    columns_bytes: int
    body_bytes: int = 0
    n_texts: int = 0
    fanout_bytes: int = 0
    estimated_tokens: int = 0
    characters: int = 0

    @property
    def meta_bytes(self) -> int:
        """Size of ids, flags and columns together."""
        return self.ids_bytes + self.flags_bytes + self.columns_bytes

    def pack_into(self, slot: memoryview) -> None:
        """Write the header; the caller writes it last, before the slot's number is handed on."""
        _HEADER.pack_into(
            slot,
            0,
            self.generation,
            self.n_rows,
            self.sequence,
            self.ids_bytes,
            self.flags_bytes,
            self.columns_bytes,
            self.body_bytes,
            self.n_texts,
            self.fanout_bytes,
            self.estimated_tokens,
            self.characters,
        )

    @classmethod
    def unpack_from(cls, slot: memoryview, generation: int) -> Header:
        """Read and bounds-check the header of a slot.

        Raises:
            ProtocolError: another generation's slot, or sizes that do not fit: garbage.
        """
        header = cls(*_HEADER.unpack_from(slot, 0))
        if header.generation != generation:
            raise ProtocolError(f"slot of generation {header.generation} met in generation {generation}")
        if HEADER_BYTES + header.meta_bytes + header.fanout_bytes + header.body_bytes > len(slot):
            raise ProtocolError("slot header names more bytes than the slot has")
        return header


@dataclass(frozen=True, slots=True, kw_only=True)
class RowMeta:
    """Ids, flags and columns of a batch, as they stand in a slot."""

    ids: memoryview | bytes
    flags: memoryview | bytes
    columns: memoryview | bytes


def meta_of(slot: memoryview, header: Header) -> RowMeta:
    """The three parts of a slot's meta area, as views into the slot."""
    ids_end = HEADER_BYTES + header.ids_bytes
    flags_end = ids_end + header.flags_bytes
    return RowMeta(
        ids=slot[HEADER_BYTES:ids_end],
        flags=slot[ids_end:flags_end],
        columns=slot[flags_end : flags_end + header.columns_bytes],
    )


def body_of(slot: memoryview, header: Header) -> memoryview:
    """The JSON array of texts in a document slot, as a view into the slot."""
    start = HEADER_BYTES + header.meta_bytes + header.fanout_bytes
    return slot[start : start + header.body_bytes]


def fanout_of(slot: memoryview, header: Header) -> memoryview:
    """The fan-out in a document slot, uint16 (n_rows,) little endian, as a view into the slot; empty without one."""
    start = HEADER_BYTES + header.meta_bytes
    return slot[start : start + header.fanout_bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorLayout:
    """The layout of a vector slot: where its matrix stands.

    Attributes:
        dim: Numbers in a vector.
        max_rows: Rows a slot can hold.
        meta_capacity_bytes: Room for ids, flags and columns.
    """

    dim: int
    max_rows: int
    meta_capacity_bytes: int

    @property
    def matrix_offset(self) -> int:
        """Offset of the matrix: the first 64-byte boundary behind the meta area."""
        return -(-(HEADER_BYTES + self.meta_capacity_bytes) // 64) * 64

    @property
    def slot_bytes(self) -> int:
        """Size of a slot, a multiple of 64."""
        return -(-(self.matrix_offset + self.max_rows * self.dim * 4) // 64) * 64

    def matrix_bytes(self, slot: memoryview, n_rows: int) -> memoryview:
        """The bytes of `n_rows` float32 vectors in a slot, as a writable view."""
        if n_rows > self.max_rows:
            raise ProtocolError(f"{n_rows} rows do not fit into a vector slot of {self.max_rows}")
        return slot[self.matrix_offset : self.matrix_offset + n_rows * self.dim * 4]
