"""The quarantine file: ids as people write them, each document once, nothing lost to a torn line."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from engine.errors import SinkError
from engine.ledger import durable
from engine.ledger.quarantine import Quarantine, each_entry, id_text, read_quarantine, replace_quarantine


def entry(identity: str) -> dict[str, Any]:
    """An entry as the stages tell it."""
    return {"id": identity, "reason": "empty", "detail": "the text is empty", "attempts": 0, "text": None}


@pytest.mark.parametrize(
    ("told", "stands"),
    [
        ("7", 7),
        ('{"$numberInt": "7"}', 7),
        ('{"$numberLong": "-9000000000"}', -9000000000),
        ('"a string"', "a string"),
        ('{"$oid": "6b079872f6ff693f336366fc"}', {"$oid": "6b079872f6ff693f336366fc"}),
        ('{"$date": {"$numberLong": "0"}}', {"$date": {"$numberLong": "0"}}),
        ('{"cut": "because it was very lo', '{"cut": "because it was very lo'),
    ],
)
def test_an_id_stands_in_the_file_as_people_write_it(tmp_path: Path, told: str, stands: object) -> None:
    path = tmp_path / "quarantine.jsonl"
    quarantine = Quarantine(path)
    assert quarantine.add([entry(told)]) == 1
    quarantine.close()

    assert json.loads(path.read_text()) == {
        "_id": stands,
        "reason": "empty",
        "detail": "the text is empty",
        "attempts": 0,
    }


def test_a_document_stands_there_once_whoever_tells_of_it_and_whenever(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    quarantine = Quarantine(path)
    assert quarantine.add([entry("7"), entry('{"$numberInt": "7"}'), entry('"7"')]) == 2
    quarantine.close()

    again = Quarantine(path)

    assert again.count == 2
    assert again.add([entry("7"), entry('"7"')]) == 0
    again.close()


def test_a_torn_last_line_is_cut_off_and_what_stays_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    quarantine = Quarantine(path)
    quarantine.add([entry("7"), entry('"x"')])
    quarantine.close()
    with path.open("ab") as stream:
        stream.write(b'{"_id": 8, "rea')

    Quarantine(path).close()

    assert [id_text(kept) for kept in read_quarantine(path)] == ["7", '"x"']
    replace_quarantine(path, read_quarantine(path)[1:])
    assert [id_text(kept) for kept in read_quarantine(path)] == ['"x"']


@pytest.mark.parametrize("call", ["write", "fsync_file"])
def test_a_device_that_fails_is_exit_5_and_names_the_file(tmp_path: Path, call: str) -> None:
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    durable.arm("test", f"durable.{call}=ENOSPC")

    with pytest.raises(SinkError, match=r"quarantine\.jsonl .*No space left"):
        quarantine.add([entry("7")])
        quarantine.sync()

    durable.arm("test", "")
    quarantine.close()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_documents_in_quarantine(tmp_path: Path) -> None:
    """Neither in the run that puts them there nor in the next one, nor for who looks at them one by one."""
    path = tmp_path / "quarantine.jsonl"
    quarantine = Quarantine(path)
    quarantine.add(entry(str(number)) for number in range(20_000))
    tracemalloc.start()
    try:
        for start in range(20_000, 60_000, 50):
            quarantine.add([entry(str(number)) for number in range(start, start + 50)])
        grown = tracemalloc.get_traced_memory()[0]
        quarantine.close()
        again = Quarantine(path)
        counted = sum(1 for _ in each_entry(path))
        grown = max(grown, tracemalloc.get_traced_memory()[0])
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        replace_quarantine(path, (one for one in each_entry(path)))
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert (again.count, counted) == (60_000, 60_000)
    assert again.add([entry("59999"), entry("60000")]) == 1
    again.close()
    assert grown < 400_000, f"{grown} bytes for 40,000 documents"
    assert path.stat().st_size > 3 * peak, f"{peak} bytes to write {path.stat().st_size}"
