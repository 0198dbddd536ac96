"""An input: its ids alone, its rows, its SHA-256; read once."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import ConfigError, DamageError
from writers.parquet.access import FileAccess
from writers.parquet.inputs import Input
from writers.parquet.merge_schema import Matcher, schema_of_file

DIM = 16


def write(path: Path, ids: list[int], *, ids_last: bool = False, note: bytes = b"", row_group: int = 1000) -> None:
    vectors = pa.array(np.random.default_rng(len(ids)).random((len(ids), DIM), dtype=np.float32).tolist())
    columns = {"_id": pa.array(ids), "text": pa.array([f"text {number}" for number in ids]), "embedding": vectors}
    names = ["embedding", "text", "_id"] if ids_last else ["_id", "text", "embedding"]
    table = pa.table({name: columns[name] for name in names})
    pq.write_table(table.replace_schema_metadata({b"note": note}), path, row_group_size=row_group)


def scan(path: Path, matcher: Matcher, image: memoryview) -> tuple[int, list[int]]:
    with Input(str(path), path.name, matcher, image, FileAccess(None)) as opened:
        return opened.rows, [value for part in opened.ids() for value in part.to_pylist()]


@pytest.fixture
def matcher(tmp_path: Path) -> Matcher:
    write(tmp_path / "first", [1, 2, 3])
    return Matcher(schema_of_file("first", pq.ParquetFile(tmp_path / "first"), None, None))


@pytest.mark.parametrize("ids_last", [False, True])
@pytest.mark.parametrize("note", [b"", b"x" * 50_000], ids=["small footer", "footer beyond the tail"])
@pytest.mark.parametrize("memory", [1 << 20, 100], ids=["in memory", "file beyond the memory"])
def test_ids_are_those_of_this_file_whatever_was_read_before(
    tmp_path: Path, matcher: Matcher, ids_last: bool, note: bytes, memory: int
) -> None:
    image = memoryview(bytearray(b"\xa5") * memory)
    for first, count in ((100, 700), (5, 40), (9_000, 2_500), (0, 1)):
        ids = list(range(first, first + count))
        write(tmp_path / "file", ids, ids_last=ids_last, note=note, row_group=300)
        assert scan(tmp_path / "file", matcher, image) == (count, ids)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each read out of a file has come to."""
    counts: list[int] = []
    pread = os.pread

    def counting(fd: int, count: int, offset: int) -> bytes:
        data = pread(fd, count, offset)
        counts.append(len(data))
        return data

    monkeypatch.setattr("os.pread", counting)
    return counts


@pytest.mark.seconds
def test_of_a_large_file_only_the_ends_and_the_ids_are_read(tmp_path: Path, matcher: Matcher, read: list[int]) -> None:
    path = tmp_path / "file"
    write(path, list(range(20_000)), row_group=30_000)
    rows, ids = scan(path, matcher, memoryview(bytearray(100)))
    assert (rows, ids) == (20_000, list(range(20_000)))
    chunk = pq.read_metadata(path).row_group(0).column(0)
    assert sum(read) <= chunk.total_compressed_size + (64 << 10) + 1000 < path.stat().st_size / 2


@pytest.mark.parametrize("memory", [1 << 22, 100], ids=["in memory", "file beyond the memory"])
@pytest.mark.parametrize("ids_last", [False, True])
def test_rows_and_sha256_come_out_of_the_same_bytes(
    tmp_path: Path, matcher: Matcher, read: list[int], memory: int, ids_last: bool
) -> None:
    """Of columns that lie far apart some are read twice; never all."""
    path = tmp_path / "file"
    write(path, list(range(20_000)), ids_last=ids_last, row_group=30_000)
    with Input(path, "file", matcher, memoryview(bytearray(memory)), FileAccess(None)) as opened:
        ids = [value for block in opened.blocks() for value in block.others["_id"].to_pylist()]
        assert opened.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert ids == list(range(20_000))
    assert sum(read) <= path.stat().st_size * (1.9 if ids_last else 1.2) + (64 << 10)


def test_other_bytes_are_those_of_all_but_the_vectors(tmp_path: Path, matcher: Matcher) -> None:
    write(tmp_path / "file", list(range(900)), row_group=300)
    metadata = pq.read_metadata(tmp_path / "file")
    expected = sum(
        metadata.row_group(group).column(leaf).total_uncompressed_size for group in range(3) for leaf in (0, 1)
    )
    with Input(str(tmp_path / "file"), "file", matcher, memoryview(bytearray(1 << 20)), FileAccess(None)) as opened:
        assert opened.other_bytes() == expected


def handles_within(folder: Path) -> list[str]:
    """What this process holds open below `folder`; the rest of its handles come and go with other tests' rubbish."""
    targets = []
    for handle in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            targets.append(str(handle.readlink()))
    return [target for target in targets if target.startswith(str(folder))]


def test_damage_is_told_and_no_handle_stays_open(tmp_path: Path, matcher: Matcher) -> None:
    path, image = tmp_path / "file", memoryview(bytearray(1 << 20))
    write(path, list(range(50)))
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    for broken in (
        b"",
        b"PAR1",
        content[:-1],
        content[: len(content) // 2],
        content[:-8] + (1 << 31).to_bytes(4, "little") + b"PAR1",  # a footer longer than the file
        content[:-8] + (length + 9).to_bytes(4, "little") + b"PAR1",
        content[: -8 - length] + bytes(length) + content[-8:],
    ):
        path.write_bytes(broken)
        with pytest.raises(DamageError):
            scan(path, matcher, image)
    path.write_bytes(bytes(200) + content[200:])  # the pages of the ids
    with pytest.raises(DamageError):
        scan(path, matcher, image)
    with pytest.raises(DamageError, match="is missing"):
        scan(tmp_path / "gone", matcher, image)
    pq.write_table(pa.table({"_id": [1]}), path)
    with pytest.raises(ConfigError):
        scan(path, matcher, image)
    assert not handles_within(tmp_path)


def test_a_file_that_becomes_shorter_meanwhile_is_damaged(tmp_path: Path, matcher: Matcher) -> None:
    path = tmp_path / "file"
    write(path, list(range(20_000)))
    with Input(str(path), "file", matcher, memoryview(bytearray(100)), FileAccess(None)) as opened:
        os.truncate(path, 100)
        with pytest.raises(DamageError):
            list(opened.ids())
