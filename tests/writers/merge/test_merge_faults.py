"""`merge` over damaged sources, taken names and failing devices: it stops with the name, and nothing is lost."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from engine.errors import DamageError, Exit, LockHeld, SinkError
from engine.ledger.runfolder import RunLock
from engine.memory.channels import Message
from engine.memory.ids import IdType
from tests.writers.dataset import DataSet, outputs, read_outputs, stray
from tests.writers.inline_pool import InlinePool
from writers.merge.ledger import LOCK
from writers.merge.merge import merge
from writers.parquet.inputs import Input


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataSet]:
    made = DataSet(tmp_path)
    yield made
    made.close()


@pytest.mark.usefixtures("inline")
def test_sources_of_a_damaged_output_are_kept(data: DataSet) -> None:
    data.add_shard(range(0, 300))
    merge(data.config())
    (path,) = outputs(data)
    _flip(path, 500)
    with pytest.raises(DamageError, match="not what was written: its sources are kept"):
        merge(data.config(delete_sources=True))
    assert len(list(data.folders.shards.iterdir())) == 1


def _flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 8
    path.write_bytes(content)


@pytest.mark.parametrize("sort", ["none", "_id"])
@pytest.mark.parametrize("where", ["first page", "middle", "footer", "swapped", "missing", "truncated", "foreign"])
@pytest.mark.usefixtures("inline")
def test_a_damaged_source_stops_the_merge_with_its_name_and_nothing_is_lost(
    data: DataSet, sort: str, where: str
) -> None:
    facts = [data.add_shard(range(0, 400)), data.add_shard(range(400, 800)), data.add_shard(range(800, 1200))]
    path = data.folders.shards / facts[1].file
    content = path.read_bytes()
    if where == "swapped":
        path.write_bytes((data.folders.shards / facts[2].file).read_bytes())
    elif where == "missing":
        path.unlink()
    elif where == "truncated":
        path.write_bytes(content[:-100])
    elif where == "foreign":
        pq.write_table(data.table(range(5000, 5400)), path)
        os.truncate(path, max(len(content), path.stat().st_size))
    else:
        _flip(path, {"first page": 40, "middle": len(content) // 2, "footer": len(content) - 300}[where])
    before = {other.name: other.read_bytes() for other in data.folders.shards.iterdir()}
    with pytest.raises(DamageError) as caught:
        merge(data.config(sort=sort, delete_sources=True, file_bytes=1 << 20))
    assert facts[1].file in str(caught.value) and caught.value.exit_code is Exit.VERIFICATION
    assert {other.name: other.read_bytes() for other in data.folders.shards.iterdir()} == before
    assert outputs(data) == []
    path.write_bytes(content)
    merge(data.config(sort=sort, file_bytes=1 << 20))
    assert len(read_outputs(data.folders.consolidated)) == 1200
    assert stray(data) == []


@pytest.mark.parametrize("how", ["in memory", "streamed"])
def test_a_bit_that_flips_anywhere_in_a_shard_after_the_scan_is_told_by_its_sha256(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    data = DataSet(tmp_path, id_type=IdType.STRING, columns=(("lang", "string"),))
    sha256s_alone = {"checksums": False}
    file = data.folders.shards / data.add_shard(range(0, 300)).file
    whole = file.read_bytes()
    if how == "streamed":
        monkeypatch.setattr("writers.merge.outputs.group.WHOLE_BYTES", 16)
    opened: list[dict[str, bool]] = []

    class Spied(Input):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            opened.append(options)
            super().__init__(*arguments, **options)

    monkeypatch.setattr("writers.merge.outputs.group.Input", Spied)
    found = 0
    for offset in range(4, len(whole) - 8, len(whole) // 25):

        class FlipsAfterTheScan(InlinePool):
            def run(self, jobs: Iterable[Message], *rest: Any) -> Iterator[tuple[Message, Message]]:
                waiting = list(jobs)
                if any(str(job["task"]).endswith(":merge_group") for job in waiting):
                    _flip(file, offset)  # noqa: B023 - it is run within this turn
                yield from super().run(waiting, *rest)

        monkeypatch.setattr("writers.merge.merge.Pool", FlipsAfterTheScan)
        with pytest.raises(DamageError, match=file.name):
            merge(data.config(file_bytes=1 << 20))
        found += 1
        assert outputs(data) == []
        file.write_bytes(whole)
    assert found >= 25 and opened == [sha256s_alone] * found
    monkeypatch.setattr("writers.merge.merge.Pool", InlinePool)
    merge(data.config(file_bytes=1 << 20))
    assert len(read_outputs(data.folders.consolidated)) == 300 and stray(data) == []
    data.close()


def test_a_second_merge_of_the_same_target_is_refused_at_once(data: DataSet) -> None:
    data.add_shard(range(10))
    data.folders.consolidated.mkdir()
    first = RunLock(data.folders.consolidated / LOCK)
    with pytest.raises(LockHeld):
        merge(data.config())
    first.release()
    assert merge(data.config()).rows == 10


@pytest.mark.usefixtures("inline")
def test_a_foreign_file_under_an_outputs_name_is_left_alone(data: DataSet) -> None:
    data.add_shard(range(10))
    data.folders.consolidated.mkdir()
    foreign = data.folders.consolidated / "part-0001-000000.parquet"
    foreign.write_bytes(b"somebody's")
    for _ in range(2):
        with pytest.raises(DamageError, match="another program wrote it"):
            merge(data.config())
        assert foreign.read_bytes() == b"somebody's"
    foreign.unlink()
    assert merge(data.config()).rows == 10 and stray(data) == []


@pytest.mark.seconds
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("place", ["durable.write#4", "durable.fsync_file", "durable.create"])
@pytest.mark.parametrize("sort", ["none", "_id"])
def test_a_full_or_failing_device_ends_with_5_and_the_same_command_continues(
    data: DataSet, monkeypatch: pytest.MonkeyPatch, error: str, place: str, sort: str
) -> None:
    data.add_shard(range(0, 1500))
    before = [path.read_bytes() for path in sorted(data.folders.shards.iterdir())]
    monkeypatch.setenv("ENGINE_FAILPOINTS", f"merge-worker/{place}={error}")
    with pytest.raises(SinkError) as caught:
        merge(data.config(delete_sources=True, sort=sort))
    assert caught.value.exit_code is Exit.OUTPUT_DEVICE
    assert os.strerror(getattr(__import__("errno"), error)) in str(caught.value)
    assert [path.read_bytes() for path in sorted(data.folders.shards.iterdir())] == before
    assert outputs(data) == [] and not list(data.folders.consolidated.glob("*.inprogress"))
    monkeypatch.delenv("ENGINE_FAILPOINTS")
    assert merge(data.config(delete_sources=True, sort=sort)).rows == 1500
    assert stray(data) == []


LIMITED = """
import resource, sys
from pathlib import Path
from writers.merge.merge import merge
from writers.merge.config import MergeConfig
from engine.errors import EngineError
limits = {"files": resource.RLIMIT_NOFILE, "size": resource.RLIMIT_FSIZE}
resource.setrlimit(limits[sys.argv[1]], (int(sys.argv[2]),) * 2)
try:
    print(merge(MergeConfig(source=Path(sys.argv[3]), target=Path(sys.argv[4]), jobs=1)).rows)
except EngineError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def _limited(kind: str, limit: int, source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIMITED, kind, str(limit), str(source), str(target)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.seconds
def test_a_file_size_limit_in_the_middle_of_an_output_ends_with_5(data: DataSet) -> None:
    """A real short write, not an injected one."""
    data.add_shard(range(0, 5000))
    done = _limited("size", 100_000, data.folders.shards, data.root / "out")
    assert (done.returncode, "File too large" in done.stdout) == (Exit.OUTPUT_DEVICE, True), done.stderr
    assert not list((data.root / "out").glob("*.parquet")) and not list((data.root / "out").glob("*.inprogress"))


@pytest.mark.seconds
def test_many_small_files_need_few_file_handles(data: DataSet) -> None:
    for number in range(60):
        data.add_shard(range(number * 3, number * 3 + 3))
    done = _limited("files", 32, data.folders.shards, data.root / "out")
    assert done.stdout.strip() == "180", done.stdout + done.stderr
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft > 32
