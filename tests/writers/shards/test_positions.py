"""Positions of a shard: written small, read back whole, and never twice."""

from __future__ import annotations

import base64
import random
import zlib
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import DamageError, ProtocolError
from readers.files import ids
from writers.shards import positions
from writers.shards.positions import Positions, RowNames, Union, count_of, decoded

MANY = st.sets(st.one_of(st.integers(0, 60), st.integers(0, 1 << 62)), max_size=60)


def encoded(rows: set[int], portions: int = 1) -> str:
    """A set of positions, added in portions."""
    found = Positions()
    ordered = list(rows)
    for start in range(portions):
        if part := ordered[start::portions]:
            found.add(np.array(part, dtype=np.int64))
    return found.encoded()


def members(text: str) -> set[int]:
    """What an encoded set holds."""
    return {at for first, last in zip(*decoded(text), strict=True) for at in range(int(first), int(last) + 1)}


@given(MANY, st.integers(1, 5))
def test_positions_are_read_back_as_they_were_added(rows: set[int], portions: int) -> None:
    text = encoded(rows, portions)
    assert members(text) == rows
    assert count_of(text) == len(rows)


@given(st.lists(MANY, max_size=5))
def test_a_union_holds_what_every_shard_holds_and_refuses_a_row_in_two(shards: list[set[int]]) -> None:
    union = Union()
    whole = set().union(*shards)
    for rows in shards:
        union.add(encoded(rows))
    if len(whole) < sum(map(len, shards)):
        with pytest.raises(ProtocolError, match="in two committed rows"):
            union.stretches()
    else:
        firsts, lasts = union.stretches()
        assert int((lasts - firsts + 1).sum()) == len(whole)
        assert all(firsts[1:] > lasts[:-1] + 1)


def test_a_row_that_is_there_already_is_refused_at_once() -> None:
    found = Positions()
    found.add(np.array([1, 2, 5], dtype=np.int64))
    with pytest.raises(ProtocolError, match="row 5 of file 0"):
        found.add(np.array([5], dtype=np.int64))
    with pytest.raises(ProtocolError, match="there twice"):
        found.add(np.array([8, 8], dtype=np.int64))


def test_a_shard_whose_ends_were_sorted_by_length_is_told_of_in_a_few_kilobytes() -> None:
    """85,000 rows are a shard of 256 MiB; half of a window of 8,192 at either end belongs to its neighbours."""
    rng = random.Random(7)
    rows = set(range(8192, 85_000))
    rows |= set(rng.sample(range(8192), 4096)) | set(rng.sample(range(85_000, 93_192), 4096))
    assert len(encoded(rows)) < 8 << 10


def test_the_most_stretches_that_a_shard_may_have_fit_into_a_message() -> None:
    """At random, which is the worst; `engine.memory.channels.MAX_MESSAGE_BYTES` is 128 KiB."""
    rng = random.Random(7)
    rows = {at for at in range(8 * positions.MAX_STRETCHES) if rng.random() < 0.5}
    found = Positions()
    found.add(np.array(sorted(rows), dtype=np.int64))
    assert found.n_stretches > positions.MAX_STRETCHES
    assert len(found.encoded()) < 96 << 10


@pytest.mark.parametrize(
    "text",
    ["", "no base64", base64.b64encode(b"no zlib").decode(), base64.b64encode(zlib.compress(b"1234567")).decode()],
)
def test_what_is_no_set_of_positions_is_damage(text: str) -> None:
    with pytest.raises(DamageError):
        decoded(text)
    assert count_of(text) == -1


def test_reader_and_writer_agree_on_what_a_position_is(tmp_path: Path) -> None:
    """They stand in layers that do not know each other."""
    assert ids.ROW_BITS == positions.ROW_BITS
    names = ["a.jsonl", "deep/ü#1.csv"]
    path = tmp_path / "names"
    path.write_bytes(b"".join(orjson.dumps({"name": name}) + b"\n" for name in names))
    naming = ids.RowNaming(names)
    rows = [(0, 0), (1, 0), (1, 123_456_789_012), (0, 7)]
    at = [ids.position_of(*row) for row in rows]
    told = [naming.name(position) for position in at]
    assert RowNames(path).of(np.array(at, dtype=np.int64)).to_pylist() == told
    assert [naming.position(name) for name in told] == at
    assert told[2] == "deep/ü#1.csv#123456789012"
