"""What nodes are told of what they share, without a cluster: the settled rows of a part, and the driver's files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.cluster.queues import _within, require_same_files
from engine.errors import ConfigError
from readers.files.ids import position_of
from readers.files.opening import checksum

ROWS = 20
FILES = 3


@pytest.mark.seconds
@given(
    rows=st.sets(st.tuples(st.integers(0, FILES - 1), st.integers(0, ROWS - 1))),
    low=st.none() | st.tuples(st.integers(0, FILES), st.integers(0, ROWS)),
    high=st.none() | st.tuples(st.integers(0, FILES), st.integers(0, ROWS)),
)
def test_the_settled_rows_of_a_part_are_those_between_its_bounds(
    rows: set[tuple[int, int]], low: tuple[int, int] | None, high: tuple[int, int] | None
) -> None:
    settled: dict[int, list[tuple[int, int]]] = {}
    for number, row in sorted(rows):
        stretches = settled.setdefault(number, [])
        if stretches and stretches[-1][1] == row - 1:
            stretches[-1] = stretches[-1][0], row
        else:
            stretches.append((row, row))

    bounds = [None if bound is None else position_of(*bound) for bound in (low, high)]
    told = [(number, row) for number, first, last in _within(settled, *bounds) for row in range(first, last + 1)]

    assert told == [row for row in sorted(rows) if (low is None or row >= low) and (high is None or row < high)]


def test_a_node_that_lacks_the_drivers_files_or_has_others_says_so_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n')
    witness = {"path": str(path), "object": None, "store": None, "checksum": checksum(path)}

    require_same_files(witness, 1.0)
    require_same_files(None, 1.0)
    path.write_text('{"text": "two"}\n')
    with pytest.raises(ConfigError, match="another one than the driver has"):
        require_same_files(witness, 1.0)
    path.unlink()
    with pytest.raises(ConfigError, match="is not there"):
        require_same_files(witness, 1.0)
