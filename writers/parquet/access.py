"""Where files are read from: this machine, or a cold store, whose files have URLs for paths."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from writers.cold.settings import ColdSettings
from writers.files.hashed_file import HashedFile

if TYPE_CHECKING:
    from engine.objects.object_store import Stored
    from engine.objects.remote_file import RemoteFile


class FileAccess:
    """Opens files by path; beneath the URL of a store its objects, and all others on this machine."""

    def __init__(self, cold: ColdSettings | None) -> None:
        """
        Args:
            cold: The store, or None when every path is one of this machine.
        """
        self._cold = cold
        self._store = None if cold is None else cold.open()
        self._base = "" if self._store is None else self._store.where()

    @classmethod
    def from_dict(cls, cold: dict[str, Any] | None) -> FileAccess:
        """For a worker: of `ColdSettings.as_dict`."""
        return cls(None if cold is None else ColdSettings.from_dict(cold))

    @property
    def is_local(self) -> bool:
        """Whether there is no store."""
        return self._store is None

    def path(self, folder: Path, file: str) -> str:
        """Where a file of a data set's folder is: with a store, the object beneath the folder's name."""
        return f"{folder}/{file}" if self._store is None else self._store.where(f"{folder.name}/{file}")

    def is_remote(self, path: str) -> bool:
        """Whether it is an object."""
        return bool(self._base) and path.startswith(self._base)

    def hashed(self, path: str) -> HashedFile:
        """A file that is hashed as it is read.

        Raises:
            FileNotFoundError: it is not there.
            OSError: it cannot be opened.
            SinkError: the store does not answer.
        """
        if not self.is_remote(path):
            return HashedFile(path)
        return RemoteHashedFile(self._remote(path))

    def source(self, path: str) -> pa.NativeFile:
        """A file as pyarrow reads it; see `hashed` for errors."""
        return pa.PythonFile(self._remote(path), mode="r") if self.is_remote(path) else pa.OSFile(path)

    def exists(self, path: str) -> bool:
        """Whether it is there."""
        if not self.is_remote(path):
            return Path(path).exists()
        try:
            self._remote(path).close()
        except FileNotFoundError:
            return False
        return True

    def names(self, folder: Path) -> list[str]:
        """Names of the files of a data set's folder, sorted; none when there is no such folder.

        Raises:
            SinkError: the store does not answer.
        """
        if self._store is None:
            return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        return sorted(self._listed(folder))

    def sizes(self, folder: Path) -> dict[str, int]:
        """Sizes of the objects of a data set's folder, by name.

        Raises:
            SinkError: the store does not answer.
        """
        return {name: stored.size_bytes for name, stored in self._listed(folder).items()}

    def size_and_mtime(self, path: str) -> tuple[int, int]:
        """Size of a file and its time of modification in ns, 0 for an object.

        Raises:
            FileNotFoundError: it is not there.
        """
        if self.is_remote(path):
            with contextlib.closing(self._remote(path)) as remote:
                return remote.size_bytes, 0
        stat = Path(path).stat()
        return stat.st_size, stat.st_mtime_ns

    def size_and_sha256(self, path: str) -> tuple[int, str]:
        """Size and SHA-256 of a file.

        Raises:
            OSError: it cannot be read.
        """
        with contextlib.closing(self.hashed(path)) as file:
            return file.size_bytes, file.hexdigest()

    def delete(self, path: str) -> None:
        """Delete an object; its absence is no error.

        Raises:
            SinkError: the store refuses, or does not answer.
        """
        from engine.objects.patience import repeated  # noqa: PLC0415 - only a URL pays for the library

        assert self._store is not None  # the path is beneath its URL
        assert self._cold is not None
        store, name = self._store, path.removeprefix(self._base)
        repeated(lambda: store.delete(name), path, self._cold.budget_s)

    def upload(self, path: Path, to: str, sha256: str) -> None:
        """Upload a file under a new name, and compare it there.

        Raises:
            DamageError: the name is taken by another content.
            SinkError: see `writers.cold.upload`.
        """
        from writers.cold.upload import upload  # noqa: PLC0415 - only a URL pays for the library

        assert self._store is not None  # the path is beneath its URL
        assert self._cold is not None
        cold = self._cold
        name = to.removeprefix(self._base)
        upload(self._store, name, path, sha256, by_e_tag=cold.by_e_tag, budget_s=cold.budget_s)

    def _listed(self, folder: Path) -> dict[str, Stored]:
        from engine.objects.patience import repeated  # noqa: PLC0415 - only a URL pays for the library

        assert self._store is not None  # the folder is that of a store
        assert self._cold is not None
        store, stem = self._store, f"{folder.name}/"
        found = repeated(lambda: list(store.list(stem)), store.where(stem), self._cold.budget_s)
        return {stored.name.removeprefix(stem): stored for stored in found}

    def _remote(self, path: str) -> RemoteFile:
        from engine.objects.remote_file import RemoteFile  # noqa: PLC0415 - only a URL pays for the library

        assert self._store is not None  # the path is beneath its URL
        assert self._cold is not None
        return RemoteFile(self._store, path.removeprefix(self._base), self._cold.budget_s)


class RemoteHashedFile(HashedFile):
    """An object that is hashed as it is read."""

    def __init__(self, remote: RemoteFile) -> None:
        """
        Args:
            remote: The object; closed with this.
        """
        self._remote = remote
        self._begin(remote.size_bytes, 0)

    def read_whole(self, into: memoryview) -> memoryview:
        """All bytes, not hashed; `into` has to hold them."""
        data = self._remote.read_at(0, self.size_bytes)
        into[: len(data)] = data
        return into[: len(data)]

    def close(self) -> None:
        """Close it; once more does nothing."""
        if not self.closed:
            self.closed = True
            self._remote.close()

    def _read(self, offset: int, count: int) -> bytes:
        return bytes(self._remote.read_at(offset, count))


THIS_MACHINE = FileAccess(None)
"""Opens files of this machine."""
