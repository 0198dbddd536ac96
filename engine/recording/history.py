"""The files of a recording: three resolutions side by side, and the events, each bounded.

    fine      every sample                       2 x 3 MiB
    minutes   samples of a minute                2 x 12 MiB
    coarse    samples of ten minutes             2 x 10 MiB
    events    what happened                      2 x 2 MiB

A file that is full takes the place of the one before it (`.old`), so that a month never needs more than 54 MiB and no
step of the recording ever reads or rewrites what is there. A reader takes each stretch of time from the finest file
that still has it. Nothing here is durable on purpose: after a power cut the ledger is what counts, and the tail of a
recording may be torn. What a crash cuts off of a coarse sample is in the finer files.
"""

from __future__ import annotations

import os
from pathlib import Path

from engine.ledger import durable
from engine.recording.frames import event_frame, sample_frame, schema_frame
from engine.recording.sampling import Merged, Sample

MIB = 1 << 20
OLD = ".old"
EVENTS = "events"
RESOLUTIONS = ("fine", "minutes", "coarse")
PERIODS_S = {"fine": 0.0, "minutes": 60.0, "coarse": 600.0}
LIMITS_BYTES = {"fine": 3 * MIB, "minutes": 12 * MIB, "coarse": 10 * MIB, EVENTS: 2 * MIB}
"""Of one file; there are two of each."""
_MISSING = float("nan")


class BoundedFile:
    """A file that frames are appended to, and the one before it."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._fd = -1
        self._size_bytes = 0

    def has_room_for(self, n_bytes: int) -> bool:
        """Whether these bytes go into the file that is open; False when none is."""
        return self._fd >= 0 and self._size_bytes + n_bytes <= self._limit_bytes

    def begin(self, head: bytes) -> None:
        """Go on with the file that is there, or, when it is full, with an empty one; either gets `head` next.

        Raises:
            OSError: it cannot be opened or written.
        """
        self.close()
        if self._path.exists() and self._path.stat().st_size + len(head) >= self._limit_bytes * 0.98:
            self._path.replace(self._path.with_name(self._path.name + OLD))
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._size_bytes = os.fstat(self._fd).st_size
        self.append(head)

    def append(self, data: bytes) -> None:
        """Append frames, in one call: a crash tears the last frame at most.

        Raises:
            OSError: they cannot be written; what was written of them is passed over by readers.
        """
        durable.point("history.append")
        if data:
            self._size_bytes += os.write(self._fd, data)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Series:
    """The samples of one resolution."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self._file = BoundedFile(path, limit_bytes)
        self._counts: list[str] = []
        self._levels: list[str] = []
        self._known: set[str] = set()
        self._servers: dict[str, str] = {}
        self._number = 0

    def append(self, sample: Sample, servers: dict[str, str]) -> None:
        """Append a sample; fields that it has and those before did not make a new schema.

        Raises:
            OSError: it cannot be written.
        """
        new_counts = [name for name in sample.counts if name not in self._known]
        new_levels = [name for name in sample.levels if name not in self._known]
        is_new = bool(new_counts or new_levels or servers != self._servers)
        if is_new:
            self._counts += new_counts
            self._levels += new_levels
            self._known.update(new_counts, new_levels)
            self._servers = dict(servers)
            self._number = (self._number + 1) & 0xFFFF
        values = [sample.counts.get(name, 0.0) for name in self._counts]
        values += [sample.levels.get(name, _MISSING) for name in self._levels]
        data = sample_frame(sample.at, sample.seconds, self._number, values)
        if not self._file.has_room_for(len(data)):
            self._file.begin(self._schema())
        elif is_new:
            data = self._schema() + data
        self._file.append(data)

    def _schema(self) -> bytes:
        kinds = "c" * len(self._counts) + "l" * len(self._levels)
        return schema_frame(self._number, self._counts + self._levels, kinds, self._servers)

    def close(self) -> None:
        """Close its file; a later `append` opens it again."""
        self._file.close()


class History:
    """The recording of a run folder, appended to by the run that holds its lock."""

    def __init__(self, folder: Path, limits_bytes: dict[str, int] | None = None) -> None:
        """Prepare; nothing is opened yet."""
        limits = limits_bytes or LIMITS_BYTES
        self._folder = folder
        self._series = {name: Series(folder / name, limits[name]) for name in RESOLUTIONS}
        self._merged = {name: Merged(PERIODS_S[name]) for name in RESOLUTIONS[1:]}
        self._events = BoundedFile(folder / EVENTS, limits[EVENTS])

    def append(self, sample: Sample, servers: dict[str, str]) -> None:
        """Append a sample to the finest file, and to the others what is full.

        Raises:
            OSError: it cannot be written.
        """
        self._folder.mkdir(mode=0o750, exist_ok=True)
        self._series["fine"].append(sample, servers)
        found: Sample | None = sample
        for name, merged in self._merged.items():  # each is made of the one before it: few are added up often
            if found is not None and (found := merged.add(found)) is not None:
                self._series[name].append(found, servers)

    def note(self, event: dict[str, object]) -> None:
        """Append an event.

        Raises:
            OSError: it cannot be written.
        """
        self._folder.mkdir(mode=0o750, exist_ok=True)
        data = event_frame(event)
        if not self._events.has_room_for(len(data)):
            self._events.begin(b"")
        self._events.append(data)

    def flush(self, servers: dict[str, str]) -> None:
        """Append what the coarser files have not got yet: the run is over.

        Raises:
            OSError: it cannot be written.
        """
        finer: Sample | None = None
        for name, merged in self._merged.items():
            full = merged.add(finer) if finer is not None else None
            finer = full if full is not None else merged.take()
            if finer is not None:
                self._series[name].append(finer, servers)

    def close(self) -> None:
        """Close the files."""
        for series in self._series.values():
            series.close()
        self._events.close()
