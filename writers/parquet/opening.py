"""Opening Parquet files with pyarrow, and what a file that cannot be read is to the user."""

from __future__ import annotations

import contextlib
from typing import NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import ConfigError, DamageError, EngineError, SinkError
from writers.parquet.access import FileAccess

UNREADABLE = (OSError, pa.ArrowException, ValueError, OverflowError, MemoryError)
"""What reading a damaged file raises: also text that is not UTF-8, and sizes beyond memory."""

OUT_OF_RESOURCES = (12, 23, 24)  # ENOMEM, ENFILE, EMFILE
_BUFFER_BYTES = 128 << 10  # what is larger, as most pages are, goes into its place without a copy through the buffer
_END_BYTES = 8  # length of the footer, magic
_MAGIC_OF_ENCRYPTED = b"PARE"
_SIGNATURE_BYTES = 28
"""Behind a readable footer of a file with encrypted columns. Source: Apache Parquet, "Parquet Modular Encryption"."""


def open_parquet(
    name: str, source: pa.NativeFile, *, in_memory: bool = False, checksums: bool = True
) -> pq.ParquetFile:
    """Open a file; checksums of pages are compared where it has them.

    Args:
        name: As it is called in messages.
        source: The file.
        in_memory: Whether its bytes need no buffer, because they are in memory.
        checksums: Whether they are compared; not of a file whose SHA-256 the caller compares.

    Columns that are encrypted behind a readable footer are looked for, because pyarrow ends the whole process when the
    metadata of one is asked for.

    Raises:
        ConfigError: it is encrypted, all of it or some columns.
        UNREADABLE: it has no sound footer.
    """
    end: bytes = source.read_at(_END_BYTES, max(0, source.size() - _END_BYTES))
    if end[4:] == _MAGIC_OF_ENCRYPTED:
        raise _encrypted(name)
    buffer = 0 if in_memory else _BUFFER_BYTES
    parquet = pq.ParquetFile(source, pre_buffer=False, buffer_size=buffer, page_checksum_verification=checksums)
    if int.from_bytes(end[:4], "little") == parquet.metadata.serialized_size + _SIGNATURE_BYTES:
        raise _encrypted(name)
    return parquet


def _encrypted(name: str) -> ConfigError:
    return ConfigError(f"{name} is encrypted: write it anew without encryption, or move it away")


def footer_of(parquet: pq.ParquetFile) -> dict[bytes, bytes]:
    """The key-value metadata of a file."""
    pairs: dict[bytes, bytes] = dict(parquet.metadata.metadata or {})
    return pairs


def check_committed(access: FileAccess, path: str, name: str, sha256: str, error: EngineError) -> NoReturn:
    """Raise `error`, which an input has caused; as damage when the file is not the one that was committed.

    A flipped bit in a footer can look like another schema or another count: the SHA-256 tells.
    """
    if sha256:
        with contextlib.suppress(OSError):
            if access.size_and_sha256(path)[1] != sha256:
                raise DamageError(
                    f"{name} is not what was committed (another SHA-256; {error}): restore it from a copy; "
                    "nothing was removed"
                ) from error
    raise error


def unreadable(name: str, error: Exception) -> DamageError | SinkError:
    """What a failed read of an input is to the user."""
    if isinstance(error, FileNotFoundError):
        return DamageError(f"{name} is missing: restore it from a copy")
    if isinstance(error, OSError) and error.errno in OUT_OF_RESOURCES:
        return SinkError(f"cannot open {name} ({error.strerror}): raise the limit of open files, or use fewer --jobs")
    reason = getattr(error, "strerror", None) or (str(error) or type(error).__name__).splitlines()[0]
    return DamageError(f"{name} cannot be read ({reason}): restore it from a copy")
