"""The place of a row by its id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine.memory.ids import IdType
from writers.parquet.access import THIS_MACHINE, FileAccess
from writers.parquet.merge_schema import MergeSchema
from writers.parquet.opening import UNREADABLE, unreadable
from writers.shards.schema import ID

_BATCH_ROWS = 1 << 16


def values_of(text: str, id_type: IdType) -> list[Any]:
    """What an id that a person wrote may be in the `_id` column: a number, a string, 24 hexadecimal digits.

    Empty when no id of that type is written so. An id in extended JSON may be written as it stands in the file, or as
    the string or number that it means.
    """
    if id_type is IdType.INT64:
        return [int(text)] if text.lstrip("+-").isdecimal() and abs(int(text)) < 1 << 63 else []
    if id_type is IdType.OBJECTID:
        try:
            raw = bytes.fromhex(text)
        except ValueError:
            return []
        return [raw] if len(raw) == 12 else []
    if id_type is IdType.EXTJSON:
        import orjson  # noqa: PLC0415 - only these ids are written as JSON

        written = [text, orjson.dumps(text).decode()]
        if len(text) == 24 and all(letter in "0123456789abcdef" for letter in text):
            written.append(f'{{"$oid":"{text}"}}')
        if text.lstrip("-").isdecimal():
            written += [f'{{"$numberInt":"{text}"}}', f'{{"$numberLong":"{text}"}}', text]
        return list(dict.fromkeys(written))
    return [text]


def find_row(
    files: Sequence[str], schema: MergeSchema, values: list[Any], access: FileAccess = THIS_MACHINE
) -> tuple[int, int] | None:
    """The first row with one of these ids: position of its file, and its number there; None when there is none.

    Row groups whose statistics leave them out are not read.

    Raises:
        DamageError: a file cannot be read.
    """
    if not values:
        return None
    kind = schema.arrow.field(ID).type
    wanted = pa.array(values, type=kind)
    for number, path in enumerate(files):
        try:
            with pq.ParquetFile(access.source(path), pre_buffer=False) as parquet:
                row = _row_in(parquet, schema.id_source, wanted, values)
        except UNREADABLE as error:
            raise unreadable(path, error) from error
        if row is not None:
            return number, row
    return None


def _row_in(parquet: pq.ParquetFile, column: str, wanted: pa.Array, values: list[Any]) -> int | None:
    metadata = parquet.metadata
    leaf = next(at for at in range(metadata.num_columns) if metadata.schema.column(at).path == column)
    first = 0
    for group in range(metadata.num_row_groups):
        described = metadata.row_group(group)
        start = first
        first += described.num_rows
        statistics = described.column(leaf).statistics
        if statistics is not None and statistics.has_min_max and not _may_hold(statistics, values):
            continue
        for batch in parquet.iter_batches(_BATCH_ROWS, [group], [column], use_threads=False):
            found = pc.is_in(batch.column(0).cast(wanted.type), value_set=wanted)
            at = pc.index(found, True).as_py()
            if at >= 0:
                return int(start + at)
            start += batch.num_rows
    return None


def _may_hold(statistics: pq.Statistics, values: list[Any]) -> bool:
    try:
        return any(statistics.min <= value <= statistics.max for value in values)
    except TypeError:  # statistics of another type than the ids: they say nothing
        return True
