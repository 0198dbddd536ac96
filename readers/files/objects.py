"""Source files that are objects of a store: which there are, and how one is read.

An object is what its size and its ETag say: every range that is read has to be of that version, so an object that is
replaced while it is read is noticed at once, whatever the store.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from engine.errors import ConfigError, SourceError
from engine.objects.object_store import Absent, ObjectStore, Stored
from engine.objects.patience import Ends, repeated
from engine.objects.remote_file import BLOCK_BYTES, MAX_BLOCKS, RemoteFile
from engine.objects.url import SourceUrl

Tell = Callable[[str, str], None]
SOURCE_ENDS = Ends(SourceError, "the object store", "what is committed counts")


@dataclass(frozen=True, slots=True)
class SourceStore:
    """The store that source files lie on.

    Attributes:
        url: What their names begin below.
        budget_s: Seconds that one act may wait for the store in all its tries.
        tell: Told where and why whenever something has to be tried again.
    """

    url: SourceUrl
    budget_s: float
    tell: Tell | None = None
    _store: ObjectStore = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_store", ObjectStore(self.url, ""))

    def where(self, name: str = "") -> str:
        """The URL of an object, for messages."""
        return self._store.where(name)

    def list(self) -> list[Stored]:
        """All objects, with their names below the URL.

        Raises:
            SourceError: the store refuses, or does not answer.
            ConfigError: there is no such bucket.
        """
        try:
            return repeated(lambda: [*self._store.list()], self.where(), self.budget_s, self.tell, SOURCE_ENDS)
        except Absent as error:
            raise ConfigError(f"--source is {self.url}, but there is no such place ({error}): check the URL") from error

    def path(self, key: str, size_bytes: int, e_tag: str) -> ObjectPath:
        """An object in a version."""
        return ObjectPath(self, key, size_bytes, e_tag)

    def open(self, path: ObjectPath, *, block_bytes: int, max_blocks: int) -> RemoteFile:
        """An object as a file; its errors are those of `readers.files.opening.reading`."""
        return RemoteFile(
            self._store,
            path.key,
            self.budget_s,
            tell=self.tell,
            ends=SOURCE_ENDS,
            version=Stored(path.key, path.size_bytes, path.e_tag),
            block_bytes=block_bytes,
            max_blocks=max_blocks,
        )


@dataclass(frozen=True, slots=True)
class ObjectPath:
    """Where a source file is, when it is an object.

    Attributes:
        store: The store.
        key: Its name below the store's URL.
        size_bytes, e_tag: Its version.
        block_bytes: What is asked for at once.
    """

    store: SourceStore
    key: str
    size_bytes: int
    e_tag: str
    block_bytes: int = BLOCK_BYTES

    @property
    def name(self) -> str:
        """The last part of its name."""
        return self.key.rpartition("/")[2]

    @property
    def version(self) -> tuple[str, int, str]:
        """For `SourceStore.path`."""
        return self.key, self.size_bytes, self.e_tag

    def __str__(self) -> str:
        return self.store.where(self.key)

    def open(self, max_blocks: int = MAX_BLOCKS) -> RemoteFile:
        """The object as a file; nothing is asked of the store yet."""
        return self.store.open(self, block_bytes=self.block_bytes, max_blocks=max_blocks)
