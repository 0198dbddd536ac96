"""Footers over which pyarrow ends the process that reads them: one flipped bit makes one of a sound file.

Where a histogram of levels has another length than its column's levels call for, the constructor of the column's
metadata throws, and nothing above it in pyarrow catches that (seen with 25.0 and 26.0). An old one that writes no
histograms has none to throw over.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


def make_fatal(path: Path) -> None:
    """Make a sound file one that ends its reader; the test is skipped where pyarrow has an exception for everything."""
    tried = subprocess.run([sys.executable, "-m", __name__, str(path)], check=False)
    if tried.returncode:
        pytest.skip("this pyarrow has an exception for every damage of this footer")


def damage_fatally(content: bytes) -> bytes | None:
    """Flip the first bit of a file's footer that makes it fatal; None when there is none."""
    damaged = bytearray(content)
    schema = pq.ParquetFile(pa.BufferReader(content)).schema_arrow
    # those of the last column, which is asked for, stand last
    for at in reversed(list(_heads_of_lists_of_numbers(content))):
        for bit in range(8):
            damaged[at] ^= 1 << bit
            if _ends_its_reader(bytes(damaged), schema):
                return bytes(damaged)
            damaged[at] ^= 1 << bit
    return None


def _heads_of_lists_of_numbers(content: bytes) -> Iterator[int]:
    """Where the footer has a list of int64, as histograms are, or what looks like one: of a field's head (0x.9) and the
    list's (0x.6) the places. Each try costs a process, so not every byte is tried."""
    n_footer = int.from_bytes(content[-8:-4], "little")
    for at in range(len(content) - 8 - n_footer, len(content) - 9):
        if content[at] & 0xF == 9 and content[at + 1] & 0xF == 6:
            yield from (at, at + 1)


def _ends_its_reader(content: bytes, schema: pa.Schema) -> bool:
    """Whether the metadata of its last column is fatal, and its schema is what it was."""
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            parquet = pq.ParquetFile(pa.BufferReader(content), pre_buffer=False)
            if parquet.schema_arrow.equals(schema):
                for number in range(parquet.num_row_groups):
                    parquet.metadata.row_group(number).column(parquet.metadata.num_columns - 1)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGABRT


if __name__ == "__main__":  # in a process of its own, whose threads do not matter to a fork
    path = Path(sys.argv[1])
    found = damage_fatally(path.read_bytes())
    if found is None:
        sys.exit(1)
    path.write_bytes(found)
