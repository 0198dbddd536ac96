"""`verify` finds every kind of difference, names it, and says what it did not look at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import ConfigError, Exit, LockHeld
from engine.ledger.runfolder import RunLock
from engine.memory.channels import Message
from engine.memory.ids import IdType
from engine.ports import IdList
from tests.writers.dataset import COLLECTION, DATABASE, DONE_FIELD, DataSet, ids_of, rows_of, vectors_of
from tests.writers.fatal_footers import make_fatal
from tests.writers.inline_pool import InlinePool
from writers.merge import start as merge_start
from writers.merge.ledger import LOCK
from writers.merge.merge import merge
from writers.parquet.foreign import MergeSchema, schema_of_run
from writers.proof.id_spill import forget
from writers.verify import subject as verify_subject
from writers.verify.config import KINDS, VerifyConfig, VerifyReport
from writers.verify.file import Expected, check_files
from writers.verify.verify import verify
from writers.workers.pool import Fault, Pool


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Workers in this process: most tests are not about processes, and these take half a second to start."""
    monkeypatch.setattr("writers.merge.merge.Pool", InlinePool)
    if "in_processes" not in request.node.name:
        monkeypatch.setattr("writers.verify.verify.Pool", InlinePool)


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
    for scope, rows in (("shards", 0), ("consolidated", 400)):
        config = VerifyConfig.of_collection(
            data.root / "hot", data.root / "cold", DATABASE, COLLECTION, DONE_FIELD, scope=scope, jobs=1
        )
        part = verify(config)
        assert part.ok and part.rows == rows


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
    assert "row group 0, column embedding.list.element: could not verify page integrity" in example


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
    job = {"list": str(lists), "place": place, "level": 3, "schema": schema.as_dict(), "spill": None, "normed": True}
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


def test_a_parquet_file_that_no_ledger_names_is_extra_unless_it_is_of_another_data_set(data: DataSet) -> None:
    copy = data.folders.shards / "copy.parquet"
    shutil.copyfile(shard(data, 0), copy)
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"engine.ledger": "else"}), copy.with_name("b.parquet"))
    (data.folders.shards / "x.parquet.inprogress").touch()
    report = check(data, 0)
    assert report.findings == {"extra": {"count": 1, "examples": [f"{copy} is not in the ledger"]}}
    assert any(text.startswith("1 files of other data sets") for text in report.not_checked)
    assert any(text.startswith("1 unfinished files") for text in report.not_checked)


def test_an_id_in_two_shards_is_found(data: DataSet) -> None:
    data.add_shard([10, 399, 500])
    report = check(data)
    assert report.findings["duplicate"]["count"] == 2
    assert "row 10" in report.findings["duplicate"]["examples"][0]
    assert kinds(check(data, 2)) == set()


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


