"""Ids on disk: equal ones meet, whatever process wrote them and however many partitions there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.errors import SinkError
from writers.proof.digests import id_keys
from writers.proof.id_spill import (
    IdSpill,
    Partition,
    forget,
    partitions_for,
    places,
    places_of,
    remove_spill,
    row_of,
    source_of,
)


@pytest.mark.seconds
@pytest.mark.parametrize("n_partitions", [1, 2, 64, 512])
def test_equal_ids_meet_in_one_partition(tmp_path: Path, n_partitions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("writers.proof.id_spill._BUFFER_BYTES", 5000)
    random = np.random.default_rng(2)
    ids = random.integers(-500, 500, 3000)
    for process, part in enumerate(np.array_split(np.arange(3000), 3)):
        monkeypatch.setattr("os.getpid", lambda process=process: 1000 + process)
        spill = IdSpill(tmp_path, n_partitions)
        for rows in np.array_split(part, 4):
            spill.add(id_keys(pa.array(ids[rows])), places(process, int(rows[0]), len(rows)))
        spill.flush()
    found: dict[int, set[int]] = {}
    seen = 0
    for number in range(n_partitions):
        partition = Partition.load(tmp_path, number)
        seen += len(partition.places)
        repeated = Partition.load_repeated(tmp_path, number)
        assert _groups(repeated) == _groups(partition)
        assert sum(map(len, _groups(repeated))) == len(repeated.places)
        for start, end in partition.groups():
            together = {row_of(int(place)) for place in partition.places[start:end]}
            (value,) = {int(ids[row]) for row in together}
            assert value not in found
            found[value] = together
            assert [source_of(int(place)) for place in partition.places[start:end]] == sorted(
                source_of(int(place)) for place in partition.places[start:end]
            )
    assert seen == 3000
    values, counts = np.unique(ids, return_counts=True)
    expected = {int(value): set(np.flatnonzero(ids == value).tolist()) for value in values[counts > 1]}
    assert found == expected


def _groups(partition: Partition) -> list[list[int]]:
    return [partition.places[start:end].tolist() for start, end in partition.groups()]


@pytest.mark.parametrize("n_partitions", [1, 8])
def test_what_a_process_collected_of_some_sources_is_taken_back(
    tmp_path: Path, n_partitions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = np.random.default_rng(3).integers(-500, 500, 900)
    for process in (17, 117):
        monkeypatch.setattr("os.getpid", lambda process=process: process)
        spill = IdSpill(tmp_path, n_partitions)
        for source in range(9):
            spill.add(id_keys(pa.array(ids[100 * source :][:100])), places(process * 100 + source, 0, 100))
        spill.flush()
    forget(tmp_path, 17, 1703, 1706)
    found = np.concatenate([Partition.load(tmp_path, number).places for number in range(n_partitions)])
    sources = sorted(source_of(int(place)) for place in found)
    assert sources == sorted([*[1700, 1701, 1702, 1706, 1707, 1708] * 100, *list(range(11_700, 11_709)) * 100])


def test_keys_that_share_only_their_first_word_are_no_duplicates(tmp_path: Path) -> None:
    spill = IdSpill(tmp_path, 1)
    spill.add(np.array([[7, 1], [7, 2], [8, 1], [7, 1]], dtype=np.uint64), places(0, 0, 4))
    spill.flush()
    partition = Partition.load_repeated(tmp_path, 0)
    assert _groups(partition) == [[0, 3]]
    assert partition.keys[:, 1].tolist() == [1, 1, 2]


def test_partitions_stay_small_up_to_a_bound() -> None:
    assert partitions_for(0) == partitions_for(1000) == 1
    assert partitions_for(1_000_000) == 2
    assert partitions_for(400_000_000) == 512
    assert 400_000_000 * 24 / 512 < 20e6


def test_a_place_holds_source_and_row() -> None:
    last = places((1 << 32) - 1, (1 << 32) - 3, 2)
    assert [(source_of(int(place)), row_of(int(place))) for place in last] == [
        ((1 << 32) - 1, (1 << 32) - 3),
        ((1 << 32) - 1, (1 << 32) - 2),
    ]


def test_places_of_several_sources_are_those_of_each() -> None:
    starts = [(3, 0, 5), (3, 5, 2), (4, 0, 0), ((1 << 32) - 1, (1 << 32) - 3, 2), (0, 7, 1)]
    assert places_of(starts).tolist() == np.concatenate([places(*start) for start in starts]).tolist()


def test_no_space_for_keys_is_an_output_error(tmp_path: Path) -> None:
    spill = IdSpill(tmp_path / "gone", 4)
    spill.add(id_keys(pa.array([1, 2])), places(0, 0, 2))
    with pytest.raises(SinkError, match="temporary files"):
        spill.flush()
    remove_spill(tmp_path / "gone")
