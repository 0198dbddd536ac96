"""The table of digests: it answers as a dict does, in memory that does not grow."""

from __future__ import annotations

import random
import resource
import tracemalloc
from pathlib import Path

import pytest

from engine.errors import SinkError
from engine.ledger.key_table import KeyTable, digest_of


@pytest.mark.seconds
def test_a_table_answers_as_a_dict_does(tmp_path: Path) -> None:
    """Present, absent and changed, while it grows many times."""
    table, model = KeyTable(tmp_path), {}
    chance = random.Random(3)
    for _ in range(150_000):
        key, number = b"%d" % chance.randrange(120_000), chance.randrange(1, 256)
        table.put(digest_of(key), number)
        model[key] = number
    assert len(table) == len(model)
    assert all(table.get(digest_of(b"%d" % key)) == model.get(b"%d" % key, 0) for key in range(125_000))
    table.close()


def test_a_number_is_changed_only_when_it_is_the_one_that_was_meant(tmp_path: Path) -> None:
    table = KeyTable(tmp_path)
    assert table.change(digest_of(b"a"), 1, 2) == 0
    table.put(digest_of(b"a"), 1)
    assert [table.change(digest_of(b"a"), 1, 2), table.change(digest_of(b"a"), 1, 3)] == [1, 2]
    assert (table.get(digest_of(b"a")), len(table)) == (2, 1)
    table.close()


def test_digests_that_fall_into_one_place_are_kept_apart(tmp_path: Path) -> None:
    table = KeyTable(tmp_path)
    digests = [bytes(8) + number.to_bytes(7, "big") for number in range(500)]  # one partition, one home
    for number, digest in enumerate(digests):
        table.put(digest, number % 255 + 1)
    assert [table.get(digest) for digest in digests] == [number % 255 + 1 for number in range(500)]
    assert table.get(bytes(8) + (999).to_bytes(7, "big")) == 0
    table.close()


@pytest.mark.seconds
def test_the_file_has_no_name_and_memory_stays_as_it_is(tmp_path: Path) -> None:
    table = KeyTable(tmp_path)
    tracemalloc.start()
    try:
        for number in range(20_000):
            table.put(digest_of(b"%d" % number), 1)
        before = tracemalloc.get_traced_memory()[0]
        for number in range(20_000, 60_000):
            table.put(digest_of(b"%d" % number), 1)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 200_000, f"{grown} bytes for 40,000 keys"
    assert not list(tmp_path.iterdir())
    table.close()


def test_a_file_that_may_not_grow_is_exit_5(tmp_path: Path) -> None:
    table = KeyTable(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(SinkError, match="index of the quarantine"):
            for number in range(100_000):
                table.put(digest_of(b"%d" % number), 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    table.close()


def test_a_folder_that_is_not_there_is_exit_5(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="No such file"):
        KeyTable(tmp_path / "nowhere")
