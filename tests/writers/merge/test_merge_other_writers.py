"""`merge` and `verify` of what other writers make of sound data; each case was met in a file of one of them."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from engine.errors import ConfigError, DamageError
from tests.writers.dataset import read_outputs, vectors_of
from writers.merge.config import MergeConfig, MergeReport
from writers.merge.merge import merge
from writers.proof.digests import column_hashes
from writers.verify.config import VerifyConfig, VerifyReport
from writers.verify.verify import verify

DIM = 12
GOLDEN = Path(__file__).parent.parent / "golden"

pytestmark = pytest.mark.usefixtures("inline")


def table_of(numbers: range, kind: pa.DataType | None = None, **columns: Any) -> pa.Table:
    vectors = pa.array(vectors_of(numbers, DIM).tolist(), kind or pa.list_(pa.float32()))
    return pa.table({"_id": pa.array(numbers, pa.int64()), **columns, "embedding": vectors})


def run(folder: Path, **options: Any) -> MergeReport:
    settings: dict[str, Any] = {"jobs": 1, "file_bytes": 1 << 20, "row_group_bytes": 1 << 16, **options}
    return merge(MergeConfig(source=folder, target=folder.parent / "target", **settings))


def merged(folder: Path) -> pa.Table:
    table = read_outputs(folder.parent / "target")
    assert verify(VerifyConfig.of_folder(folder.parent / "target")).ok
    values = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    assert values.tobytes() == vectors_of(table["_id"].to_pylist(), DIM).tobytes()
    return table


def verified(folder: Path) -> VerifyReport:
    return verify(VerifyConfig.of_folder(folder))


@pytest.mark.parametrize("page_bytes", [64, 1 << 20])
@pytest.mark.parametrize("page", ["1.0", "2.0"])
def test_pages_of_either_version_are_read_though_a_file_looks_like_an_output(
    folder: Path, page: str, page_bytes: int
) -> None:
    """A footer does not tell the version of pages: those of version 2 were called damage."""
    element = pa.field("element", pa.float32(), nullable=False)
    table = table_of(range(50), pa.list_(element, DIM))
    fields = [pa.field("_id", pa.int64(), nullable=False), pa.field("embedding", table.schema[1].type, nullable=False)]
    pq.write_table(
        table.cast(pa.schema(fields)),
        folder / "a.parquet",
        compression="zstd",
        use_dictionary=False,
        use_byte_stream_split=["embedding.list.element"],
        data_page_version=page,
        data_page_size=page_bytes,
        write_batch_size=7,
    )
    run(folder)
    assert merged(folder)["_id"].to_pylist() == list(range(50))


def test_row_groups_without_rows_are_sound(folder: Path) -> None:
    """Their data pages begin at 0, for there are none; `verify` took the magic there for a damaged page."""
    pq.write_table(table_of(range(5)), folder / "a.parquet")
    pq.write_table(table_of(range(5)).slice(0, 0), folder / "b.parquet")
    report = verified(folder)
    assert (report.ok, report.rows) == (True, 5)
    run(folder)
    assert merged(folder).num_rows == 5


@pytest.mark.parametrize("sort", ["none", "_id"])
def test_a_first_file_without_rows_leaves_the_schema_to_the_next(folder: Path, sort: str) -> None:
    """Spark writes one where its first partition is empty."""
    pq.write_table(table_of(range(5)).slice(0, 0), folder / "part-0.parquet")
    pq.write_table(table_of(range(5, 9)), folder / "part-1.parquet")
    pq.write_table(table_of(range(5)), folder / "part-2.parquet")
    assert verified(folder).ok
    assert run(folder, sort=sort).inputs == 3
    assert sorted(merged(folder)["_id"].to_pylist()) == list(range(9))


def test_files_without_any_row_cannot_tell_the_dimension(folder: Path) -> None:
    for name in ("a", "b"):
        pq.write_table(table_of(range(5)).slice(0, 0), folder / f"{name}.parquet")
    with pytest.raises(ConfigError, match=r"no file has a row to tell the dimension from; a\.parquet is the first"):
        run(folder)


def test_a_dictionary_at_offset_0_is_none(folder: Path) -> None:
    """Some writers fill the field in where there is no dictionary."""
    path = folder / "a.parquet"
    shutil.copy(GOLDEN / "dictionary-at-0.parquet", path)
    column = pq.read_metadata(path).row_group(0).column(1)
    assert (column.has_dictionary_page, column.dictionary_page_offset) == (True, 0)
    assert verified(folder).ok
    run(folder)
    assert merged(folder).num_rows == 30


BEYOND_PYTHON = [
    (pa.timestamp("ns"), [1_600_000_000_000_000_001, None, 7_000]),
    (pa.timestamp("us"), [253_402_300_800_000_000, None, 1]),
    (pa.timestamp("us", "No/Such_Zone"), [5, None, 1]),
    (pa.date32(), [2**31 - 1, None, -(2**31)]),
    (pa.duration("ns"), [1, None, 1_000]),
]


@pytest.mark.parametrize(("kind", "numbers"), BEYOND_PYTHON, ids=[str(kind) for kind, _ in BEYOND_PYTHON])
@pytest.mark.parametrize("sort", ["none", "_id"])
def test_times_in_nested_columns_may_be_beyond_those_of_python(
    folder: Path, kind: pa.DataType, numbers: list[int | None], sort: str
) -> None:
    """They ended the merge: its checks look at nested values by way of Python's."""
    times = pa.array(numbers, kind)
    nested = pa.StructArray.from_arrays([times, pa.array([[1], None, []], pa.list_(pa.int8()))], ["at", "more"])
    lists = pa.ListArray.from_arrays([0, 2, 2, 3], times)
    pq.write_table(table_of(range(3), s=nested, l=lists), folder / "a.parquet")
    assert verified(folder).ok
    run(folder, sort=sort)
    table = merged(folder)
    assert table["s"].combine_chunks().equals(nested)
    assert table["l"].combine_chunks().equals(lists)


