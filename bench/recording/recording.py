"""A recording as columns: every sample of a run folder's `history`, the finest that is left of each time."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from engine.errors import ConfigError
from engine.recording.frames import EVENT, FORMAT, SAMPLE, SCHEMA, each_frame, sample_of
from engine.recording.history import EVENTS, OLD, RESOLUTIONS

Column = npt.NDArray[np.float32]
Times = npt.NDArray[np.float64]
_TRIES = 5


@dataclass(slots=True, kw_only=True)
class Recording:
    """A recording.

    Attributes:
        at: End of every sample, Unix seconds, float64 (n_samples,).
        seconds: How long each is, float64 (n_samples,).
        columns: float32 (n_samples,) by field: `rows`, `reader.page_s`, `server-0.tokens`, ... A count that a sample
            does not have is 0, a level NaN.
        servers: URLs; the columns of the server at position k begin with `server-k.`.
        events: In order of time; each has `at` and `event`.
    """

    at: Times
    seconds: Times
    columns: dict[str, Column]
    servers: list[str]
    events: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.at)

    @property
    def begin(self) -> Times:
        """Begin of every sample."""
        return self.at - self.seconds

    def column(self, name: str, missing: float = 0.0) -> Column:
        """A column, also of a field that nobody recorded."""
        found = self.columns.get(name)
        return np.full(len(self), missing, np.float32) if found is None else found

    def part(self, begin: float, end: float) -> Recording:
        """The samples that end within a stretch of time; events stay with the whole."""
        low, high = np.searchsorted(self.at, [begin, end], side="right")
        return self.between(int(low), int(high))

    def between(self, low: int, high: int) -> Recording:
        """The samples of a range of positions."""
        columns = {name: values[low:high] for name, values in self.columns.items()}
        return Recording(
            at=self.at[low:high], seconds=self.seconds[low:high], columns=columns, servers=self.servers, events=[]
        )


@dataclass(slots=True)
class _Block:
    """Samples of one schema: values float32 (n, n_fields)."""

    fields: list[str]
    kinds: str
    at: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    planes: list[bytes] = field(default_factory=list)

    def values(self) -> npt.NDArray[np.float32]:
        raw = np.frombuffer(b"".join(self.planes), np.uint8).reshape(len(self.planes), 4, len(self.fields))
        return np.ascontiguousarray(raw.transpose(0, 2, 1)).view("<f4")[:, :, 0]


def read_recording(folder: Path) -> Recording:
    """Read a recording, also while a run appends to it.

    Args:
        folder: `RunFolders.history`.

    Raises:
        ConfigError: there is none, or a newer version wrote it.
        OSError: it cannot be read.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"no recording in {folder.parent}: runs of this version make one; check --hot-dir and the run's names"
        )
    servers: list[str] = []
    blocks: list[_Block] = []
    limit = np.inf
    for name in RESOLUTIONS:  # the finest first; a coarser one only says what was before
        found = _blocks(_bytes_of(folder / name), servers)
        kept = [_before(block, limit) for block in found]
        kept = [block for block in kept if block.at]
        blocks = kept + blocks
        if kept:
            limit = min(at - seconds for block in kept for at, seconds in zip(block.at, block.seconds, strict=True))
    recording = _joined(blocks, servers)
    recording.events = _events(_bytes_of(folder / EVENTS))
    return recording


def _bytes_of(path: Path) -> bytes:
    """A file with the one before it; read anew when it was full meanwhile."""
    old = path.with_name(path.name + OLD)
    for _ in range(_TRIES):
        before = path.stat().st_ino if path.exists() else 0
        data = [part.read_bytes() for part in (old, path) if part.exists()]
        if not path.exists() or path.stat().st_ino == before:
            break
    return b"".join(data)


def _blocks(data: bytes, servers: list[str]) -> list[_Block]:
    """The samples of a file by schema, in order; columns of clients are named by their server."""
    blocks: list[_Block] = []
    numbers: dict[int, _Block] = {}
    for kind, payload in each_frame(data):
        if kind == SCHEMA:
            schema = orjson.loads(payload)
            if schema.get("format", 0) > FORMAT:
                raise ConfigError(
                    f"the recording has format {schema['format']}, this version knows {FORMAT}: use the newer engine"
                )
            fields = _by_server(schema["fields"], schema.get("servers", {}), servers)
            block = _Block(fields, schema["kinds"])
            numbers[schema["id"]] = block
            blocks.append(block)
        elif kind == SAMPLE:
            try:
                at, seconds, number, planes = sample_of(payload)
            except (zlib.error, struct.error):
                continue
            owner = numbers.get(number)
            if owner is None or len(planes) != 4 * len(owner.fields):
                continue  # its schema was damaged
            if owner is not blocks[-1]:
                owner = numbers[number] = _Block(owner.fields, owner.kinds)
                blocks.append(owner)
            owner.at.append(at)
            owner.seconds.append(seconds)
            owner.planes.append(planes)
    return [block for block in blocks if block.at]


def _by_server(fields: list[str], roles: dict[str, str], servers: list[str]) -> list[str]:
    """Fields with the position of the server in place of the role; the same server may have another role later."""
    renamed = {}
    for role, url in roles.items():
        if url not in servers:
            servers.append(url)
        renamed[role] = f"server-{servers.index(url)}"
    found = []
    for name in fields:
        role, dot, rest = name.partition(".")
        found.append(renamed.get(role, role) + dot + rest)
    return found


def _before(block: _Block, limit: float) -> _Block:
    """The samples that end before a moment."""
    n = sum(at <= limit + 1e-3 for at in block.at)
    if n == len(block.at):
        return block
    keep = [index for index, at in enumerate(block.at) if at <= limit + 1e-3]
    kept = _Block(block.fields, block.kinds)
    kept.at = [block.at[index] for index in keep]
    kept.seconds = [block.seconds[index] for index in keep]
    kept.planes = [block.planes[index] for index in keep]
    return kept


def _joined(blocks: list[_Block], servers: list[str]) -> Recording:
    at = np.array([value for block in blocks for value in block.at], np.float64)
    seconds = np.array([value for block in blocks for value in block.seconds], np.float64)
    columns: dict[str, Column] = {}
    row = 0
    for block in blocks:
        values = block.values()
        block.planes.clear()
        n = len(block.at)
        for position, (name, kind) in enumerate(zip(block.fields, block.kinds, strict=True)):
            column = columns.get(name)
            if column is None:
                column = columns[name] = np.full(len(at), 0.0 if kind == "c" else np.nan, np.float32)
            column[row : row + n] = values[:, position]
        row += n
    order = np.argsort(at, kind="stable")
    if np.any(np.diff(order) != 1):
        at, seconds = at[order], seconds[order]
        columns = {name: values[order] for name, values in columns.items()}
    return Recording(at=at, seconds=seconds, columns=columns, servers=servers)


def _events(data: bytes) -> list[dict[str, Any]]:
    events = []
    for kind, payload in each_frame(data):
        if kind == EVENT:
            event = orjson.loads(payload)
            if isinstance(event, dict) and "at" in event:
                events.append(event)
    return sorted(events, key=lambda event: float(event["at"]))
