"""What version 0.1 merged, with an encoder of its own, is verified, merged again, and continued where it was killed.

`tests/writers/golden/merges-0.1.tar.xz`: data sets of 2,098 rows of 256 numbers, of which each vector is +1 or -1 at
one place. `merged` is whole; `half` and `half-sorted` were killed after the first of two outputs was recorded. Pages of
the unsorted outputs were copied out of the shards, so that they have no row digest.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.ledger.log import frame, read_records
from engine.memory.ids import IdType
from tests.writers.dataset import COLLECTION, DATABASE, DONE_FIELD, ids_of, read_outputs
from writers.merge.config import MergeConfig
from writers.merge.ledger import LEDGER
from writers.merge.merge import merge
from writers.verify.config import VerifyConfig
from writers.verify.verify import verify

pytestmark = pytest.mark.usefixtures("inline")

GOLDEN = Path(__file__).parent.parent / "golden" / "merges-0.1.tar.xz"
ROWS = 2098


def config(root: Path, sort: str) -> MergeConfig:
    options: dict[str, Any] = {"jobs": 1, "file_bytes": 1 << 20, "row_group_bytes": 4 << 20, "sort": sort}
    return MergeConfig.of_collection(root / "hot", root / "cold", DATABASE, COLLECTION, DONE_FIELD, **options)


def put_back(tmp_path: Path, name: str, sort: str) -> MergeConfig:
    """One of the data sets at another place, with its paths as if it had been made there."""
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(tmp_path, filter="data")
    settings = config(tmp_path / name, sort)
    runs = tmp_path / name / "hot" / "db.docs.done" / "engine-merge"
    if runs.exists():
        shutil.move(runs, settings.temporary_folder)
    ledger = settings.target / LEDGER
    records, _ = read_records(ledger)
    for record in records:
        if record["type"] == "PLAN":
            record["source"] = str(settings.source.resolve())
    ledger.write_bytes(b"".join(map(frame, records)))
    return settings


def check(settings: MergeConfig, sort: str) -> None:
    """All rows, each with its vector; everything proved."""
    table = read_outputs(settings.target)
    ids = ids_of(range(ROWS), IdType.INT64)
    assert table["_id"].to_pylist() == (sorted(ids) if sort == "_id" else ids)
    number_of = {value: number for number, value in enumerate(ids)}
    matrix = table["embedding"].combine_chunks().flatten().to_numpy().reshape(ROWS, 256)
    expected = np.zeros((ROWS, 256), dtype=np.float32)
    for row, value in enumerate(table["_id"].to_pylist()):
        number = number_of[value]
        expected[row, number % 256] = 1 if number % 3 else -1
    assert (matrix == expected).all()
    report = verify(VerifyConfig.of_folder(settings.target, level=3, jobs=1))
    assert report.ok and report.rows == ROWS, report.findings


def test_a_whole_merge_is_verified_and_merged_again(tmp_path: Path) -> None:
    settings = put_back(tmp_path, "merged", "none")
    check(settings, "none")
    assert merge(settings).already_merged == 3
    again = tmp_path / "again"
    assert merge(MergeConfig(source=settings.target, target=again, jobs=1)).rows == ROWS
    assert read_outputs(again).equals(read_outputs(settings.target))


@pytest.mark.parametrize(("name", "sort"), [("half", "none"), ("half-sorted", "_id")])
def test_a_merge_that_was_killed_is_continued(tmp_path: Path, name: str, sort: str) -> None:
    settings = put_back(tmp_path, name, sort)
    report = merge(settings)
    assert (report.resumed_files, report.files) == (1, 1)
    check(settings, sort)
    assert sorted(path.name for path in settings.target.glob("*.inprogress")) == []
