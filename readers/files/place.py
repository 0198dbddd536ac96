"""The place that `--source` names, here or on a store: a folder, a glob or one file; its name, and the files there."""

from __future__ import annotations

import fnmatch
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError
from engine.objects.url import SourceUrl, StoreUrl, scheme_of
from readers.files.opening import FilePath, format_of

if TYPE_CHECKING:
    from engine.objects.object_store import Stored
    from readers.files.objects import SourceStore

_log = logging.getLogger("engine.source")

_MAGIC = re.compile(r"[*?\[]")
_QUERY = re.compile(r"\?[^/?]*=")
"""What a signed URL has; a `?` of a glob is not followed by a name and a value."""
_HIDDEN = (".", "_")
"""Beginnings of names that other programs leave beside their data: `_SUCCESS`, `.part.crc`, `_temporary/`."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file as it lies there.

    Attributes:
        name: Its path below the root, with `/`; it stands in ids and in the ledger.
        path: Where it is.
        bytes, mtime_ns: Its size and the time it was last written.
        e_tag: What its store tells its versions apart by; empty for one of this machine.
    """

    name: str
    path: FilePath
    bytes: int
    mtime_ns: int
    e_tag: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder, or a folder with a pattern.

    Attributes:
        text: What `--source` was given.
        root: The folder, or the URL, that the files' names begin below.
        pattern: Which names count; `**` stands for any folders. None for all files of a known format.
    """

    text: str
    root: Path | SourceUrl
    pattern: str | None

    @classmethod
    def of(cls, text: str, settings: StoreUrl | None = None) -> Place:
        """What a text names; nothing has to be there yet.

        Args:
            settings: How the store of a URL is spoken to, whatever its own URL is; None for as the environment says.

        Raises:
            ConfigError: a URL that cannot be one of a store.
        """
        if scheme_of(text) is not None:
            return cls._of_url(text, settings)
        path = Path(text)
        if _MAGIC.search(text) is None or path.exists():
            is_file = path.is_file() or (not path.exists() and format_of(path.name) is not None)
            return cls(text, path.parent, path.name) if is_file else cls(text, path, None)
        parts = path.parts
        plain = next(number for number, part in enumerate(parts) if _MAGIC.search(part))
        return cls(text, Path(*parts[:plain]), "/".join(parts[plain:]))

    @classmethod
    def _of_url(cls, text: str, settings: StoreUrl | None) -> Place:
        """A name with a known ending is that of an object, unless a slash ends it."""
        if _QUERY.search(text):
            raise ConfigError(
                f"--source is {text.partition('?')[0]} with a query behind it; expected no more than the place: "
                "credentials come from the environment (AZURE_STORAGE_SAS_TOKEN, AWS_ACCESS_KEY_ID, ...)"
            )
        scheme, _, rest = text.partition("://")
        bucket, _, key = rest.partition("/")
        parts = key.split("/")
        plain = next((number for number, part in enumerate(parts) if _MAGIC.search(part)), None)
        if plain is None:
            plain = len(parts) - 1 if format_of(parts[-1]) is not None else len(parts)
        further: dict[str, Any] = {}
        if settings is not None:
            further = {"endpoint": settings.endpoint, "region": settings.region, "options": settings.options}
        root = SourceUrl(url="/".join([f"{scheme.lower()}://{bucket}", *parts[:plain]]), **further)
        return cls(text, root, "/".join(parts[plain:]) or None)

    @property
    def name(self) -> str:
        """The name of the folder, for folders, ledger and summary."""
        if isinstance(self.root, SourceUrl):
            return self.root.url.rpartition("/")[2]
        return self.root.absolute().resolve().name or "root"

    def files(self, *, without: tuple[Path | StoreUrl, ...] = (), store: SourceStore | None = None) -> list[FoundFile]:
        """All files, by name.

        Args:
            without: Folders and prefixes that are not looked into: those that the run itself writes.
            store: That of the root, when it is a URL.

        Raises:
            ConfigError: there are none, one is of no known format, or a folder cannot be read.
            SourceError: the store refuses, or does not answer.
        """
        found = []
        others: list[str] = []
        for name, file in self._named(without, store):
            if format_of(name) is not None:
                found.append(_look_at(name, file) if isinstance(file, Path) else _object(file, store))
            elif self.pattern is not None:
                raise ConfigError(
                    f"--source names {file if isinstance(file, Path) else name}, which is no .parquet, .jsonl, .ndjson "
                    "or .csv (the last three may be followed by .gz or .zst): narrow the glob, or name the file after "
                    "what is in it"
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

    def _named(
        self, without: tuple[Path | StoreUrl, ...], store: SourceStore | None
    ) -> Iterator[tuple[str, Path | Stored]]:
        if isinstance(self.root, Path):
            if not self.root.is_dir():
                raise ConfigError(f"--source is {self.text}, but there is no folder {self.root}: check the path")
            yield from self._walk({folder.resolve() for folder in without if isinstance(folder, Path)})
            return
        assert store is not None  # whoever looks at a URL has opened it
        below = f"{self.root}/"
        own = tuple(f"{one}/" for one in without if isinstance(one, StoreUrl) and f"{one}/".startswith(below))
        own = tuple(prefix for prefix in own if prefix != below)
        wanted = None if self.pattern is None else _matcher(self.pattern)
        for stored in store.list():
            parts = stored.name.split("/")
            if f"{below}{stored.name}".startswith(own) or (not stored.size_bytes and format_of(parts[-1]) is None):
                continue  # what a run writes, and what stands for a folder
            if any(part.startswith(_HIDDEN) for part in parts[:-1]):
                continue
            if self._counts(wanted, stored.name, parts[-1]):
                yield stored.name, stored

    def _counts(self, wanted: re.Pattern[str] | None, name: str, last: str) -> bool:
        """Whether a name is meant; hidden ones only where the pattern spells them out."""
        if wanted is None:
            return not last.startswith(_HIDDEN)
        return bool(wanted.fullmatch(name)) and not (last.startswith(_HIDDEN) and _MAGIC.match(self._last_part()))

    def _walk(self, left_out: set[Path]) -> Iterator[tuple[str, Path]]:
        """Name and path of what matches."""
        wanted = None if self.pattern is None else _matcher(self.pattern)
        is_deep = self.pattern is None or "/" in self.pattern or "**" in self.pattern

        def refuse(error: OSError) -> None:
            raise ConfigError(f"the folder {error.filename} cannot be read ({error.strerror}): make it readable")

        assert isinstance(self.root, Path)  # see `_named`
        for folder, folders, names in os.walk(self.root, onerror=refuse):
            below = Path(folder).relative_to(self.root)
            folders[:] = [
                name
                for name in folders
                if is_deep and not name.startswith(_HIDDEN) and (Path(folder) / name).resolve() not in left_out
            ]
            for file in names:
                name = (below / file).as_posix()
                if self._counts(wanted, name, file) and (Path(folder) / file).is_file():
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


def _object(stored: Stored, store: SourceStore | None) -> FoundFile:
    assert store is not None  # it listed the object
    path = store.path(stored.name, stored.size_bytes, stored.e_tag)
    return FoundFile(stored.name, path, stored.size_bytes, stored.modified_ns, stored.e_tag)