def test_the_hash_of_a_nested_value_does_not_depend_on_the_values_beside_it() -> None:
    kind = pa.struct([("day", pa.date32()), ("text", pa.string())])
    plain = pa.array([{"day": 1, "text": "x"}, None], kind)
    far = pa.array([{"day": 2**31 - 1, "text": None}], kind)
    beside = column_hashes(pa.concat_arrays([plain, far]))
    assert beside.tolist() == [*column_hashes(plain).tolist(), *column_hashes(far).tolist()]


@pytest.mark.parametrize("sort", ["none", "_id"])
def test_views_of_strings_become_strings(folder: Path, sort: str) -> None:
    """arrow-rs writes them; a sorted merge ended over them. The file is from pyarrow 26, since 18 writes none."""
    texts, blobs = pa.array(["a text that does not fit into a view", None, "b"]), pa.array([b"\xff", None, b""])
    columns = {
        "v": texts,
        "b": blobs,
        "s": pa.StructArray.from_arrays([texts, blobs], ["a", "b"]),
        "l": pa.ListArray.from_arrays([0, 2, 2, 3], texts),
        "m": pa.MapArray.from_arrays([0, 1, 1, 2], pa.array(["k", "l"]), texts.slice(0, 2)),
    }
    shutil.copy(GOLDEN / "views-of-strings.parquet", folder / "a.parquet")
    pq.write_table(table_of(range(3, 6), **columns), folder / "b.parquet")
    assert verified(folder).ok
    run(folder, sort=sort)
    table = merged(folder)
    assert table.schema.field("v").type == pa.string()
    for name, column in columns.items():
        assert table[name].to_pylist() == column.to_pylist() * 2


def test_another_writers_key_id_type_is_not_ours(folder: Path) -> None:
    pq.write_table(table_of(range(5)).replace_schema_metadata({"id_type": "long"}), folder / "a.parquet")
    run(folder)
    assert merged(folder).num_rows == 5


def test_a_fingerprint_that_is_no_object_is_damage(folder: Path) -> None:
    pq.write_table(table_of(range(5)).replace_schema_metadata({"engine.fingerprint": "5"}), folder / "a.parquet")
    with pytest.raises(DamageError, match=r"a\.parquet: the fingerprint in the footer is not an object"):
        run(folder)


