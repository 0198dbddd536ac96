"""Footer and ids of one input, without its vectors: what is looked at before a merge begins.

A merge of a million small files opens each of them twice, so every step counts here. The bytes that are needed, and
only these, are read to where they would stand if the whole file were in memory; Arrow decodes them there. Files beyond
the size of that memory are left to Arrow altogether.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from writers.parquet.foreign import Matcher
from writers.parquet.inputs import UNREADABLE, first_page, open_parquet, read_into, unreadable
from writers.shards import schema as sc
from writers.workers.current_file import working_on

_TAIL_BYTES = 8 << 10
_END_BYTES = 8  # the footer's length and the magic
_SLACK_BYTES = 128
"""Arrow reads a little beyond a column chunk of writers that are known to have counted too few bytes."""


class InputScan:
    """An input of which footer and ids are read.

    Attributes:
        rows: Rows by its footer.
        other_bytes: Bytes of all columns but the vectors, encoded but not compressed, by the footer.
    """

    def __init__(self, path: str, name: str, matcher: Matcher, image: memoryview) -> None:
        """Open a file and compare its footer with the schema.

        Args:
            path: The file.
            name: As it is called in messages.
            matcher: Compares it with the schema.
            image: Memory for a file that fits; used again for the next, so that at most one may be open.

        Raises:
            DamageError: it is missing, cannot be read, or has no sound footer.
            ConfigError: it does not fit the schema.
            SinkError: this process is out of file handles or memory.
        """
        self._name = name
        self._schema = matcher.schema
        self._fd = -1
        working_on(name)
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            size_bytes = os.fstat(self._fd).st_size
            if size_bytes <= len(image):
                self._image: memoryview | None = image[:size_bytes]
                self._load_footer(self._image)
                source: pa.NativeFile = pa.BufferReader(pa.py_buffer(self._image))
            else:
                self._image = None
                source = pa.OSFile(path)
            self._parquet = open_parquet(name, source)
            metadata = self._parquet.metadata
            self.rows = int(metadata.num_rows)
            matched = matcher.check(name, self._parquet)
            self._ids = matched.ids
            self._groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            self.other_bytes = 0
            for group in self._groups:
                self.other_bytes += group.total_byte_size - group.column(matched.vectors).total_uncompressed_size
        except BaseException as error:
            self.close()
            if isinstance(error, UNREADABLE):
                raise unreadable(name, error) from error
            raise

    def ids(self) -> Iterator[pa.Array]:
        """The ids in file order.

        Raises:
            DamageError: they cannot be read.
        """
        columns = [self._schema.id_source]
        kind = self._schema.arrow.field(sc.ID).type
        try:
            for number, group in enumerate(self._groups):
                if self._image is not None:
                    for leaf in self._ids:
                        self._load_chunk(self._image, group.column(leaf))
                column = self._parquet.read_row_group(number, columns=columns, use_threads=False).column(columns[0])
                yield from (column if column.type == kind else column.cast(kind)).chunks
        except UNREADABLE as error:
            raise unreadable(self._name, error) from error

    def close(self) -> None:
        """Close the file."""
        working_on("")
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> InputScan:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load_footer(self, image: memoryview) -> None:
        loaded = max(0, len(image) - _TAIL_BYTES)
        self._load(image, loaded, len(image))
        if len(image) >= _END_BYTES:
            begin = len(image) - _END_BYTES - int.from_bytes(image[-_END_BYTES : -_END_BYTES // 2], "little")
            if 0 <= begin < loaded:
                self._load(image, begin, loaded)

    def _load_chunk(self, image: memoryview, chunk: pq.ColumnChunkMetaData) -> None:
        begin = first_page(chunk)
        end = begin + chunk.total_compressed_size + _SLACK_BYTES
        if 0 <= begin < end:  # what cannot be is for Arrow to refuse
            self._load(image, begin, min(end, len(image)))

    def _load(self, image: memoryview, begin: int, end: int) -> None:
        if begin + read_into(self._fd, image[begin:end], begin) < end:
            raise OSError("it has become shorter")