def test_a_plain_folder_of_foreign_files_is_checked_without_a_ledger(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    for number in range(3):
        numbers = list(range(number * 10, number * 10 + 10))
        vectors = [row.tolist() for row in vectors_of(numbers, 6)]
        pq.write_table(pa.table({"id": numbers, "embedding": vectors}), folder / f"{number}.parquet")
    report = verify(VerifyConfig.of_folder(folder, jobs=2))
    assert report.ok and (report.files, report.rows) == (3, 30)
    assert any(text.startswith("level 0 ") for text in report.not_checked)
    assert any("whether all pages of 3 files carry a checksum" in text for text in report.not_checked)
    assert any(text.startswith("the length of vectors") for text in report.not_checked)
    pq.write_table(pa.table({"id": [5], "embedding": [[0.5] * 6]}), folder / "9.parquet")
    assert verify(VerifyConfig.of_folder(folder, jobs=1)).findings["duplicate"]["count"] == 1
    pq.write_table(pa.table({"id": ["x"], "embedding": [[0.5] * 5]}), folder / "9.parquet")
    example = verify(VerifyConfig.of_folder(folder, jobs=1)).findings["mismatched"]["examples"][0]
    assert "9.parquet" in example and "id type string is not int64" in example


class FakeCollection:
    """Documents by number, as a MongoDB collection would answer."""

    def __init__(self, marked: list[int], unmarked: list[int], id_type: IdType) -> None:
        self._marked = ids_of(marked, id_type)
        self._states = dict.fromkeys(self._marked, "marked") | dict.fromkeys(ids_of(unmarked, id_type), "unmarked")
        self._numbers = dict(zip(ids_of([*marked, *unmarked], id_type), [*marked, *unmarked], strict=True))

    def marked_ids(self) -> Iterator[IdList]:
        for start in range(0, len(self._marked), 100):
            yield self._marked[start : start + 100]

    def states(self, ids: IdList) -> list[str]:
        return [self._states.get(value, "gone") for value in ids]

    def texts(self, ids: IdList) -> list[str | None]:
        return [str(self._numbers[value]) if value in self._numbers else None for value in ids]


@pytest.mark.parametrize("id_type", list(IdType))
def test_rows_and_marks_that_are_alone_are_told_apart_from_deleted_documents(tmp_path: Path, id_type: IdType) -> None:
    data = DataSet(tmp_path, id_type=id_type)
    data.add_shard(range(0, 300))
    data.add_shard(range(300, 500))
    merge(data.config(delete_sources=True))
    data.add_shard(range(500, 600))
    everything = FakeCollection(list(range(600)), [], id_type)
    sound = check(data, 4, documents=everything)
    assert sound.ok and sound.rows == 600
    marked = [*range(5, 290), *range(300, 600), 700, 701, 702]
    report = check(data, 4, documents=FakeCollection(marked, [290, 291, 292, 293], id_type))
    assert {kind: found["count"] for kind, found in report.findings.items()} == {"unmarked": 4, "marked_without_row": 3}
    assert report.gone == 11
    alone = [value.hex() if isinstance(value, bytes) else str(value) for value in ids_of([700, 701, 702], id_type)]
    assert report.findings["marked_without_row"]["examples"] == [f"ids {', '.join(sorted(alone))}"]
    data.close()


def test_shards_that_a_run_commits_meanwhile_are_no_difference(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one that is in the ledger by now, nor one that has its name and waits for its record."""
    running = RunLock(data.folders.lock)
    state = verify_subject.read_run_state(data.folders.ledger)
    states = iter([state])
    monkeypatch.setattr(
        verify_subject, "read_run_state", lambda path: next(states, None) or merge_start.read_run_state(path)
    )
    data.add_shard(range(400, 410))
    data.add_shard(range(410, 420), commit=False)
    foreign = data.folders.shards / "foreign.parquet"
    pq.write_table(pa.table({"a": [1]}), foreign)
    report = check(data)
    assert report.findings == {"extra": {"count": 1, "examples": [f"{foreign} is not in the ledger"]}}
    assert any(text.startswith("2 shards that the run has committed since") for text in report.not_checked)
    running.release()
    foreign.unlink()
    assert check(data).findings["extra"]["count"] == 1  # without a run nobody is about to commit it


def test_differences_that_a_merge_made_meanwhile_are_not_told(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def checked_too_late(job: Any, report: Any) -> Any:
        merge(data.config(delete_sources=True))
        return check_files(job, report)

    monkeypatch.setattr("writers.verify.file.check_files", checked_too_late)
    with pytest.raises(LockHeld, match="a merge has worked on these files meanwhile"):
        check(data)


def test_a_run_that_marks_nothing_is_no_difference_and_is_told(tmp_path: Path) -> None:
    data = DataSet(tmp_path)
    data.add_shard(range(0, 300), marked=False)
    report = check(data, 4, documents=FakeCollection([], list(range(300)), data.id_type))
    assert report.ok and any(text.startswith("300 rows whose document carries no mark") for text in report.not_checked)
    found = check(data, 4, documents=FakeCollection([900], list(range(300)), data.id_type)).findings
    assert kinds_and_counts(found) == {"marked_without_row": 1}
    data.close()


def kinds_and_counts(findings: dict[str, Any]) -> dict[str, int]:
    return {kind: found["count"] for kind, found in findings.items()}


def test_temporaries_of_killed_verifications_are_removed(data: DataSet) -> None:
    left = [data.folders.hot / f"engine-verify-{name}" for name in ("gone", "alive", "starting")]
    for folder in left:
        (folder / "ids").mkdir(parents=True)
    (left[0] / "lock").write_text("1")
    alive = RunLock(left[1] / "lock")
    assert check(data).ok
    assert [folder.exists() for folder in left] == [False, True, True]
    alive.release()


def test_a_data_set_that_was_merged_elsewhere_is_found_there(data: DataSet) -> None:
    """Two data sets of one collection cannot share a folder of consolidated files."""
    target = data.root / "cold" / "elsewhere"
    merge(data.config(target=target, delete_sources=True))
    config = VerifyConfig.of_collection(
        data.root / "hot", data.root / "cold", DATABASE, COLLECTION, DONE_FIELD, target=target, jobs=1
    )
    report = verify(config)
    assert report.ok and (report.rows, report.removed_shards) == (400, 2)
    assert check(data).findings["missing"]["count"] == 2


def test_a_row_that_is_there_twice_is_found_between_an_output_and_a_new_shard(data: DataSet) -> None:
    merge(data.config())
    data.add_shard([7])
    assert check(data).findings["duplicate"]["count"] == 1


def test_sampled_rows_whose_vector_has_drifted_are_named(data: DataSet) -> None:
    def embed(texts: list[str]) -> npt.NDArray[np.float32]:
        matrix = vectors_of([int(text) for text in texts], data.dim)
        wrong = [number for number, text in enumerate(texts) if int(text) == 123]
        matrix[wrong] = -matrix[wrong]
        return matrix

    collection = FakeCollection([number for number in range(400) if number != 50], [50], data.id_type)
    config = VerifyConfig.of_collection(
        data.root / "hot", data.root / "cold", DATABASE, COLLECTION, DONE_FIELD, level=5, jobs=1, sample_rows=400
    )
    report = verify(config, documents=collection, embedder=embed)
    assert report.findings["drifted"]["count"] == 1
    assert f"id {ids_of([123], data.id_type)[0]}: cosine -1.0" in report.findings["drifted"]["examples"][0]
    assert report.findings["unmarked"]["count"] == 1
    assert report.cosine is not None and report.cosine["lowest"] == pytest.approx(-1)


def test_ids_are_compared_over_many_partitions(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("writers.verify.verify.partitions_for", lambda _rows: 64)
    data.add_shard([1, 2, 3, 900])
    assert check(data).findings["duplicate"]["count"] == 3


def test_verification_refuses_to_look_while_a_merge_or_for_marks_a_run_goes_on(data: DataSet) -> None:
    data.folders.consolidated.mkdir()
    merging = RunLock(data.folders.consolidated / LOCK)
    with pytest.raises(LockHeld, match="a merge"):
        check(data, 0)
    merging.release()
    running = RunLock(data.folders.lock)
    assert check(data, 3).ok
    with pytest.raises(LockHeld, match="a run"):
        check(data, 4, documents=FakeCollection([], [], data.id_type))
    running.release()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: VerifyConfig.of_folder(root / "none"), "not a folder"),
        (lambda root: VerifyConfig(folder=root, level=6), "0 to 5"),
        (lambda root: VerifyConfig(folder=root, level=4), "needs a collection"),
        (lambda root: VerifyConfig(folder=root, jobs=-1), "at least 1"),
        (lambda root: VerifyConfig(), "nothing to verify"),
        (lambda root: verify(VerifyConfig(folder=root)), "no Parquet file"),
        (lambda root: verify(VerifyConfig.of_collection(root, root, "a", "b", "c")), "no ledger"),
        (lambda root: verify(VerifyConfig.of_collection(root, root, "a", "b", "c", level=4)), "MongoDB"),
    ],
)
def test_wrong_settings_are_one_sentence(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make(tmp_path)


def test_the_report_says_it_all_as_json(data: DataSet) -> None:
    shard(data, 0).unlink()
    said = orjson.loads(orjson.dumps(check(data, 1).as_dict()))
    assert said["ok"] is False and said["exit"] == 4 and said["findings"]["missing"]["count"] == 1
    assert set(said["findings"]) <= set(KINDS)


def test_workers_check_in_processes_of_their_own_what_one_would(data: DataSet) -> None:
    data.add_shard([5, 700])
    flip(shard(data, 1), 3000)
    config = VerifyConfig.of_collection(data.root / "hot", data.root / "cold", DATABASE, COLLECTION, DONE_FIELD, jobs=2)
    findings = verify(config).findings
    assert {kind: found["count"] for kind, found in findings.items()} == {"damaged": 1, "duplicate": 1}


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
