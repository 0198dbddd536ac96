"""Vector pages of other writers: decoded here as pyarrow decodes them, or left to it; damage is never passed on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError
from tests.writers.dataset import vectors_of
from tests.writers.inline_pool import InlinePool
from writers.merge.config import MergeConfig
from writers.merge.merge import merge
from writers.parquet.foreign_pages import ForeignChunk, ForeignReader, copy_counting, packed_indices, unpack
from writers.parquet.pages import NotOurs, PageDamage

DIM = 24


def foreign_table(matrix: Any, nullable: bool = True) -> pa.Table:
    """Numbered rows with their vectors as lists."""
    element = pa.float16() if matrix.dtype == np.float16 else pa.float32()
    kind = pa.list_(pa.field("element", element, nullable=nullable))
    offsets = pa.array(np.arange(len(matrix) + 1, dtype=np.int32) * matrix.shape[1])
    lists = pa.ListArray.from_arrays(offsets, pa.array(matrix.reshape(-1)), type=kind)
    schema = pa.schema([("_id", pa.int64()), ("text", pa.string()), pa.field("embedding", kind, nullable=nullable)])
    texts = [f"text {row}" for row in range(len(matrix))]
    return pa.Table.from_arrays([pa.array(range(len(matrix))), pa.array(texts), lists], schema=schema)


def chunks_of(path: Path) -> list[ForeignChunk]:
    """The vectors of a file."""
    parquet = pq.ParquetFile(path)
    found = []
    for number in range(parquet.num_row_groups):
        column = parquet.metadata.row_group(number).column(2)
        start = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
        place = (start, column.total_compressed_size, column.num_values)
        found.append(ForeignChunk(place, column.compression, parquet.schema.column(2).max_definition_level))
    return found


def decoded(content: bytes, chunks: list[ForeignChunk], dtype: Any = np.float32) -> bytes:
    """The bytes of all vectors."""
    reader = ForeignReader(DIM, dtype)
    return b"".join(
        matrix.tobytes() for chunk in chunks for matrix in reader.read(lambda at, n: content[at : at + n], chunk)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("nullable", [True, False])
@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("rows", [1, 21, 400])
def test_what_pyarrow_writes_by_default_is_decoded_here(
    tmp_path: Path, dtype: Any, nullable: bool, compression: str, dictionary: bool, rows: int
) -> None:
    matrix = vectors_of(range(rows), DIM).astype(dtype)
    path = tmp_path / "a.parquet"
    by_dictionary = dictionary and dtype == np.float32  # half floats repeat, which is the general reader's business
    options: dict[str, Any] = {"compression": compression, "use_dictionary": by_dictionary, "row_group_size": 300}
    pq.write_table(foreign_table(matrix, nullable), path, dictionary_pagesize_limit=12_000, **options)
    assert decoded(path.read_bytes(), chunks_of(path), dtype) == matrix.tobytes()


def test_repeated_numbers_are_decoded_or_left_to_the_general_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    mixed = vectors_of(range(90), DIM)
    mixed[40:] = mixed[np.arange(40, 90) % 7]  # known values, never eight equal ones in a row
    pq.write_table(foreign_table(mixed), path)
    assert decoded(path.read_bytes(), chunks_of(path)) == mixed.tobytes()
    pq.write_table(foreign_table(np.zeros((30, DIM), dtype=np.float32)), path)
    with pytest.raises(NotOurs):
        decoded(path.read_bytes(), chunks_of(path))


@pytest.mark.parametrize(
    "options",
    [{"data_page_version": "2.0"}, {"compression": "gzip"}, {"use_byte_stream_split": ["embedding.list.element"]}],
)
def test_pages_of_other_kinds_come_through_the_general_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    assert _merged(tmp_path, monkeypatch, use_dictionary=False, **options) == vectors_of(range(300), DIM).tobytes()


def test_a_file_that_changes_its_kind_midway_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second row group repeats eight numbers, which is not decoded here; no row is lost or there twice."""
    matrix = vectors_of(range(300), DIM)
    matrix[150, :16] = matrix[150, 0]
    assert _merged(tmp_path, monkeypatch, matrix, row_group_size=100) == matrix.tobytes()
    monkeypatch.setattr("writers.parquet.inputs.WHOLE_BYTES", 1000)
    monkeypatch.setattr("writers.parquet.inputs._BATCH_BYTES", 70 * 4 * DIM)
    assert _merged(tmp_path, monkeypatch, matrix, row_group_size=100) == matrix.tobytes()


def _merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, matrix: Any = None, **options: Any) -> bytes:
    """The bytes of the vectors of a merge of one file; other columns are compared."""
    matrix = vectors_of(range(300), DIM) if matrix is None else matrix
    monkeypatch.setattr("writers.merge.merge.Pool", InlinePool)
    number = len(list(tmp_path.iterdir()))
    source, target = tmp_path / f"source{number}", tmp_path / f"target{number}"
    source.mkdir()
    pq.write_table(foreign_table(matrix), source / "a.parquet", **options)
    merge(MergeConfig(source=source, target=target, jobs=1))
    (output,) = target.glob("*.parquet")
    table = pq.read_table(output, page_checksum_verification=True)
    assert table["_id"].to_pylist() == list(range(len(matrix)))
    assert table["text"].to_pylist() == [f"text {row}" for row in range(len(matrix))]
    return bytes(table["embedding"].combine_chunks().flatten().to_numpy().tobytes())


