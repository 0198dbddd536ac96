"""Footer and ids of one input, without its vectors: what is looked at before a merge begins."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from writers.parquet.foreign import Matcher
from writers.parquet.opening import UNREADABLE, open_parquet, unreadable
from writers.shards import schema
from writers.workers.current_file import working_on


class InputScan:
    """An input of which footer and ids are read.

    Attributes:
        rows: Rows by its footer.
        other_bytes: Bytes of all columns but the vectors, encoded but not compressed, by the footer.
    """

    def __init__(self, path: str, name: str, matcher: Matcher) -> None:
        """Open a file and compare its footer with the schema.

        Args:
            path: The file.
            name: As it is called in messages.
            matcher: Compares it with the schema.

        Raises:
            DamageError: it is missing, cannot be read, or has no sound footer.
            ConfigError: it does not fit the schema.
            SinkError: this process is out of file handles or memory.
        """
        self._name = name
        self._schema = matcher.schema
        self._source: pa.NativeFile | None = None
        working_on(name)
        try:
            self._source = pa.OSFile(path)
            self._parquet = open_parquet(name, self._source)
            metadata = self._parquet.metadata
            self.rows = int(metadata.num_rows)
            vectors = matcher.check(name, self._parquet)
            self.other_bytes = 0
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                self.other_bytes += group.total_byte_size - group.column(vectors).total_uncompressed_size
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
        kind = self._schema.arrow.field(schema.ID).type
        try:
            for number in range(self._parquet.num_row_groups):
                column = self._parquet.read_row_group(number, columns=columns, use_threads=False).column(columns[0])
                yield from (column if column.type == kind else column.cast(kind)).chunks
        except UNREADABLE as error:
            raise unreadable(self._name, error) from error

    def close(self) -> None:
        """Close the file."""
        working_on("")
        if self._source is not None:
            self._source.close()

    def __enter__(self) -> InputScan:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
