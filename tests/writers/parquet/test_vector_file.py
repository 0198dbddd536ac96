"""The vector file: pages and footers written by hand, read by everybody else."""

from __future__ import annotations

import io
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writers.parquet.pages import (
    BYTE_STREAM_SPLIT,
    EncodedPage,
    PageDamage,
    PageEncoder,
    VectorReader,
    levels,
    page_header,
    read_pages,
)
from writers.parquet.vector_file import FooterDamage, VectorFileWriter, read_footer

from engine.memory.ids import IdType
from tests.writers.dataset import vectors_of
from writers.parquet import thrift
from writers.proof.digests import RowHasher, id_keys, total
from writers.shards.schema import ShardSchema, writer_options


def write(
    matrix: Any, cuts: list[int], row_group_bytes: int = 1 << 20, *, expected_rows: int = 0, word: str = "w"
) -> bytes:
    """A file of rows numbered from 0, appended in portions that end at `cuts`."""
    kind = "float16" if matrix.dtype == np.float16 else "float32"
    made = ShardSchema(id_type=IdType.INT64, columns=(("word", "string"),), dim=matrix.shape[1], vector_type=kind)
    sink = io.BytesIO()
    writer = VectorFileWriter(
        sink, made.arrow(), row_group_bytes=row_group_bytes, sorted_by_id=True, expected_rows=expected_rows
    )
    start = 0
    for end in [*cuts, len(matrix)]:
        others = pa.table(
            [
                pa.array(range(start, end), pa.int64()),
                pa.array([f"{word}{row % 3}" for row in range(start, end)], pa.string()),
            ],
            schema=pa.schema([made.arrow().field("_id"), made.arrow().field("word")]),
        )
        writer.append(others, matrix[start:end])
        start = end
    writer.close({b"engine.rows": str(len(matrix)).encode()})
    assert writer.rows == len(matrix) and writer.position == len(sink.getvalue())
    return sink.getvalue()


@settings(max_examples=60, deadline=None)
@given(
    dim=st.integers(1, 70),
    rows=st.integers(0, 400),
    half=st.booleans(),
    row_group_bytes=st.sampled_from([1 << 12, 1 << 14, 1 << 20]),
    expected_rows=st.integers(0, 800),
    data=st.data(),
)
def test_pyarrow_reads_what_was_written(
    dim: int, rows: int, half: bool, row_group_bytes: int, expected_rows: int, data: Any
) -> None:
    matrix = np.random.default_rng(dim).standard_normal((rows, dim)).astype(np.float16 if half else np.float32)
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=5)))
    content = write(matrix, cuts, row_group_bytes, expected_rows=expected_rows)
    with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as parquet:
        table = parquet.read()
    assert table["_id"].to_pylist() == list(range(rows))
    assert table["word"].to_pylist() == [f"w{row % 3}" for row in range(rows)]
    got = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    assert got.tobytes() == matrix.tobytes()
    assert table.schema.field("embedding").type.list_size == dim