@pytest.mark.parametrize("name", ["_id", "text", "embedding"])
@pytest.mark.parametrize("file", ["a", "c"])
def test_columns_of_one_name_are_refused(folder: Path, file: str, name: str) -> None:
    """pyarrow gives a file that has them to whoever asks by number only."""
    table = table_of(range(5), text=pa.array(list("abcde")))
    pq.write_table(table_of(range(10, 15), text=pa.array(list("abcde"))), folder / "b.parquet")
    pq.write_table(table.append_column(name, table[name]), folder / f"{file}.parquet")
    with pytest.raises(ConfigError, match=rf"{file}\.parquet .*several columns '{name}'"):
        run(folder)


def test_lists_of_other_lengths_are_refused_even_when_the_numbers_are_as_many(folder: Path) -> None:
    vectors = vectors_of(range(4), DIM).tolist()
    vectors[1], vectors[2] = vectors[1][:-1], [*vectors[2], 0.5]
    pq.write_table(table_of(range(4, 8)), folder / "a.parquet")
    table = pa.table({"_id": pa.array(range(4)), "embedding": pa.array(vectors, pa.list_(pa.float32()))})
    pq.write_table(table, folder / "b.parquet")
    with pytest.raises(ConfigError, match="vector in row 1 has 11 numbers, expected 12"):
        run(folder)


def test_vectors_without_numbers_are_refused(folder: Path) -> None:
    vectors = pa.array([[]] * 3, pa.list_(pa.float32(), 0))
    pq.write_table(pa.table({"_id": [1, 2, 3], "embedding": vectors}), folder / "a.parquet")
    with pytest.raises(ConfigError, match=r"a\.parquet: the vectors in 'embedding' have no numbers"):
        run(folder)


def test_a_double_that_would_become_infinite_is_refused(folder: Path) -> None:
    vectors = vectors_of(range(5), DIM).astype(np.float64)
    vectors[1, 0], vectors[3, 5] = np.inf, -1e39
    table = pa.table({"_id": range(5), "embedding": pa.array(vectors.tolist(), pa.list_(pa.float64()))})
    pq.write_table(table, folder / "a.parquet")
    with pytest.raises(ConfigError, match=r"a\.parquet: the vector in row 3 holds a number beyond float32"):
        run(folder)


class _Keys(pe.KmsClient):  # type: ignore[misc]
    """Keys that lie in the file, for whoever can read them."""

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        return base64.b64decode(wrapped_key)


ENCRYPTED = {
    "all": None,  # with one key: a file from pyarrow 26, since 18 writes none
    "ids": {"plaintext_footer": True, "column_keys": {"key": ["_id"]}},
    "vectors": {"plaintext_footer": True, "column_keys": {"key": ["embedding.list.element"]}},
}


@pytest.mark.parametrize("what", list(ENCRYPTED))
@pytest.mark.parametrize("file", ["a", "c"])
def test_encrypted_files_are_refused_by_name(folder: Path, what: str, file: str) -> None:
    """Of columns behind a readable footer pyarrow made the end of the process."""
    pq.write_table(table_of(range(5)), folder / "b.parquet")
    if (options := ENCRYPTED[what]) is None:
        shutil.copy(GOLDEN / "encrypted.parquet", folder / f"{file}.parquet")
    else:
        settings = pe.EncryptionConfiguration(footer_key="footer", **options)
        properties = pe.CryptoFactory(lambda _: _Keys()).file_encryption_properties(pe.KmsConnectionConfig(), settings)
        pq.write_table(table_of(range(10, 15)), folder / f"{file}.parquet", encryption_properties=properties)
    with pytest.raises(ConfigError, match=rf"^{file}\.parquet is encrypted: write it anew without encryption"):
        run(folder)
    if file == "c":
        report = verified(folder)
        assert not report.ok
        assert "c.parquet cannot be checked: it is encrypted" in str(report.findings["mismatched"]["examples"])
