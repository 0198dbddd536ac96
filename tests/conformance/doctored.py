"""Files that are wrong on purpose: a comparison that does not notice them would prove nothing."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.conformance.kinds import Kind, Written, write
from writers.shards.schema import EMBEDDING, writer_options

FLIPPED_ROW = 37


def doctored_files(folder: Path) -> dict[str, Written]:
    """One of each by what is wrong with it, with the rows that it should hold.

    `flipped-float32`, `flipped-float16`: one bit of the vector of row `FLIPPED_ROW`. `misplaced`: where its row groups
    lie.
    """
    made = {}
    for vector_type in ("float32", "float16"):
        made[f"flipped-{vector_type}"] = _shard(folder / vector_type, vector_type)
        _flip_one_bit(made[f"flipped-{vector_type}"].path)
    made["misplaced"] = _shard(folder / "misplaced", "float32")
    _move_first_column_to_the_end(made["misplaced"].path)
    return made


def _shard(folder: Path, vector_type: str) -> Written:
    folder.mkdir()
    return write(Kind(form="shard", vector_type=vector_type), folder)


def _flip_one_bit(path: Path) -> None:
    """The lowest bit of one number of one vector; pages and checksums are sound again."""
    with pq.ParquetFile(path) as parquet:
        schema = parquet.schema_arrow
        groups = [parquet.read_row_group(number) for number in range(parquet.num_row_groups)]
    row, number = FLIPPED_ROW, 5
    with pq.ParquetWriter(path, schema, **writer_options(schema)) as writer:
        for place, table in enumerate(groups):
            if place == 0:
                vectors = table[EMBEDDING].combine_chunks()
                matrix = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1).copy()
                matrix.view(f"u{matrix.itemsize}")[row, number] ^= 1
                wrong = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), type=vectors.type)
                table = table.set_column(table.num_columns - 1, schema.field(EMBEDDING), wrong)  # noqa: PLW2901
            writer.write_table(table, row_group_size=len(table))


def _move_first_column_to_the_end(path: Path) -> None:
    """A sound file whose row groups begin, going by their first column, behind their other columns.

    parquet-java gives a row group to the range of bytes that holds its middle, counted from its first column: here that
    lies behind the end of the file. A merge once wrote such files, and Spark read nothing of them without a word.
    """
    sound = pq.read_table(path)
    content = path.read_bytes()
    end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    body, footer = content[:end], content[end:-8]
    metadata = pq.read_metadata(path)
    for number in range(metadata.num_row_groups):
        column = metadata.row_group(number).column(0)
        old, size = column.data_page_offset, column.total_compressed_size
        at = footer.index(_page_offset(old))
        footer = footer[:at] + _page_offset(len(body)) + footer[at + len(_page_offset(old)) :]
        body += body[old : old + size]
    path.write_bytes(body + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    assert pq.read_table(path, page_checksum_verification=True).equals(sound)


def _page_offset(value: int) -> bytes:
    """Field 9 of a column's metadata as it stands in a footer: Thrift's header of the field, then a zigzag varint."""
    rest, encoded = value << 1, bytearray(b"\x26")
    while rest > 0x7F:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes(encoded) + bytes([rest])
