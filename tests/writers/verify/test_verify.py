"""`verify` finds every kind of difference, names it, and says what it did not look at."""

from __future__ import annotations

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
from engine.memory.ids import IdType
from engine.ports import IdList
from tests.writers.dataset import COLLECTION, DATABASE, DONE_FIELD, DataSet, ids_of, vectors_of
from tests.writers.verify.checking import check, flip, kinds, shard
from writers.merge import start as merge_start
from writers.merge.ledger import LOCK
from writers.merge.merge import merge
from writers.verify import subject as verify_subject
from writers.verify.config import KINDS, VerifyConfig
from writers.verify.file import check_files
from writers.verify.verify import verify


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

    has_marks = True

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


@pytest.mark.seconds
def test_workers_check_in_processes_of_their_own_what_one_would(data: DataSet) -> None:
    data.add_shard([5, 700])
    flip(shard(data, 1), 3000)
    config = VerifyConfig.of_collection(data.root / "hot", data.root / "cold", DATABASE, COLLECTION, DONE_FIELD, jobs=2)
    findings = verify(config).findings
    assert {kind: found["count"] for kind, found in findings.items()} == {"damaged": 1, "duplicate": 1}
