"""The layouts of document and vector slots."""

from __future__ import annotations

import pytest

from engine.errors import ProtocolError
from engine.memory.slots import Header, VectorLayout, body_of, fanout_of, meta_of


def test_a_slot_gives_back_what_its_header_describes() -> None:
    """Meta, fan-out and body stand behind each other."""
    slot = memoryview(bytearray(256))
    header = Header(
        generation=3,
        n_rows=2,
        sequence=9,
        ids_bytes=16,
        flags_bytes=2,
        columns_bytes=4,
        body_bytes=5,
        n_texts=1,
        fanout_bytes=4,
    )
    header.pack_into(slot)
    slot[64:80] = b"i" * 16
    slot[80:82] = b"\0\1"
    slot[82:86] = b"[[]]"
    slot[86:90] = b"\0\0\0\0"
    slot[90:95] = b'["x"]'

    read = Header.unpack_from(slot, generation=3)
    meta = meta_of(slot, read)

    assert read == header
    assert (bytes(meta.ids), bytes(meta.flags), bytes(meta.columns)) == (b"i" * 16, b"\0\1", b"[[]]")
    assert bytes(fanout_of(slot, read)) == b"\0\0\0\0"
    assert bytes(body_of(slot, read)) == b'["x"]'


def test_a_slot_of_another_generation_is_refused() -> None:
    """A late result of an old generation never reaches a shard."""
    slot = memoryview(bytearray(128))
    Header(generation=1, n_rows=1, sequence=0, ids_bytes=8, flags_bytes=1, columns_bytes=0).pack_into(slot)

    with pytest.raises(ProtocolError, match="generation 1 met in generation 2"):
        Header.unpack_from(slot, generation=2)


def test_the_matrix_of_a_vector_slot_starts_on_a_cache_line_and_fits() -> None:
    """Any dimension, any meta capacity."""
    for dim in (1, 3, 384, 768):
        for meta in (0, 1, 16_383):
            layout = VectorLayout(dim=dim, max_rows=5, meta_capacity_bytes=meta)
            assert layout.matrix_offset % 64 == 0
            assert layout.matrix_offset >= 64 + meta
            assert layout.slot_bytes >= layout.matrix_offset + 5 * dim * 4
            with pytest.raises(ProtocolError, match="6 rows do not fit"):
                layout.matrix_bytes(memoryview(bytearray(layout.slot_bytes)), 6)