@pytest.mark.parametrize("word", ["w", "a long word that no page of ids has room for " * 9])
@pytest.mark.parametrize("expected_rows", [0, 7, 3000, 10**6])
def test_readers_that_go_by_the_first_column_find_every_row_group(expected_rows: int, word: str) -> None:
    """parquet-java gives a row group to the split that holds the middle of the bytes from its first column's start."""
    matrix = vectors_of(range(3000), 16)
    content = write(matrix, [7, 1500], 1 << 15, expected_rows=expected_rows, word=word)
    groups = read_footer(content)[4].value.items
    ends = 4
    middles = []
    for group in groups:
        chunks = [column[3].value for column in group[1].value.items]
        starts = [min(chunk[number].value for number in (9, 11) if number in chunk) for chunk in chunks]
        for chunk, start in zip(chunks, starts, strict=True):  # in the schema's order, none over another
            assert start >= ends
            ends = start + chunk[7].value
        assert group[5].value == starts[0]
        middles.append(starts[0] + group[6].value // 2)
    assert len(groups) > 4 and ends < len(content)
    for split in (1 << 12, 1 << 14, len(content)):
        found = [sum(start <= middle < start + split for start in range(0, len(content), split)) for middle in middles]
        assert found == [1] * len(groups)
    table = pq.read_table(pa.BufferReader(content))
    assert table["word"].to_pylist() == [f"{word}{row % 3}" for row in range(3000)]
    assert table["embedding"].combine_chunks().flatten().to_numpy().tobytes() == matrix.tobytes()


def test_room_for_the_other_columns_is_left_not_wasted() -> None:
    matrix = vectors_of(range(3000), 64)
    tight = len(write(matrix, [], 1 << 16))
    assert len(write(matrix, [], 1 << 16, expected_rows=3000)) < 1.02 * tight
    assert len(write(matrix[:10], [], 1 << 16, expected_rows=10)) < len(write(matrix[:10], [], 1 << 16)) + 2048


def test_bits_that_are_not_numbers_come_through() -> None:
    bits = np.random.default_rng(5).integers(0, 1 << 32, (300, 9), dtype=np.uint32)
    matrix = bits.view(np.float32)  # NaN payloads, infinities, denormals
    table = pq.read_table(pa.BufferReader(write(matrix, [])))
    assert table["embedding"].combine_chunks().flatten().to_numpy().tobytes() == matrix.tobytes()


def test_page_indexes_find_rows_and_row_groups_are_bounded() -> None:
    matrix = vectors_of(range(3000), 16)
    content = write(matrix, [7, 1500], 1 << 15)
    with pq.ParquetFile(pa.BufferReader(content)) as parquet:
        metadata = parquet.metadata
        assert metadata.num_row_groups > 4
        assert all(metadata.row_group(g).total_byte_size < 1.1 * (1 << 15) for g in range(metadata.num_row_groups))
        column = metadata.row_group(0).column(0)
        assert column.has_column_index and column.has_offset_index and column.statistics.min == 0
        assert metadata.row_group(1).sorting_columns[0].column_index == 0
    footer = read_footer(content)
    rows = 0
    for group in footer[4].value.items:
        vectors = group[1].value.items[2]
        index, _ = thrift.read_struct(content, vectors[4].value)
        firsts = [location[3].value for location in index[1].value.items]
        assert firsts[0] == 0 and firsts == sorted(set(firsts))
        place = (vectors[3].value[9].value, vectors[3].value[7].value, vectors[3].value[5].value)
        pages = list(read_pages(lambda at, count: content[at : at + count], place))
        assert [page.offset for page in pages] == [location[1].value for location in index[1].value.items]
        assert [len(page.head) + len(page.body) for page in pages] == [loc[2].value for loc in index[1].value.items]
        counts = [page.n_values // 16 for page in pages]
        assert firsts == [sum(counts[:number]) for number in range(len(counts))]
        rows += sum(counts)
    assert rows == 3000


@pytest.mark.parametrize("dim", [1, 3, 7, 8, 9, 64, 768])
def test_levels_are_those_that_pyarrow_reads_from_its_own_pages(dim: int) -> None:
    """The pattern that is written without walking over values decodes like the pattern pyarrow writes."""
    matrix = vectors_of(range(5), dim)
    page = PageEncoder(dim, np.float32).encode(matrix)
    plain = pa.Codec("zstd").decompress(memoryview(page.body), page.plain_bytes).to_pybytes()
    assert plain.startswith(levels(5, dim))
    assert len(plain) == len(levels(5, dim)) + matrix.nbytes


def test_pages_that_end_within_a_row_are_read_whole() -> None:
    """pyarrow may end pages anywhere where no page index is asked for."""
    matrix = vectors_of(range(50), 9)
    flat = matrix.reshape(-1)
    content = b""
    for start, end in [(0, 5), (5, 100), (100, 101), (101, 450)]:
        planes = flat[start:end].view(np.uint8).reshape(-1, 4).T.tobytes()
        plain = levels(1, end - start) + planes  # any levels: their length is all that counts here
        body = pa.Codec("zstd").compress(plain, asbytes=True)
        content += page_header(end - start, BYTE_STREAM_SPLIT, len(plain), len(body), zlib.crc32(body)) + body
    for copying in (False, True):
        assert _values(content, (0, len(content), 450), 9, copying) == matrix.tobytes()


def test_pages_of_a_shard_are_copied_as_they_are() -> None:
    schema = ShardSchema(id_type=IdType.INT64, columns=(), dim=600, vector_type="float32").arrow()
    matrix = vectors_of(range(1100), 600)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), type=schema.field("embedding").type)
    sink = io.BytesIO()
    table = pa.Table.from_arrays([pa.array(range(1100)), vectors], schema=schema)
    pq.write_table(table, sink, **writer_options(schema))
    column = pq.read_metadata(pa.BufferReader(sink.getvalue())).row_group(0).column(1)
    place = (column.data_page_offset, column.total_compressed_size, column.num_values)
    pages = list(VectorReader(600, np.float32).read(_reader(sink.getvalue()), place, copying=True))
    assert [isinstance(page, EncodedPage) for page in pages] == [True] * len(pages) and len(pages) > 1
    assert _values(sink.getvalue(), place, 600) == matrix.tobytes()


