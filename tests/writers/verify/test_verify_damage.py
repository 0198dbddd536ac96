"""`verify` finds every kind of damage, and names the file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import Exit
from engine.memory.channels import Message
from tests.writers.dataset import DataSet, rows_of, vectors_of
from tests.writers.fatal_footers import make_fatal
from tests.writers.verify.checking import check, flip, shard
from writers.merge.merge import merge
from writers.parquet.merge_schema import MergeSchema, schema_of_run
from writers.proof.id_spill import forget
from writers.verify.config import VerifyConfig
from writers.verify.file import Expected
from writers.verify.verify import verify
from writers.workers.pool import Fault, Pool


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


def test_a_flipped_bit_in_a_page_is_placed(data: DataSet) -> None:
    path = shard(data, 0)
    offset = _parts(path)["vector page"]
    flip(path, offset)
    (example,) = check(data).findings["damaged"]["examples"]
    assert "row group 0, column embedding.list.element: could not verify page integrity" in example


@pytest.mark.seconds
def test_any_flipped_bit_is_found_without_a_ledger_or_changes_no_row(tmp_path: Path) -> None:
    """Footers have no checksum of their own: what no digest covers may only change what is not data."""
    data = DataSet(tmp_path / "data", dim=8)
    data.add_shard(range(60))
    merge(data.config())
    data.close()
    (source,) = data.folders.consolidated.glob("*.parquet")
    schema = schema_of_run(data.ledger.state.run or {}, "ledger")
    sound = rows_of(pq.read_table(source))
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")
    random = np.random.Generator(np.random.PCG64(seed))
    content = source.read_bytes()
    copy = tmp_path / source.name
    first = pq.read_metadata(source).row_group(0).column(0).data_page_offset  # before it: room that holds nothing
    places = [(int(random.integers(first, len(content))), int(random.integers(8))) for _ in range(400)]
    jobs: list[Message] = []
    for number, (offset, bit) in enumerate(places):
        (tmp_path / f"{number}").mkdir()
        copy = tmp_path / f"{number}" / source.name
        copy.write_bytes(content)
        flip(copy, offset, bit)
        jobs.append(job_of_file(copy, schema))
    found = 0
    with Pool("verify", 1) as pool:  # a few of the footers end their reader
        for job, result in pool.run(jobs, lambda _: None, left_out):
            if result["findings"]:
                found += 1
            else:
                offset, bit = places[int(Path(job["list"]).parent.name)]
                same = rows_of(pq.read_table(Path(job["list"]).with_suffix(".parquet"))) == sound
                assert same, f"bit {bit} of byte {offset} changed rows (seed {seed})"
    assert found > 300


def left_out(fault: Fault) -> Message:
    """The job without the file that ended its worker."""
    return {**fault.job, "fatal": {fault.file: "ended its reader"}}


def job_of_file(path: Path, schema: MergeSchema) -> Message:
    """Level 3 of one file."""
    lists = path.with_suffix(".list")
    lists.write_bytes(orjson.dumps([tuple(Expected(str(path), 0))]))
    place = (0, lists.stat().st_size)
    job = {
        "list": str(lists),
        "place": place,
        "level": 3,
        "schema": schema.as_dict(),
        "spill": None,
        "normed": True,
        "cold": None,
    }
    return {"task": "writers.verify.file:check_files", **job, "partitions": 1, "fatal": {}}


@pytest.mark.parametrize("cut", [1, 4, 8, 100, 5000])
def test_a_truncated_shard_is_found(data: DataSet, cut: int) -> None:
    path = shard(data, 0)
    os.truncate(path, path.stat().st_size - cut)
    report = check(data, 0)
    assert path.name in report.findings["damaged"]["examples"][0]
    assert "bytes, its ledger says" in report.findings["damaged"]["examples"][0]


def test_a_missing_shard_is_found(data: DataSet) -> None:
    path = shard(data, 0)
    path.unlink()
    report = check(data)
    assert report.findings == {"missing": {"count": 1, "examples": [f"{path} is not there"]}}
    assert any("count as not there" in text for text in report.not_checked)


def test_two_swapped_shards_are_both_found(data: DataSet) -> None:
    one, other = shard(data, 0), shard(data, 1)
    one.rename(one.with_suffix(".x"))
    other.rename(one)
    one.with_suffix(".x").rename(other)
    report = check(data, 1)
    assert report.findings["damaged"]["count"] == 2
    assert report.findings["mismatched"]["count"] == 2
    assert "has name" in report.findings["mismatched"]["examples"][0]


def test_a_foreign_file_under_a_shards_name_is_found(data: DataSet) -> None:
    path = shard(data, 0)
    pq.write_table(pa.table({"a": [1, 2, 3]}), path)
    report = check(data, 1)
    assert path.name in report.findings["damaged"]["examples"][0]
    assert "no column '_id'" in report.findings["mismatched"]["examples"][0]


def test_rows_with_unsound_vectors_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    matrix = vectors_of(range(50), 8)
    matrix[3, 2] = np.nan
    matrix[4, 0] = np.inf
    matrix[9] = 0
    matrix[11] *= 1.5
    data = DataSet(tmp_path / "data", dim=8)
    data.add_shard(range(50))
    data.close()
    table = pq.read_table(shard(data, 0))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), type=table.schema.field("embedding").type)
    table = table.set_column(1, table.schema.field(1), vectors)
    metadata = {b"engine.fingerprint": pq.read_metadata(shard(data, 0)).metadata[b"engine.fingerprint"]}
    pq.write_table(table.replace_schema_metadata(metadata), folder / "a.parquet")
    found = verify(VerifyConfig.of_folder(folder, jobs=1)).findings["unsound"]
    assert found["count"] == 4
    assert [text.split("a.parquet ")[1] for text in found["examples"]] == [
        "row 3 holds a number that is not finite",
        "row 9 is a zero vector",
        "row 11 does not have length 1",
    ]


@pytest.mark.seconds
def test_in_processes_files_that_end_a_worker_are_listed_beside_the_others(
    data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker had collected of its files before it ended is void, and nothing else is."""
    for first in (1000, 2000, 3000, 4000):
        data.add_shard(range(first, first + 50))
    data.add_shard([300, 4049])
    fatal = [shard(data, 3), shard(data, 5)]
    for path in fatal:
        make_fatal(path)
    flip(shard(data, 0), 3000)
    monkeypatch.setattr("writers.verify.verify._CHUNK_FILES", 2)
    taken_back: list[tuple[int, int]] = []

    def taking_back(folder: Path, process: int, first: int, end: int) -> None:
        taken_back.append((first, end))
        assert list(folder.glob(f"*.{process}.keys")), "it had finished other files"
        forget(folder, process, first, end)

    monkeypatch.setattr("writers.verify.verify.forget", taking_back)

    report = check(data, 3)

    assert {kind: found["count"] for kind, found in report.findings.items()} == {"damaged": 3, "duplicate": 1}
    examples = report.findings["damaged"]["examples"]
    for path in fatal:
        (said,) = [text for text in examples if text.startswith(str(path))]
        assert "it ended the process that was reading it (signal 6)" in said
    assert report.rows == 150 + 2 * 50 + 2, "those of sound files, each once"
    assert taken_back == [(2, 4), (4, 6)]
