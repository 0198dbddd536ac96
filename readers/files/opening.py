"""How a file is opened: its format by its name, its bytes as a stream or by ranges, its errors as the engine's.

All access to files goes through here, so that a store of objects would be opened here, too.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError, EngineError, SourceError

if TYPE_CHECKING:
    import pyarrow as pa

_HEAD_BYTES = 4 << 10
_TAIL_BYTES = 16 << 10
_FORMATS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
_COMPRESSIONS = (".gz", ".zst")


@dataclass(frozen=True, slots=True)
class Format:
    """The format of a file.

    Attributes:
        kind: `parquet`, `jsonl` or `csv`.
        compression: `.gz`, `.zst`, or empty.
    """

    kind: str
    compression: str


def format_of(name: str) -> Format | None:
    """The format that a file's name says, None for an unknown one."""
    lower = name.lower()
    compression = next((ending for ending in _COMPRESSIONS if lower.endswith(ending)), "")
    inner = lower.removesuffix(compression)
    kind = next((kind for ending, kind in _FORMATS.items() if inner.endswith(ending)), None)
    return None if kind is None or (kind == "parquet" and compression) else Format(kind, compression)


def known_format(name: str) -> Format:
    """`format_of` for a file that was listed.

    Raises:
        ConfigError: it is none.
    """
    found = format_of(name)
    if found is None:
        raise ConfigError(f"{name} is of no known format")
    return found


def checksum(path: Path, size_bytes: int) -> str:
    """SHA-256, 32 hexadecimal digits of it, over the head and the tail of a file: Parquet's footer is its tail.

    Raises:
        SourceError: the file cannot be read.
    """
    with reading(path), path.open("rb") as stream:
        digest = hashlib.sha256(stream.read(_HEAD_BYTES))
        stream.seek(max(0, size_bytes - _TAIL_BYTES))
        digest.update(stream.read(_TAIL_BYTES))
    return digest.hexdigest()[:32]


def open_stream(path: Path, compression: str) -> io.RawIOBase | io.BufferedIOBase:
    """A file's content from its beginning, decompressed."""
    if compression == ".gz":
        return gzip.open(path, "rb")
    if compression == ".zst":
        import pyarrow as pa  # noqa: PLC0415 - JSONL without zstd needs no pyarrow

        return _Stream(pa.input_stream(str(path), compression="zstd"))
    return path.open("rb", buffering=0)


def open_ranges(path: Path) -> pa.NativeFile:
    """A file for reads at any place."""
    import pyarrow as pa  # noqa: PLC0415 - as above

    return pa.OSFile(str(path), "rb")


class _Stream(io.RawIOBase):
    """Arrow's stream as one of Python's."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """The edge at which trouble with a source file becomes an error of the engine.

    Raises:
        SourceError: it is gone, cannot be read, or is damaged.
    """
    try:
        yield
    except EngineError:
        raise
    except FileNotFoundError as error:
        raise SourceError(f"the source file {path} is gone: put it back, then run the same command again") from error
    except (OSError, EOFError, zlib.error, ValueError) as error:  # ArrowInvalid is a ValueError
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise SourceError(
            f"the source file {path} cannot be read ({reason}): repair it, put it back from a copy or move it away, "
            "then run the same command again"
        ) from error
