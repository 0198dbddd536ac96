"""`merge` of a plain folder: anybody's Parquet files, as an older pipeline left them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commands.merge.report import as_text
from engine.errors import ConfigError, DamageError, Exit, SinkError
from tests.writers.dataset import read_outputs, vectors_of
from tests.writers.fatal_footers import make_fatal
from writers.merge.config import MergeConfig, MergeReport
from writers.merge.ledger import read_merge_state
from writers.merge.merge import merge
from writers.shards import schema
from writers.verify.config import VerifyConfig
from writers.verify.verify import verify
from writers.workers.pool import Pool

DIM = 12

pytestmark = pytest.mark.usefixtures("inline")


def table_of(numbers: range | list[int], kind: str = "list", element: pa.DataType | None = None) -> pa.Table:
    """Rows as a foreign writer would make them."""
    element = element or pa.float32()
    matrix = vectors_of(numbers, DIM)
    half = element == pa.float16()
    values: list[Any] = [list(row.astype(np.float16)) if half else row.tolist() for row in matrix]
    types = {"list": pa.list_(element), "large": pa.large_list(element), "fixed": pa.list_(element, DIM)}
    return pa.table(
        {
            "_id": pa.array(numbers, pa.int64()),
            "text": [f"text {number}" for number in numbers],
            "embedding": pa.array(values, types[kind]),
        }
    )


def run(folder: Path, **options: Any) -> MergeReport:
    settings: dict[str, Any] = {"jobs": 1, "file_bytes": 1 << 20, "row_group_bytes": 1 << 16, **options}
    return merge(MergeConfig(source=folder, target=folder.parent / "target", **settings))


def merged(folder: Path) -> pa.Table:
    return read_outputs(folder.parent / "target")


def check_rows(table: pa.Table, numbers: list[int], dtype: type[np.floating[Any]] = np.float32) -> None:
    assert table.column_names == ["_id", "text", "embedding"]
    assert table["_id"].to_pylist() == numbers
    assert table["text"].to_pylist() == [f"text {number}" for number in numbers]
    values = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    assert values.dtype == dtype
    assert values.tobytes() == vectors_of(numbers, DIM).astype(dtype).tobytes()


@pytest.mark.parametrize("kind", ["list", "large", "fixed"])
@pytest.mark.parametrize("compression", ["snappy", "zstd", "gzip", "none"])
def test_lists_of_every_kind_and_codec_become_fixed_size_lists(folder: Path, kind: str, compression: str) -> None:
    pq.write_table(table_of(range(0, 40), kind), folder / "a.parquet", compression=compression, row_group_size=15)
    pq.write_table(table_of(range(40, 45), kind), folder / "b.parquet", compression=compression, version="1.0")
    assert run(folder).rows == 45
    check_rows(merged(folder), list(range(45)))
    assert verify(VerifyConfig.of_folder(folder.parent / "target")).ok


def test_columns_in_any_order_and_vectors_of_any_width_fit_together(folder: Path) -> None:
    pq.write_table(table_of(range(0, 10), "list"), folder / "0.parquet")
    pq.write_table(table_of(range(10, 20), "fixed", pa.float64()).select([2, 0, 1]), folder / "1.parquet")
    small = table_of(range(20, 30), "large")
    ids = pa.array(range(20, 30), pa.int32())
    pq.write_table(small.set_column(0, "_id", ids).select([1, 2, 0]), folder / "2.parquet")
    assert run(folder).rows == 30
    check_rows(merged(folder), list(range(30)))


def test_float16_stays_float16(folder: Path) -> None:
    pq.write_table(table_of(range(20), "list", pa.float16()), folder / "a.parquet")
    run(folder)
    check_rows(merged(folder), list(range(20)), np.float16)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_ids_of_any_string_type_become_strings(folder: Path, kind: pa.DataType) -> None:
    ids = pa.array([f"x{number}" for number in range(9)]).cast(kind)
    pq.write_table(table_of(range(9)).set_column(0, "id", ids), folder / "a.parquet")
    run(folder, sort="_id")
    assert merged(folder)["_id"].to_pylist() == [f"x{number}" for number in range(9)]


def test_the_columns_can_be_named(folder: Path) -> None:
    table = table_of(range(5)).rename_columns(["key", "text", "values"])
    pq.write_table(table, folder / "a.parquet")
    with pytest.raises(ConfigError, match=r"cannot tell which column is the id .*--id-column"):
        run(folder)
    run(folder, id_column="key")
    check_rows(merged(folder), list(range(5)))


def test_files_in_subfolders_count_and_hidden_ones_do_not(folder: Path) -> None:
    (folder / "x" / "y").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    pq.write_table(table_of(range(5)), folder / "x" / "y" / "a.parquet")
    pq.write_table(table_of(range(5, 8)), folder / "z.parquet")
    for name in (".hidden/a.parquet", "_b.parquet", ".c.parquet", "d.txt", "e.parquet.inprogress"):
        (folder / name).write_bytes(b"not for reading")
    assert run(folder).rows == 8
    check_rows(merged(folder), list(range(8)))


def _broken(change: str) -> pa.Table:
    table = table_of(range(10, 14))
    vectors = table["embedding"].to_pylist()
    if change == "null vector":
        vectors[2] = None
    elif change == "null number":
        vectors[2] = [None, *vectors[2][1:]]
    elif change == "lengths":
        vectors[1], vectors[2] = vectors[1][:-1], [*vectors[2], 0.5]
    elif change == "null id":
        return table.set_column(0, "_id", pa.array([1, None, 3, 4], pa.int64()))
    return table.set_column(2, "embedding", pa.array(vectors, pa.list_(pa.float32())))


MISFITS = [
    (lambda: table_of(range(10, 14)).append_column("more", pa.array([1] * 4)), "an extra column 'more'"),
    (lambda: table_of(range(10, 14)).drop_columns(["text"]), "no column 'text'"),
    (lambda: table_of(range(10, 14)).drop_columns(["embedding"]), "no column 'embedding'"),
    (lambda: table_of(range(10, 14)).set_column(1, "text", pa.array([1] * 4)), "column 'text' is int64, not string"),
    (lambda: table_of(range(10, 14)).set_column(0, "_id", pa.array(list("abcd"))), "id type string is not int64"),
    (lambda: table_of(range(10, 14), "list", pa.float16()), "vector type halffloat is not float32"),
    (lambda: table_of(range(10, 14)).set_column(2, "embedding", pa.array([[1.0] * 3] * 4)), "3 numbers each"),
    (lambda: _broken("null vector"), "numbers each on average|vector in row 2 is null"),
    (lambda: _broken("null number"), "vector in row 2 holds a null"),
    (lambda: _broken("lengths"), "vector in row 1 has 11 numbers, expected 12"),
    (lambda: _broken("null id"), "1 rows without an id"),
]


@pytest.mark.parametrize(("make", "words"), MISFITS)
def test_a_file_that_does_not_fit_is_named_and_nothing_is_written(folder: Path, make: Any, words: str) -> None:
    pq.write_table(table_of(range(0, 10)), folder / "a.parquet")
    pq.write_table(make(), folder / "b.parquet")
    with pytest.raises(ConfigError, match=rf"b\.parquet.*({words})") as caught:
        run(folder, delete_sources=True)
    assert caught.value.exit_code is Exit.USAGE
    target = folder.parent / "target"
    assert not list(target.glob("*.parquet")) and not list(target.glob("*.inprogress"))
    assert len(list(folder.iterdir())) == 2


def test_a_file_that_is_no_parquet_file_is_damage(folder: Path) -> None:
    pq.write_table(table_of(range(0, 10)), folder / "a.parquet")
    (folder / "b.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DamageError, match=r"b\.parquet cannot be read"):
        run(folder)


@pytest.mark.seconds
def test_a_file_over_which_pyarrow_ends_the_process_is_damage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("writers.merge.merge.Pool", Pool)
    for name in ("a", "b", "c"):
        pq.write_table(table_of(range(ord(name), ord(name) + 1)), folder / f"{name}.parquet")
    make_fatal(folder / "b.parquet")
    with pytest.raises(DamageError, match=r"^b\.parquet cannot be read: .* ended by signal 6"):
        run(folder, delete_sources=True)
    assert len(list(folder.iterdir())) == 3 and not list((folder.parent / "target").glob("*.parquet"))


def test_a_folder_may_be_empty_once_it_has_been_merged(folder: Path) -> None:
    pq.write_table(table_of(range(0, 10)), folder / "a.parquet")
    run(folder, delete_sources=True)
    assert run(folder).already_merged == 0
    pq.write_table(table_of(range(10, 15)), folder / "b.parquet")
    assert run(folder).rows == 5


@pytest.mark.parametrize("carried", [True, False])
def test_columns_that_only_folders_names_hold_are_told_and_no_source_is_removed(folder: Path, carried: bool) -> None:
    for number, day in enumerate(("2026-11-25", "2026-11-26")):
        (folder / f"day={day}" / "hour=7").mkdir(parents=True)
        table = table_of(range(10 * number, 10 * number + 10))
        for key in ("day", "hour") if carried else ():
            table = table.append_column(key, pa.array([7] * 10))
        pq.write_table(table, folder / f"day={day}" / "hour=7" / "a=b.parquet")
    if not carried:
        with pytest.raises(ConfigError, match=r"--delete-sources would lose .* \(day, hour\)"):
            run(folder, delete_sources=True)
    report = run(folder, delete_sources=carried)
    assert report.rows == 20 and report.folder_keys == ([] if carried else ["day", "hour"])
    assert len(list(folder.rglob("*.parquet"))) == (0 if carried else 2)
    assert ("which only the names of folders hold" in as_text(report)) is not carried
    later = run(folder, delete_sources=True)
    assert (later.sources_removed, later.sources_kept) == ((0, 0) if carried else (0, 2))


def test_files_without_rows_add_nothing(folder: Path) -> None:
    pq.write_table(table_of(range(0, 10)), folder / "a.parquet")
    pq.write_table(table_of([]), folder / "b.parquet")
    assert run(folder).rows == 10


def test_the_latest_file_wins_by_its_time_not_by_its_name(folder: Path) -> None:
    pq.write_table(table_of(range(0, 10)), folder / "a.parquet")
    pq.write_table(table_of(range(5, 15)), folder / "b.parquet")
    os.utime(folder / "a.parquet", ns=(2_000_000_000_000_000_000, 2_000_000_000_000_000_000))
    with pytest.raises(DamageError, match="5 rows have an id that another row has too"):
        run(folder)
    assert run(folder, on_duplicate="latest").duplicates_dropped == 5
    check_rows(merged(folder), [*range(0, 10), *range(10, 15)])
    lineage = pq.read_metadata(next((folder.parent / "target").glob("*.parquet"))).metadata[schema.KEY_LINEAGE]
    assert [name for name, _ in orjson.loads(lineage)["files"]] == ["a.parquet", "b.parquet"]


def test_a_merged_file_that_has_changed_is_refused(folder: Path) -> None:
    pq.write_table(table_of(range(0, 10)), folder / "a.parquet")
    run(folder)
    pq.write_table(table_of(range(0, 20)), folder / "a.parquet")
    with pytest.raises(ConfigError, match=r"a\.parquet was merged and holds something else now"):
        run(folder)


@pytest.mark.parametrize("sort", ["none", "_id"])
@pytest.mark.parametrize("delete", [False, True])
def test_new_rows_under_a_merged_name_are_never_passed_over_even_of_the_same_size(
    folder: Path, sort: str, delete: bool
) -> None:
    """An older pipeline that starts again numbers its files from the beginning."""
    path = folder / "a.parquet"
    pq.write_table(table_of(range(10, 20)), path, compression="none", use_dictionary=False)
    pq.write_table(table_of([5]), folder / "b.parquet")
    content = path.read_bytes()
    run(folder, sort=sort, delete_sources=delete)
    pq.write_table(table_of(range(20, 30)), path, compression="none", use_dictionary=False)
    assert path.stat().st_size == len(content)
    with pytest.raises(ConfigError, match=r"a\.parquet was merged and holds something else now"):
        run(folder, sort=sort, delete_sources=delete)
    path.write_bytes(content)  # restored, with another time
    report = run(folder, sort=sort)
    assert report.rows == 0 and report.already_merged == (1 if delete else 2)


def test_a_file_that_is_written_again_between_plan_and_reading_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "a.parquet"
    pq.write_table(table_of(range(10, 20)), path, compression="none", use_dictionary=False)
    monkeypatch.setenv("ENGINE_FAILPOINTS", "merge/merge.after_plan=EIO")
    with pytest.raises(SinkError):
        run(folder)
    monkeypatch.delenv("ENGINE_FAILPOINTS")
    pq.write_table(table_of(range(20, 30)), path, compression="none", use_dictionary=False)
    with pytest.raises(DamageError, match=r"a\.parquet was written again after the merge was planned"):
        run(folder)


def test_a_flipped_bit_in_an_id_page_of_a_foreign_file_is_found_by_the_pages_checksum(folder: Path) -> None:
    path = folder / "a.parquet"
    pq.write_table(table_of(range(10)), path, compression="none", use_dictionary=False, write_page_checksum=True)
    ids = pq.read_metadata(path).row_group(0).column(0)
    content = bytearray(path.read_bytes())
    content[ids.data_page_offset + ids.total_compressed_size - 16] ^= 64
    path.write_bytes(content)
    assert pq.read_table(path)["_id"].to_pylist() != list(range(10))  # without checksums nobody would notice
    with pytest.raises(DamageError, match=r"a\.parquet cannot be read .*CRC"):
        run(folder)


def test_a_folder_that_leads_back_to_itself_is_listed_once(folder: Path) -> None:
    (folder / "below").mkdir()
    (folder / "below" / "up").symlink_to(folder, target_is_directory=True)
    pq.write_table(table_of(range(10)), folder / "below" / "a.parquet")
    assert run(folder).inputs == 1


def test_a_source_that_changed_after_its_merge_is_not_removed(folder: Path) -> None:
    pq.write_table(table_of(range(0, 10)), folder / "a.parquet")
    pq.write_table(table_of(range(10, 20)), folder / "b.parquet")
    run(folder)
    os.utime(folder / "a.parquet")
    report = run(folder, delete_sources=True)
    assert (report.sources_removed, report.sources_kept) == (1, 1)
    assert [path.name for path in folder.iterdir()] == ["a.parquet"]


def test_large_foreign_files_pass_in_portions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("writers.merge.outputs.group.WHOLE_BYTES", 1000)
    monkeypatch.setattr("writers.parquet.inputs.BLOCK_BYTES", 1000)
    pq.write_table(table_of(range(0, 500)), folder / "a.parquet", row_group_size=120)
    pq.write_table(table_of(range(500, 700), "fixed"), folder / "b.parquet", use_dictionary=False)
    assert run(folder).rows == 700
    check_rows(merged(folder), list(range(700)))


@pytest.mark.seconds
def test_many_small_files_make_few_files_in_the_order_of_their_names(folder: Path) -> None:
    for number in range(300):
        pq.write_table(table_of(range(number * 2, number * 2 + 2)), folder / f"{number:06d}.parquet")
    report = run(folder, file_bytes=1 << 16)
    assert (report.inputs, report.rows) == (300, 600) and report.files < 4
    check_rows(merged(folder), list(range(600)))
    pq.write_table(table_of([1000]), folder / "000000a.parquet")
    more = run(folder, file_bytes=1 << 16)
    assert (more.inputs, more.rows, more.already_merged) == (1, 1, 300)
    state = read_merge_state(folder.parent / "target")
    assert state is not None and len(state.plans) == 2


def test_nested_carried_columns_come_through(folder: Path) -> None:
    tags = pa.array([["a", None], [], None, ["b"]])
    places = pa.array([{"x": 1.5, "y": None}, None, {"x": 2.0, "y": "k"}, {"x": 0.0, "y": ""}])
    table = table_of(range(4)).append_column("tags", tags).append_column("places", places)
    pq.write_table(table, folder / "a.parquet")
    run(folder, sort="_id")
    got = merged(folder)
    assert got["tags"].to_pylist() == tags.to_pylist() and got["places"].to_pylist() == places.to_pylist()


@pytest.mark.parametrize("on_duplicate", ["error", "latest"])
@pytest.mark.parametrize("sibling_first", [True, False])
def test_a_column_whose_name_begins_like_the_ids_is_another_one(
    folder: Path, on_duplicate: str, sibling_first: bool
) -> None:
    """A dot in a name looks like a path; the second file's footer is too long to be read along with its ids."""
    for number, note in enumerate((b"", b"x" * 30_000)):
        ids = range(500 * number, 500 * number + 500)
        columns = {"_id.x": pa.array(range(500)), "_id": pa.array(ids), "embedding": table_of(ids)["embedding"]}
        names = ["_id.x", "embedding", "_id"] if sibling_first else ["_id", "_id.x", "embedding"]
        table = pa.table({name: columns[name] for name in names}).replace_schema_metadata({b"note": note})
        pq.write_table(table, folder / f"{number}.parquet", compression="none", use_dictionary=False)
    assert run(folder, on_duplicate=on_duplicate).rows == 1000
    assert sorted(read_outputs(folder.parent / "target").column("_id").to_pylist()) == list(range(1000))