def test_a_flipped_bit_in_a_page_never_passes() -> None:
    content = write(vectors_of(range(40), 16), [])
    vectors = read_footer(content)[4].value.items[0][1].value.items[2][3].value
    place = (vectors[9].value, vectors[7].value, vectors[5].value)
    sound = _values(content, place, 16)
    random = np.random.default_rng(3)
    seen = 0
    for _ in range(500):
        broken = bytearray(content)
        broken[place[0] + int(random.integers(place[1]))] ^= 1 << int(random.integers(8))
        try:
            got = _values(bytes(broken), place, 16)
        except ValueError:  # PageDamage or NotOurs
            seen += 1
        else:
            assert got == sound  # a bit of the header that says nothing about the values
    assert seen > 400


def _values(content: bytes, place: tuple[int, int, int], dim: int, copying: bool = False) -> bytes:
    """The bytes of all vectors of a chunk; none of its pages may be worth copying."""
    parts = []
    for vectors in VectorReader(dim, np.float32).read(_reader(content), place, copying=copying):
        assert not isinstance(vectors, EncodedPage)
        parts.append(vectors.tobytes())
    return b"".join(parts)


def _reader(content: bytes) -> Any:
    return lambda offset, count: content[offset : offset + count]


def test_pages_that_do_not_fill_their_column_are_damage() -> None:
    content = write(vectors_of(range(40), 16), [])
    vectors = read_footer(content)[4].value.items[0][1].value.items[2][3].value
    offset, size, values = vectors[9].value, vectors[7].value, vectors[5].value
    with pytest.raises(PageDamage, match="their column says"):
        list(read_pages(_reader(content), (offset, size, values + 16)))
    with pytest.raises(PageDamage, match="the file ends inside"):
        list(read_pages(_reader(content[: offset + size // 2]), (offset, size, values)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "does not end like"),
        (b"PAR1\xff\xff\xff\x7fPAR1", "more than the file"),
        (b"\x15\x15\x15\x03\x00\x00\x00PAR1", "cannot be read"),
        (b"\x00\x00\x02\x00\x00\x00PAR1", "followed by bytes"),
    ],
)
def test_a_footer_that_cannot_be_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(FooterDamage, match=re.escape(words)):
        read_footer(content)


def test_footers_of_pyarrow_come_back_as_they_were(tmp_path: Path) -> None:
    table = pa.table({"a": [1, None], "b": [["x"], []], "c": [{"d": 1.5}, None], "e": [True, False]})
    pq.write_table(table, tmp_path / "a.parquet", write_page_index=True)
    content = (tmp_path / "a.parquet").read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    assert thrift.write_struct(read_footer(content)) == content[-8 - length : -8]


thrift_values = st.deferred(
    lambda: st.one_of(
        st.integers(-(1 << 63), (1 << 63) - 1).map(thrift.i64),
        st.integers(-(1 << 31), (1 << 31) - 1).map(thrift.i32),
        st.booleans().map(lambda value: thrift.Field(thrift.TRUE if value else thrift.FALSE, value)),
        st.binary(max_size=20).map(thrift.binary),
        st.floats(allow_nan=False).map(lambda value: thrift.Field(thrift.DOUBLE, value)),
        st.lists(thrift_structs, max_size=20).map(thrift.structs),
        thrift_structs.map(thrift.nested),
    )
)
thrift_structs: Any = st.dictionaries(st.integers(1, 200), thrift_values, max_size=4)


@given(thrift_structs)
def test_any_struct_comes_back_as_it_was(fields: thrift.Struct) -> None:
    data = thrift.write_struct(fields)
    assert thrift.read_struct(data) == (fields, len(data))


@given(st.binary(max_size=60))
def test_any_bytes_are_a_struct_or_an_error(data: bytes) -> None:
    try:
        fields, end = thrift.read_struct(data)
    except thrift.ThriftError:
        return
    assert end <= len(data) and isinstance(fields, dict)


def test_every_flipped_bit_of_a_row_changes_its_hash_and_order_changes_no_sum() -> None:
    hasher = RowHasher(7, 4)
    matrix = vectors_of(range(20), 7)
    others = pa.table({"_id": range(20), "word": [f"w{row}" for row in range(20)], "n": [None, 1.5] * 10})
    hashes = hasher.row_hashes(others, matrix)
    order = np.random.default_rng(1).permutation(20)
    shuffled = hasher.row_hashes(others.take(pa.array(order)), np.ascontiguousarray(matrix[order]))
    assert total(shuffled) == total(hashes) and (shuffled == hashes[order]).all()
    raw = matrix.view(np.uint32)
    for bit in range(7 * 32):
        raw[3, bit // 32] ^= np.uint32(1 << bit % 32)
        changed = hasher.row_hashes(others, matrix)
        assert changed[3] != hashes[3] and (np.delete(changed, 3) == np.delete(hashes, 3)).all()
        raw[3, bit // 32] ^= np.uint32(1 << bit % 32)
    swapped = np.ascontiguousarray(matrix[[1, 0, *range(2, 20)]])
    assert total(hasher.row_hashes(others, swapped)) != total(hashes)
    assert total(
        hasher.row_hashes(others.set_column(2, "n", pa.array([None, 1.5] * 9 + [None, None])), matrix)
    ) != total(hashes)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([5, -5, 2**63 - 1, -(2**63), 0]),
        pa.array([bytes([n]) * 12 for n in range(5)], pa.binary(12)),
        pa.array(["", "a", "aa", "b", "é"]),
    ],
)
def test_ids_have_keys_of_their_own_wherever_the_array_begins(column: pa.Array) -> None:
    keys = id_keys(column)
    assert len({tuple(key) for key in keys.tolist()}) == len(column)
    assert (id_keys(column.slice(2)) == keys[2:]).all()
    assert (id_keys(pa.chunked_array([column.slice(0, 2), column.slice(2)])) == keys).all()


@pytest.mark.parametrize("page_bytes", [900, 20_000, 300_000, 900_000])
def test_pages_of_any_size_are_read_about_once(page_bytes: int) -> None:
    """Pages that are nearly alike; the last bytes of what is read at once may be read once more."""
    random, pages, count = np.random.default_rng(5), [], 1 + 9_000_000 // page_bytes
    for _ in range(count):
        body = random.bytes(page_bytes + int(random.integers(page_bytes // 100)))
        pages.append(page_header(4, BYTE_STREAM_SPLIT, len(body), len(body), zlib.crc32(body)) + body)
    content = b"".join(pages)
    asked: list[int] = []

    def read_at(offset: int, n_bytes: int) -> bytes:
        asked.append(len(content[offset : offset + n_bytes]))
        return content[offset : offset + n_bytes]

    assert len(list(read_pages(read_at, (0, len(content), 4 * count)))) == count
    assert sum(asked) < 1.3 * len(content)
    assert len(asked) <= 40
