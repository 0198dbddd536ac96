"""`merge` on data sets with a ledger: what comes out is what went in, whatever the types, the order, the accidents."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

from engine.errors import ConfigError, DamageError, FingerprintMismatch, SinkError
from engine.ledger.log import frame
from engine.ledger.runfolder import RunLock
from engine.memory.ids import IdType
from tests.writers.dataset import DataSet, fingerprint, outputs, read_outputs, rows_of, stray
from writers.merge.config import MergeConfig
from writers.merge.ledger import LEDGER, read_merge_state
from writers.merge.merge import merge
from writers.merge.planning.plan import _group_bounds
from writers.proof.digests import RowHasher, total
from writers.shards import schema
from writers.workers.tracker import Progress


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataSet]:
    made = DataSet(tmp_path)
    yield made
    made.close()


KINDS = [
    (IdType.INT64, "float32", 16, ()),
    (IdType.STRING, "float32", 7, (("lang", "string"), ("n", "int64"), ("ok", "bool"), ("score", "double"))),
    (IdType.OBJECTID, "float16", 24, (("note", "json"),)),
    (IdType.EXTJSON, "float16", 5, ()),
]


@pytest.mark.seconds
@pytest.mark.parametrize(("id_type", "vector_type", "dim", "columns"), KINDS)
@pytest.mark.parametrize("sort", ["none", "_id"])
@pytest.mark.usefixtures("inline")
def test_every_row_comes_out_as_it_went_in(
    tmp_path: Path, sort: str, id_type: IdType, vector_type: str, dim: int, columns: tuple[tuple[str, str], ...]
) -> None:
    data = DataSet(tmp_path, id_type=id_type, dim=dim, vector_type=vector_type, columns=columns)
    parts = [list(range(0, 3000)), list(range(3000, 3005)), list(range(3005, 5000))]
    for numbers in parts:
        data.add_shard(numbers)
    report = merge(data.config(sort=sort, sort_bytes=1 << 20, jobs=2))
    expected = rows_of(data.table([number for numbers in parts for number in numbers]))
    if sort == "_id":
        expected.sort(key=lambda row: row[0].encode() if isinstance(row[0], str) else row[0])
    table = read_outputs(data.folders.consolidated)
    assert rows_of(table) == expected
    assert table.schema.equals(data.schema.arrow(), check_metadata=False)
    assert (report.rows, report.inputs, report.files) == (5000, 3, len(outputs(data)))
    assert stray(data) == []
    data.close()


@pytest.mark.usefixtures("inline")
def test_outputs_carry_checksums_page_indexes_bounded_row_groups_fingerprint_and_lineage(data: DataSet) -> None:
    facts = [data.add_shard(range(0, 1500)), data.add_shard(range(1500, 4000))]
    merge(data.config(file_bytes=1 << 20))
    (path,) = outputs(data)
    with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
        metadata = parquet.metadata
        assert metadata.num_row_groups > 2
        for group in range(metadata.num_row_groups):
            assert metadata.row_group(group).total_byte_size <= 1.05 * (1 << 16)
            ids, vectors = (metadata.row_group(group).column(number) for number in range(2))
            assert ids.has_offset_index and ids.has_column_index and vectors.has_offset_index
            assert vectors.compression == "ZSTD" and "BYTE_STREAM_SPLIT" in vectors.encodings
            assert ids.statistics.has_min_max and vectors.statistics is None
        footer = metadata.metadata
    table = pq.read_table(path)
    hasher = RowHasher(data.dim, 4)
    vectors = table.column("embedding").combine_chunks().flatten().to_numpy().reshape(-1, data.dim)
    assert int(footer[schema.KEY_ROW_DIGEST], 16) == total(hasher.row_hashes(table.select(["_id"]), vectors))
    assert footer[schema.KEY_ROWS] == b"4000" and footer[schema.KEY_ID_TYPE] == b"int64"
    assert orjson.loads(footer[schema.KEY_FINGERPRINT]) == fingerprint(data.dim).as_dict()
    assert footer[schema.KEY_ID_DIGEST].decode() == schema.combine_digests(fact.id_digest for fact in facts)
    lineage = orjson.loads(footer[schema.KEY_LINEAGE])
    assert lineage == {"inputs": 2, "files": [[fact.file, fact.sha256] for fact in facts]}


@pytest.mark.usefixtures("inline")
def test_only_committed_shards_are_merged_and_later_ones_leave_finished_files_alone(data: DataSet) -> None:
    data.add_shard(range(0, 500))
    data.add_shard(range(500, 600), commit=False)
    (data.folders.shards / "x.parquet.inprogress").write_bytes(b"half a file")
    assert merge(data.config()).rows == 500
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in outputs(data)}
    assert merge(data.config()).as_dict()["files"] == 0
    data.add_shard(range(600, 900))
    second = merge(data.config())
    assert (second.rows, second.already_merged) == (300, 1)
    for name, facts in before.items():
        path = data.folders.consolidated / name
        assert (path.stat().st_ino, path.read_bytes()) == facts
    expected = rows_of(data.table([*range(0, 500), *range(600, 900)]))
    assert rows_of(read_outputs(data.folders.consolidated)) == expected


@pytest.mark.usefixtures("inline")
def test_a_merge_reads_the_ledger_of_a_run_that_is_writing_it(data: DataSet) -> None:
    data.add_shard(range(0, 300))
    running = RunLock(data.folders.lock)
    facts = data.add_shard(range(300, 400), commit=False)
    torn = frame({"type": "COMMIT", "shard": facts.shard})[:-9]
    with data.folders.ledger.open("ab") as stream:
        stream.write(torn)
    assert merge(data.config()).rows == 300
    assert data.folders.ledger.read_bytes().endswith(torn)
    running.release()


@pytest.mark.usefixtures("inline")
def test_sources_go_only_when_their_documents_are_marked(data: DataSet) -> None:
    marked = data.add_shard(range(0, 300))
    unmarked = data.add_shard(range(300, 400), marked=False)
    report = merge(data.config(delete_sources=True))
    assert (report.sources_removed, report.sources_kept) == (1, 1)
    assert [path.name for path in data.folders.shards.iterdir()] == [unmarked.file]
    assert rows_of(read_outputs(data.folders.consolidated)) == rows_of(data.table(range(0, 400)))
    data.mark(unmarked.shard, unmarked.rows)
    again = merge(data.config(delete_sources=True))
    assert (again.sources_removed, again.sources_kept, again.rows) == (1, 0, 0)
    assert list(data.folders.shards.iterdir()) == [] and marked.rows == 300
    state = read_merge_state(data.folders.consolidated)
    assert state is not None and all(len(plan.removed) == plan.n_groups for plan in state.plans.values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dim": 8}, "dimension 8 is not 16"),
        ({"vector_type": "float16"}, "vector type float16 is not float32"),
        ({"id_type": IdType.STRING}, "id type string is not int64"),
        ({"columns": (("lang", "string"),)}, "columns"),
    ],
)
@pytest.mark.usefixtures("inline")
def test_a_target_that_holds_another_data_set_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    first = DataSet(tmp_path / "a")
    first.add_shard(range(10))
    merge(first.config(target=tmp_path / "both"))
    other = DataSet(tmp_path / "b", **changes)
    other.add_shard(range(10))
    with pytest.raises(FingerprintMismatch, match=words):
        merge(other.config(target=tmp_path / "both"))
    for made in (first, other):
        made.close()


@pytest.mark.usefixtures("inline")
def test_a_shard_of_another_model_is_refused_by_name(data: DataSet) -> None:
    data.add_shard(range(10))
    folder = data.root / "folder"
    folder.mkdir()
    for number, sha in enumerate(["abc", "abc", "abd"]):
        table = data.table(range(number * 10, number * 10 + 10))
        said = {schema.KEY_FINGERPRINT: orjson.dumps(fingerprint(data.dim, model_sha=sha).as_dict())}
        pq.write_table(table.replace_schema_metadata(said), folder / f"{number}.parquet")
    with pytest.raises(FingerprintMismatch, match=r"2\.parquet .* model_sha 'abd' is not 'abc'"):
        merge(MergeConfig(source=folder, target=data.root / "out", jobs=1))


def canary(*directions: float) -> bytes:
    """What footers say of a server: its vectors of two texts, each turned by so much."""
    rows = np.array([[np.cos(angle), np.sin(angle)] for angle in directions], dtype="<f2")
    texts = ["short", "long"][: len(directions)]
    return orjson.dumps({"texts": texts, "vectors": base64.b64encode(rows.tobytes()).decode()})


@pytest.mark.parametrize("first_knows", [True, False])
@pytest.mark.usefixtures("inline")
def test_g9_files_of_servers_with_other_vectors_of_the_canary_texts_are_not_merged(
    data: DataSet, first_knows: bool
) -> None:
    """A model that says the same of itself, with other weights: the cosine tells; what does not say fits to all."""
    folder = data.root / "folder"
    folder.mkdir()
    said = [canary(0, 1) if first_knows else None, canary(0.001, 1), None, canary(0.001), canary(0, 1.2)]
    for number, footer in enumerate(said):
        pairs = {schema.KEY_FINGERPRINT: orjson.dumps(fingerprint(data.dim).as_dict())}
        table = data.table(range(number * 10, number * 10 + 10))
        table = table.replace_schema_metadata(pairs if footer is None else {**pairs, schema.KEY_CANARY: footer})
        pq.write_table(table, folder / f"{number}.parquet")
    config = MergeConfig(source=folder, target=data.root / "out", jobs=1)
    with pytest.raises(FingerprintMismatch, match=r"4\.parquet .* canary texts are others \(cosine 0\.980"):
        merge(config)
    (folder / "4.parquet").unlink()
    assert merge(config).rows == 40
    (output,) = (data.root / "out").glob("*.parquet")
    footer = pq.read_metadata(output).metadata
    assert footer.get(schema.KEY_CANARY) == (canary(0, 1) if first_knows else None)


@pytest.mark.usefixtures("inline")
def test_g9_a_run_that_has_accepted_other_vectors_is_merged_and_one_that_has_not_is_refused(tmp_path: Path) -> None:
    data = DataSet(tmp_path, canary=canary(0, 1).decode())
    data.canary = canary(0.1, 1.1).decode()
    data.add_shard(range(10))
    with pytest.raises(FingerprintMismatch, match="canary texts"):
        merge(data.config())
    data.ledger.append({"type": "ACCEPTED", "cosine": 0.995, "canary_brief": data.canary})
    assert merge(data.config()).rows == 10
    data.close()


@pytest.mark.usefixtures("inline")
def test_ids_in_two_shards_stop_the_merge_or_the_latest_commit_wins(data: DataSet) -> None:
    data.add_shard(range(0, 200))
    data.add_shard([150, 151, 500], marked=True)
    data.add_shard([151, 501])
    with pytest.raises(DamageError, match="3 rows have an id that another row has too") as caught:
        merge(data.config())
    assert "e0001-000001.parquet row 150" in str(caught.value)
    report = merge(data.config(on_duplicate="latest"))
    assert (report.rows, report.duplicates_dropped) == (202, 3)
    expected = [*range(0, 150), *range(152, 200), 150, 500, 151, 501]
    assert rows_of(read_outputs(data.folders.consolidated)) == rows_of(data.table(expected))
    data.add_shard([7, 600])
    with pytest.raises(DamageError, match="finished files are never rewritten"):
        merge(data.config(on_duplicate="latest"))


@pytest.mark.parametrize("sort", ["none", "_id"])
@pytest.mark.usefixtures("inline")
def test_the_latest_row_of_each_id_wins_also_when_duplicates_are_many(data: DataSet, sort: str) -> None:
    data.add_shard(range(0, 1000))
    data.add_shard(range(0, 1000, 2))
    report = merge(data.config(on_duplicate="latest", sort=sort, sort_bytes=1 << 20))
    assert (report.rows, report.duplicates_dropped) == (1000, 500)
    expected = [*range(1, 1000, 2), *range(0, 1000, 2)]
    rows = rows_of(data.table(expected))
    assert rows_of(read_outputs(data.folders.consolidated)) == (sorted(rows) if sort == "_id" else rows)


@pytest.mark.seconds
def test_an_unfinished_merge_is_finished_with_its_own_settings(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    data.add_shard(range(0, 1200))
    data.add_shard(range(1200, 2400))
    monkeypatch.setenv("ENGINE_FAILPOINTS", "merge/merge.after_link#2=EIO")
    with pytest.raises(SinkError):
        merge(data.config())
    monkeypatch.delenv("ENGINE_FAILPOINTS")
    with pytest.raises(ConfigError, match="--sort was none"):
        merge(data.config(sort="_id"))
    data.add_shard(range(2400, 2500))
    report = merge(data.config())
    assert (report.resumed_files, report.files, report.rows) == (1, 2, 1300)
    assert rows_of(read_outputs(data.folders.consolidated)) == rows_of(data.table(range(2500)))
    assert stray(data) == []


@pytest.mark.usefixtures("inline")
def test_progress_counts_up_to_all_rows_in_every_phase(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("writers.workers.tracker._EVERY_S", 0.0)
    data.add_shard(range(0, 1500))
    seen: list[Progress] = []
    merge(data.config(sort="_id"), seen.append)
    last = {progress.phase: progress for progress in seen}
    assert list(last) == ["scan", "ids", "sort", "merge"]
    assert all(last[phase].rows == 1500 for phase in ("scan", "sort", "merge"))
    assert last["merge"].rows_total == 1500 and last["merge"].files == last["merge"].files_total


@pytest.mark.seconds
@pytest.mark.usefixtures("inline")
def test_what_is_merged_can_be_merged_again(data: DataSet) -> None:
    for start in range(0, 40_000, 20_000):
        data.add_shard(range(start, start + 20_000))
    merge(data.config(file_bytes=2 << 20, row_group_bytes=4 << 20))
    again = data.root / "again"
    merge(MergeConfig(source=data.folders.consolidated, target=again, jobs=1, row_group_bytes=4 << 20))
    one, other = read_outputs(data.folders.consolidated), read_outputs(again)
    assert one.equals(other) and len(one) == 40_000
    assert sum(path.stat().st_size for path in again.glob("*.parquet")) < 40_000 * (data.dim * 4 + 8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sort": "id"}, "--sort is 'id'"),
        ({"on_duplicate": "first"}, "--on-duplicate is 'first'"),
        ({"file_bytes": 10}, "--file-bytes is 10"),
        ({"row_group_bytes": 10}, "--row-group-bytes is 10"),
        ({"jobs": -2}, "--jobs is -2"),
    ],
)
def test_wrong_settings_are_one_sentence(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        MergeConfig(source=tmp_path / "a", target=tmp_path / "b", **options)


@pytest.mark.usefixtures("inline")
def test_a_merge_without_a_run_or_a_folder_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no ledger"):
        merge(MergeConfig.of_collection(tmp_path / "h", tmp_path / "c", "db", "x", "done", jobs=1))
    with pytest.raises(ConfigError, match="is not a folder"):
        merge(MergeConfig(source=tmp_path / "none", target=tmp_path / "t", jobs=1))
    assert list(tmp_path.iterdir()) == []  # a mistyped name leaves nothing behind
    with pytest.raises(ConfigError, match="the same folder"):
        MergeConfig(source=tmp_path, target=tmp_path)


def test_every_fail_point_of_the_protocol_is_in_the_code_and_the_other_way_round() -> None:
    """A renamed step must not leave a crash test that never fires."""
    root = Path(__file__).resolve().parents[3]
    page = set(
        re.findall(r"`(merge\.(?:before|after)_[a-z_]+)`", (root / "docs/protocols/merge.md").read_text("utf-8"))
    )
    code = set()
    for path in (root / "writers/merge").rglob("*.py"):
        code |= set(re.findall(r'point\("(merge\.[a-z_]+)"\)', path.read_text("utf-8")))
    assert page == code


def test_few_files_are_shared_evenly_by_the_work_they_are(tmp_path: Path) -> None:
    config = MergeConfig(source=tmp_path / "a", target=tmp_path / "b", jobs=2)
    large, small = [43_000_000] * 16, [83_000] * 4000
    bounds = _group_bounds(np.array(large + small), config)
    assert len(bounds) == 4 and bounds[-1][0] - bounds[0][1] > 0  # two files a job
    works = [sum((large + small)[start:end]) + (end - start) * (48 << 10) for start, end in bounds]
    assert max(works) < 1.2 * min(works)  # opening 4,000 files is work too
    assert [end - start for start, end in _group_bounds(np.array([500 << 20] * 5), config)] == [1, 2, 1, 1]
    assert _group_bounds(np.array([5]), config) == [(0, 1)]
    sizes = np.array([83_000] * 100_000)
    groups = _group_bounds(sizes, config)
    assert max(int(sizes[start:end].sum()) for start, end in groups) <= config.file_bytes
    assert groups[0][0] == 0 and groups[-1][1] == len(sizes)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(groups))


@pytest.mark.usefixtures("inline")
def test_nothing_to_merge_is_not_an_error(data: DataSet) -> None:
    report = merge(data.config())
    assert (report.rows, report.files) == (0, 0)
    assert (data.folders.consolidated / LEDGER).exists()


@pytest.mark.parametrize(
    ("megabytes", "jobs", "outputs"), [(1000, 12, 9), (650, 8, 6), (330, 2, 2), (190, 2, 1), (80, 2, 1), (900, 2, 4)]
)
def test_outputs_are_as_many_as_workers_can_share(tmp_path: Path, megabytes: int, jobs: int, outputs: int) -> None:
    sizes = np.full(megabytes, 1_000_000, dtype=np.int64)
    assert len(_group_bounds(sizes, MergeConfig(source=tmp_path, target=tmp_path / "target", jobs=jobs))) == outputs