@pytest.mark.parametrize("compression", ["snappy", "none"])
@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("checksums", [True, False])
def test_a_flipped_bit_is_found_or_changes_what_everybody_reads(
    tmp_path: Path, compression: str, dictionary: bool, checksums: bool
) -> None:
    """With checksums every bit of a body is found; without, what comes out is what pyarrow reads too."""
    path = tmp_path / "a.parquet"
    options: dict[str, Any] = {"compression": compression, "use_dictionary": dictionary}
    pq.write_table(foreign_table(vectors_of(range(30), DIM)), path, write_page_checksum=checksums, **options)
    content, chunks = path.read_bytes(), chunks_of(path)
    sound = decoded(content, chunks)
    (start, size, _), random = chunks[0].place, np.random.default_rng(5)
    seen = 0
    for position in [*range(60), *random.integers(size, size=400)]:  # headers, and anything
        broken = bytearray(content)
        broken[start + int(position)] ^= 1 << int(random.integers(8))
        try:
            got = decoded(bytes(broken), chunks)
        except (PageDamage, NotOurs):
            seen += 1
            continue
        if got == sound:
            continue  # statistics in a header, or a bit behind the last index
        assert not checksums
        path.write_bytes(broken)
        theirs = pq.read_table(path, columns=["embedding"])["embedding"].combine_chunks()
        assert theirs.flatten().to_numpy(zero_copy_only=False).tobytes() == got
    assert seen > (350 if checksums else 20)
    for cut in (start + size // 2, start + 5):
        with pytest.raises(PageDamage):
            decoded(content[:cut], chunks)


def packed(indices: Any, width: int) -> bytes:
    """Indices as a page has them."""
    padded = np.concatenate([indices, np.zeros(-len(indices) % 8, dtype=np.int64)])
    bits = (padded[:, None] >> np.arange(width) & 1).astype(np.uint8)
    groups = np.packbits(bits.reshape(-1), bitorder="little").reshape(-1, width)
    runs = [groups[start : start + 63] for start in range(0, len(groups), 63)]
    return bytes([width]) + b"".join(bytes([len(run) << 1 | 1]) + run.tobytes() for run in runs)


def looked_up(data: bytes, count: int, dictionary: Any) -> tuple[Any, bool]:
    """The values, and whether they were found by stretches."""
    groups, width = packed_indices(memoryview(data), count)
    plain = dictionary.take(unpack(groups, width)[:count])
    out = np.empty(count, dtype=dictionary.dtype)
    counting = copy_counting(groups, width, dictionary, out)
    assert not counting or (out == plain).all()
    return plain, counting


@settings(max_examples=100, deadline=None)
@given(
    count=st.integers(1, 3000),
    repeats=st.lists(st.integers(0, 2999), max_size=30),
    spare_bits=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_indices_that_nearly_count_up_are_looked_up_as_any_others(
    count: int, repeats: list[int], spare_bits: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    new = np.ones(count, dtype=bool)
    new[[at for at in repeats if 0 < at < count]] = False
    indices = np.cumsum(new) - 1
    indices[~new] = random.integers(0, indices[~new] + 1)
    width = max(1, int(indices.max()).bit_length()) + spare_bits
    dictionary = random.permutation(int(indices.max()) + 1).astype(np.float32)
    values, counting = looked_up(packed(indices, width), count, dictionary)
    assert (values == dictionary[indices]).all()
    assert counting or count < 100 or spare_bits == 0 or len(repeats) > 20  # it is the way that is meant


@pytest.mark.parametrize("width", [1, 7, 12, 17, 25])
def test_any_indices_of_any_width_are_looked_up(width: int) -> None:
    random = np.random.default_rng(width)
    dictionary = np.arange(min(1 << width, 5000), dtype=np.float32)
    indices = random.integers(0, len(dictionary), size=1234)
    values, _ = looked_up(packed(indices, width), 1234, dictionary)
    assert (values == indices).all()


def test_indices_beyond_the_dictionary_and_broken_runs_are_no_values() -> None:
    good = packed(np.arange(16), 4)
    for data in (b"\x00" + good[1:], b"\x04\x07" + good[2:], good[:-1], b"\x1f" + good[1:], b"\x04"):
        with pytest.raises(NotOurs):
            packed_indices(memoryview(data), 16)
    groups, width = packed_indices(memoryview(good), 16)
    for entries in (3, 8, 15):
        with pytest.raises(IndexError):
            copy_counting(groups, width, np.arange(entries), np.empty(16))
    groups, width = packed_indices(memoryview(packed(np.array([0, 1, 2, 9, 3, 4, 5, 6]), 4)), 8)
    with pytest.raises(IndexError):
        copy_counting(groups, width, np.arange(7), np.empty(8))


def test_lists_of_other_lengths_are_refused_even_when_the_levels_are_as_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("writers.merge.merge.Pool", InlinePool)
    vectors = vectors_of(range(4), DIM).tolist()
    vectors[1], vectors[2] = vectors[1][:-1], [*vectors[2], 0.5]
    (tmp_path / "source").mkdir()
    for number, rows in enumerate((vectors_of(range(4), DIM).tolist(), vectors)):
        ids = pa.array(range(number * 4, number * 4 + 4))
        table = pa.table({"_id": ids, "embedding": pa.array(rows, pa.list_(pa.float32()))})
        pq.write_table(table, tmp_path / "source" / f"{number}.parquet", use_dictionary=False)
    with pytest.raises(ConfigError, match="vector in row 1 has 23 numbers, expected 24"):
        merge(MergeConfig(source=tmp_path / "source", target=tmp_path / "target", jobs=1))