def test_names_with_dots_are_names(folder: Path) -> None:
    table = table_of(range(40)).rename_columns(["doc.id", "doc.text", "doc.vector"])
    pq.write_table(table, folder / "0.parquet")
    assert run(folder, id_column="doc.id", vector_column="doc.vector").rows == 40
    merged = read_outputs(folder.parent / "target")
    assert merged.column("doc.text").to_pylist() == table.column("doc.text").to_pylist()
    assert merged.column("embedding").to_pylist() == table.column("doc.vector").to_pylist()


def test_columns_of_many_leaves_before_ids_and_vectors_are_counted(folder: Path) -> None:
    table = table_of(range(40))
    point = pa.array([{"x": number, "y": {"z": [str(number)]}} for number in range(40)])
    tags = pa.array([[("a", number)] for number in range(40)], pa.map_(pa.string(), pa.int64()))
    word = table.column("text").combine_chunks().dictionary_encode()
    wide = pa.table({"point": point, "tags": tags, "word": word, **{name: table[name] for name in table.column_names}})
    pq.write_table(wide, folder / "0.parquet")
    pq.write_table(wide.slice(0, 0), folder / "1.parquet")
    assert run(folder).rows == 40
    merged = read_outputs(folder.parent / "target")
    for name in ("point", "tags", "_id", "embedding"):
        assert merged.column(name).to_pylist() == wide.column(name).to_pylist()


def test_a_later_file_may_hold_nulls_where_the_first_one_could_not(folder: Path) -> None:
    for number, nullable in enumerate((False, True)):
        table = table_of(range(10 * number, 10 * number + 10))
        words = pa.array(["word", None if nullable else "x"] * 5)
        table = table.append_column(pa.field("word", pa.string(), nullable=nullable), words)
        pq.write_table(table, folder / f"{number}.parquet")
    assert run(folder).rows == 20
    assert read_outputs(folder.parent / "target").column("word").null_count == 5


def test_text_within_a_struct_that_is_not_utf8_is_damage(folder: Path) -> None:
    table = table_of(range(40))
    named = pa.array([{"name": "Zoe"}] * 40)
    path = folder / "0.parquet"
    pq.write_table(table.append_column("by", named), path, compression="none", write_statistics=False)
    content = path.read_bytes()
    assert content.count(b"Zoe") == 1  # in the dictionary
    path.write_bytes(content.replace(b"Zoe", b"Z\xff\xfe"))
    with pytest.raises(DamageError, match=r"^0\.parquet cannot be read"):
        run(folder)
