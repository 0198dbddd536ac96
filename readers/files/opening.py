"""How a file is opened: its format by its name, its bytes as a stream or by ranges, its errors as the engine's.

All access to files goes through here, whether they lie on this machine or are objects of a store (`FilePath`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Union

from engine.errors import ConfigError, EngineError, SourceError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from readers.files.objects import ObjectPath

FilePath = Union[Path, "ObjectPath"]
"""Where a file is; the second is not imported unless there is a store."""

_T = TypeVar("_T")
_LOOK_BYTES = 256 << 10
"""What a look asks a store for at once: it wants a few rows."""
_FOOTER_BLOCK_BYTES = 16 << 10
"""pyarrow asks for the last 64 KiB, and what is more than three blocks is one request."""
_BUFFER_BYTES = 256 << 10
"""Of each column's pages, while an object is read."""
_PARQUET_MEMORY_BYTES = 48 << 20
"""What the blocks of an object take, those on their way too."""
_LOOKS_AT_ONCE = 16
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


def at_once(look: Callable[[FilePath], _T], paths: Sequence[FilePath]) -> list[_T]:
    """What a look at each file says; many at once of objects, which answer slowly."""
    if all(isinstance(path, Path) for path in paths):
        return [look(path) for path in paths]
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as threads:
        return list(threads.map(look, paths))


def checksum(path: FilePath) -> str:
    """SHA-256, 32 hexadecimal digits of it, over the head and the tail of a file: Parquet's footer is its tail.

    Raises:
        SourceError: the file cannot be read.
    """
    with reading(path):
        size_bytes = path.stat().st_size if isinstance(path, Path) else path.size_bytes
        digest = hashlib.sha256(read_at(path, 0, _HEAD_BYTES))
        digest.update(read_at(path, max(0, size_bytes - _TAIL_BYTES), _TAIL_BYTES))
    return digest.hexdigest()[:32]


def read_at(path: FilePath, offset: int, size: int) -> bytes:
    """Some bytes of a file, fewer at its end.

    Raises:
        OSError: it cannot be read.
    """
    if isinstance(path, Path):
        with path.open("rb") as stream:
            stream.seek(offset)
            return stream.read(size)
    with contextlib.closing(path.open()) as remote:
        return bytes(remote.read_range(offset, min(size, remote.size_bytes - offset)))


def for_a_look(path: FilePath) -> FilePath:
    """The same file, of which less is read ahead."""
    return path if isinstance(path, Path) else dataclasses.replace(path, block_bytes=_LOOK_BYTES)


def open_stream(path: FilePath, compression: str) -> io.RawIOBase | io.BufferedIOBase:
    """A file's content from its beginning, decompressed."""
    if isinstance(path, Path):
        if compression == ".gz":
            return gzip.open(path, "rb")
        if compression == ".zst":
            import pyarrow as pa  # noqa: PLC0415 - JSONL without zstd needs no pyarrow

            return _Stream(pa.input_stream(str(path), compression="zstd"))
        return path.open("rb", buffering=0)
    if compression == ".zst":
        import pyarrow as pa  # noqa: PLC0415 - as above

        return _Stream(pa.CompressedInputStream(pa.PythonFile(path.open(), "r"), "zstd"))
    stream = _Stream(path.open())
    return gzip.GzipFile(fileobj=stream) if compression == ".gz" else stream


@contextlib.contextmanager
def open_parquet(path: FilePath, columns: Sequence[str]) -> Iterator[pq.ParquetFile]:
    """A Parquet file for reading some of its columns; an object takes a fixed memory, however large its row groups."""
    import pyarrow as pa  # noqa: PLC0415 - sources without Parquet do without it
    import pyarrow.parquet as pq  # noqa: PLC0415

    if isinstance(path, Path):
        with pa.OSFile(str(path), "rb") as source, pq.ParquetFile(source, pre_buffer=False) as file:
            yield file
        return
    footer = parquet_footer(path)
    paths = [footer.schema.column(number).path for number in range(footer.num_columns)]
    n_blocks = sum(any(f"{path}.".startswith(f"{column}.") for column in columns) for path in paths) + 2
    block_bytes = min(path.block_bytes, max(_BUFFER_BYTES, _PARQUET_MEMORY_BYTES // (2 * n_blocks)))
    blocks = dataclasses.replace(path, block_bytes=block_bytes)
    with (
        pa.PythonFile(blocks.open(n_blocks), "r") as source,
        pq.ParquetFile(source, metadata=footer, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file,
    ):
        yield file


def parquet_footer(path: FilePath) -> pq.FileMetaData:
    """What a Parquet file says of itself."""
    import pyarrow as pa  # noqa: PLC0415 - as above
    import pyarrow.parquet as pq  # noqa: PLC0415

    if isinstance(path, Path):
        return pq.read_metadata(str(path))
    with pa.PythonFile(dataclasses.replace(path, block_bytes=_FOOTER_BLOCK_BYTES).open(), "r") as source:
        return pq.read_metadata(source)


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
def reading(path: FilePath) -> Iterator[None]:
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
