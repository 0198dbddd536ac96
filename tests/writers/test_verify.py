"""`verify` finds every kind of difference, names it, and says what it did not look at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import ConfigError, Exit, LockHeld
from engine.ids import IdType
from engine.ports import IdList
from engine.runfolder import RunLock
from tests.writers.dataset import COLLECTION, DATABASE, DONE_FIELD, DataSet, ids_of, vectors_of
from writers.merge import merge
from writers.merge_ledger import LOCK
from writers.verify import verify
from writers.verify_config import VerifyConfig, VerifyReport


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataSet]:
    made = DataSet(tmp_path, columns=(("lang", "string"),))
    made.add_shard(range(0, 250))
    made.add_shard(range(250, 400))
    yield made
    made.close()


def check(data: DataSet, level: int = 3, **options: Any) -> VerifyReport:
    config = VerifyConfig.of_collection(
        data.root / "hot", data.root / "cold", DATABASE, COLLECTION, DONE_FIELD, level=level, jobs=1
    )
    return verify(config, **options)


def shard(data: DataSet, number: int) -> Path:
    return sorted(data.folders.shards.glob("*.parquet"))[number]


def kinds(report: VerifyReport) -> set[str]:
    return set(report.findings)


@pytest.mark.parametrize("level", range(4))
def test_a_sound_data_set_passes_every_level(data: DataSet, level: int) -> None:
    report = check(data, level)
    assert report.ok and report.exit_code is Exit.DONE
    assert (report.files, report.rows) == (2, 400)
    assert report.bytes == sum(path.stat().st_size for path in data.folders.shards.iterdir())
    for higher in range(level + 1, 6):
        assert any(text.startswith(f"level {higher} ") for text in report.not_checked)


def test_a_data_set_passes_after_a_merge_with_and_without_its_sources(data: DataSet) -> None:
    merge(data.config())
    both = check(data)
    assert both.ok and both.rows == 800
    merge(data.config(delete_sources=True))
    alone = check(data)
    assert alone.ok and (alone.rows, alone.removed_shards) == (400, 2)


def _parts(path: Path) -> dict[str, int]:
    """An offset inside each part of a file."""
    with pq.ParquetFile(path) as parquet:
        group = parquet.metadata.row_group(0)
        first, vectors = group.column(0), group.column(group.num_columns - 1)
        size = path.stat().st_size
        return {
            "id page header": first.data_page_offset + 3,
            "id page": first.data_page_offset + first.total_compressed_size - 5,
            "vector page header": vectors.data_page_offset + 2,
            "vector page": vectors.data_page_offset + vectors.total_compressed_size // 2,
            "footer": size - 8 - parquet.metadata.serialized_size // 2,
            "magic": size - 2,
        }


@pytest.mark.parametrize("part", ["id page header", "id page", "vector page header", "vector page", "footer", "magic"])
@pytest.mark.parametrize("level", [0, 3])
def test_one_flipped_bit_anywhere_in_a_shard_is_found_and_named(data: DataSet, part: str, level: int) -> None:
    path = shard(data, 1)
    flip(path, _parts(path)[part])
    report = check(data, level)
    assert report.exit_code is Exit.VERIFICATION
    assert report.findings["damaged"]["count"] == 1
    assert path.name in report.findings["damaged"]["examples"][0]


def flip(path: Path, offset: int, bit: int = 4) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)


def test_a_flipped_bit_in_a_page_is_placed(data: DataSet) -> None:
    path = shard(data, 0)
    offset = _parts(path)["vector page"]
    flip(path, offset)
    (example,) = check(data).findings["damaged"]["examples"]
    assert "row group 0, column embedding.list.element: the page at byte" in example


def test_every_flipped_bit_of_a_small_file_is_found_without_a_ledger_or_changes_nothing(tmp_path: Path) -> None:
    """Footers have no checksum of their own: what no checksum covers may only change what is not data."""
    data = DataSet(tmp_path / "data", dim=8)
    data.add_shard(range(60))
    merge(data.config())
    (source,) = data.folders.consolidated.glob("*.parquet")
    sound = pq.read_table(source)
    folder = tmp_path / "plain"
    folder.mkdir()
    random = np.random.Generator(np.random.PCG64(7))
    size = source.stat().st_size
    for _ in range(60):
        offset, bit = int(random.integers(size)), int(random.integers(8))
        copy = folder / source.name
        shutil.copyfile(source, copy)
        flip(copy, offset, bit)
        try:
            report = verify(VerifyConfig.of_folder(folder, jobs=1))
        except Exception as error:
            assert getattr(error, "exit_code", None) in (Exit.USAGE, Exit.VERIFICATION), (offset, bit, error)
            continue
        if report.ok:
            assert pq.read_table(copy).equals(sound), f"bit {bit} of byte {offset} changed data unseen"
    data.close()
