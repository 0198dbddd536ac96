"""The place that `--source` names: a folder, a glob or one file; what it is called, and which files lie there."""

from __future__ import annotations

import fnmatch
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError
from readers.files.opening import format_of

_log = logging.getLogger("engine.source")

_MAGIC = re.compile(r"[*?\[]")
_HIDDEN = (".", "_")
"""Beginnings of names that other programs leave beside their data: `_SUCCESS`, `.part.crc`, `_temporary/`."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file as it lies there.

    Attributes:
        name: Its path below the root, with `/`; it stands in ids and in the ledger.
        path: Where it is.
        bytes, mtime_ns: Its size and the time it was last written.
    """

    name: str
    path: Path
    bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Place:
    """A folder, or a folder with a pattern.

    Attributes:
        text: What `--source` was given.
        root: The folder that the files' names begin below.
        pattern: Which names count; `**` stands for any folders. None for all files of a known format.
    """

    text: str
    root: Path
    pattern: str | None

    @classmethod
    def of(cls, text: str) -> Place:
        """What a text names; nothing has to be there yet."""
        path = Path(text)
        if _MAGIC.search(text) is None or path.exists():
            is_file = path.is_file() or (not path.exists() and format_of(path.name) is not None)
            return cls(text, path.parent, path.name) if is_file else cls(text, path, None)
        parts = path.parts
        plain = next(number for number, part in enumerate(parts) if _MAGIC.search(part))
        return cls(text, Path(*parts[:plain]), "/".join(parts[plain:]))

    @property
    def name(self) -> str:
        """The name of the folder, for folders, ledger and summary."""
        return self.root.absolute().resolve().name or "root"

    def files(self, *, without: tuple[Path, ...] = ()) -> list[FoundFile]:
        """All files, by name.

        Args:
            without: Folders that are not looked into: those that the run itself writes.

        Raises:
            ConfigError: there are none, one is of no known format, or a folder cannot be read.
        """
        if not self.root.is_dir():
            raise ConfigError(f"--source is {self.text}, but there is no folder {self.root}: check the path")
        left_out = {folder.resolve() for folder in without}
        found = []
        others: list[str] = []
        for name, path in self._walk(left_out):
            if format_of(name) is not None:
                found.append(_look_at(name, path))
            elif self.pattern is not None:
                raise ConfigError(
                    f"--source names {path}, which is no .parquet, .jsonl, .ndjson or .csv (the last three may be "
                    "followed by .gz or .zst): narrow the glob, or name the file after what is in it"
                )
            else:
                others.append(name)
        if not found:
            raise ConfigError(
                f"--source is {self.text}, but there is no .parquet, .jsonl, .ndjson or .csv file"
                + (f" ({len(others)} files of other kinds, for example {min(others)})" if others else "")
                + ": check the path"
            )
        if others:
            _log.warning("files_passed_over n=%d example=%s: of no known format", len(others), min(others))
        return sorted(found, key=lambda file: file.name)

    def _walk(self, left_out: set[Path]) -> Iterator[tuple[str, Path]]:
        """Name and path of what matches; hidden names only where the pattern spells them out."""
        wanted = None if self.pattern is None else _matcher(self.pattern)
        is_deep = self.pattern is None or "/" in self.pattern or "**" in self.pattern

        def refuse(error: OSError) -> None:
            raise ConfigError(f"the folder {error.filename} cannot be read ({error.strerror}): make it readable")

        for folder, folders, names in os.walk(self.root, onerror=refuse):
            below = Path(folder).relative_to(self.root)
            folders[:] = [
                name
                for name in folders
                if is_deep and not name.startswith(_HIDDEN) and (Path(folder) / name).resolve() not in left_out
            ]
            for file in names:
                name = (below / file).as_posix()
                if wanted is None:
                    if file.startswith(_HIDDEN):
                        continue
                elif not wanted.fullmatch(name) or (file.startswith(_HIDDEN) and _MAGIC.match(self._last_part())):
                    continue
                if (Path(folder) / file).is_file():
                    yield name, Path(folder) / file

    def _last_part(self) -> str:
        return (self.pattern or "").rpartition("/")[2]


def _matcher(pattern: str) -> re.Pattern[str]:
    """A pattern of `/`-separated parts; `**` stands for any number of folders."""
    parts = pattern.split("/")
    text = ""
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        if part == "**":
            text += r".*" if is_last else r"(?:[^/]+/)*"
        else:
            inner = fnmatch.translate(part).removeprefix("(?s:").removesuffix(r")\Z").removesuffix(r")\z")
            text += inner.replace(".*", "[^/]*") + ("" if is_last else "/")
    return re.compile(text, re.DOTALL)


def _look_at(name: str, path: Path) -> FoundFile:
    try:
        name.encode()
        stat = path.stat()
    except UnicodeEncodeError:
        raise ConfigError(f"the file {str(path)!r} has a name that is not valid UTF-8: rename it") from None
    except OSError as error:
        raise ConfigError(f"the file {path} cannot be looked at ({error.strerror}): make it readable") from error
    return FoundFile(name, path, stat.st_size, stat.st_mtime_ns)
