"""One file onto a cold store: created under its name, never replacing, and compared as the store has it.

    create -> answer: look: size and checksum are those of the file?             yes: done
           |                 another content, just created by us: delete, again  (a transfer that was damaged)
           |                 another content, not certainly ours: exit 4, untouched
           |-> the name is taken: look; the same content is our own, whose answer was lost
           |-> no answer, time-out, 5xx, 409: look; not there: wait, again       (unknown is not failed)
           `-> throttled: wait, again: a name that is taken meanwhile is looked at then

The checksum is the store's own: its ETag, where the preflight has seen that this is the MD5 of what it holds; elsewhere
the object is read back whole and its SHA-256 compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.errors import DamageError, SinkError
from engine.ledger import durable
from engine.objects.object_store import Absent, ObjectStore, Refused, Stored, Taken, Throttled, Unsure
from engine.objects.patience import Patience, refused, repeated

_DAMAGED_TRANSFERS = 3
_LOOKS = 2
"""A difference counts when two looks agree on it: one answer may be wrong."""
_READ_BYTES = 4 << 20

Tell = Callable[[str, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What an object has to be.

    Attributes:
        size_bytes: Its size.
        sha256: SHA-256 of all of it, hexadecimal.
        md5: MD5 of all of it where the store's ETags are that, else None.
    """

    size_bytes: int
    sha256: str
    md5: str | None


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    """The bytes of a file, which stay in the kernel's page cache.

    Raises:
        SinkError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            pages = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
    except (OSError, ValueError) as error:  # ValueError: it is empty
        raise SinkError(f"cannot read {path}, which was to be uploaded ({error}): repair its device") from error
    view = memoryview(pages)
    try:
        yield view
    finally:
        with contextlib.suppress(BufferError):  # a connection that was cut may hold it for a moment longer
            view.release()
            pages.close()


def upload(
    store: ObjectStore,
    name: str,
    path: Path,
    sha256: str,
    *,
    by_e_tag: bool,
    budget_s: float,
    tell: Tell | None = None,
) -> None:
    """Store a file under a new name; on return the store has it, whole.

    Args:
        sha256: Of the file, as its writer has it.
        by_e_tag: Whether the store's ETags are MD5 (`writers.cold.preflight`).
        budget_s: Seconds that tries may wait in all.
        tell: See `Patience`.

    Raises:
        DamageError: the name is taken by another content.
        SinkError: the store refuses, keeps giving other bytes, or does not answer within the budget.
    """
    with mapped(path) as view:
        md5 = hashlib.md5(view, usedforsecurity=False).hexdigest() if by_e_tag else None
        content = Content(size_bytes=len(view), sha256=sha256, md5=md5)
        patience = Patience(store.where(name), budget_s, tell)
        for _ in range(_DAMAGED_TRANSFERS):
            if _create(store, name, view, content, patience, budget_s):
                return
            durable.point("cold.before_delete")
            repeated(lambda: store.delete(name), store.where(name), budget_s)
    raise SinkError(
        f"the cold store has other bytes of {store.where(name)} than it was sent, {_DAMAGED_TRANSFERS} times: nothing "
        "of it is marked; see to the way there and to the store, then run the same command again"
    )


def _create(
    store: ObjectStore, name: str, view: memoryview, content: Content, patience: Patience, budget_s: float
) -> bool:
    """Create the object; False when it was created by us and came out damaged."""
    while True:
        is_ours = False
        durable.point("cold.before_put")
        try:
            store.put_new(name, view)
            is_ours = True
            trouble = Unsure("it said that it had stored the object, and does not have it")
        except Refused as error:
            raise refused(store.where(name), error) from error
        except Throttled as error:
            patience.wait(error)
            continue
        except (Taken, Unsure, Absent) as error:
            trouble = Unsure(str(error))
        durable.point("cold.after_put")
        found = _as_stored(store, name, content, budget_s)
        if found is True:
            durable.point("cold.after_check")
            return True
        if found is None:
            patience.wait(trouble)
        elif is_ours:
            return False
        else:
            raise DamageError(
                f"{store.where(name)} exists already with other content and is not in the ledger: another program "
                "wrote it; move it away, then run the same command again"
            )


def _as_stored(store: ObjectStore, name: str, content: Content, budget_s: float) -> bool | None:
    """Whether the store has the object with this content; None when it has no such object."""
    for _ in range(_LOOKS):
        try:
            stored = repeated(lambda: store.head(name), store.where(name), budget_s)
            if is_same(store, stored, content, budget_s):
                return True
        except Absent:
            return None
    return False


def is_same(store: ObjectStore, stored: Stored, content: Content, budget_s: float) -> bool:
    """Whether an object is what it has to be, by size and checksum.

    Raises:
        Absent: it has gone.
        SinkError: see `repeated`.
    """
    if stored.size_bytes != content.size_bytes:
        return False
    if content.md5 is not None:
        return stored.e_tag == content.md5
    return sha256_of(store, stored.name, stored.size_bytes, budget_s) == content.sha256


def sha256_of(store: ObjectStore, name: str, size_bytes: int, budget_s: float) -> str:
    """The SHA-256 of an object, read in ranges.

    Raises:
        Absent: it has gone.
        SinkError: see `repeated`.
    """
    digest = hashlib.sha256()
    for start in range(0, size_bytes, _READ_BYTES):
        length = min(_READ_BYTES, size_bytes - start)
        digest.update(repeated(lambda at=start, n=length: store.get_range(name, at, n), store.where(name), budget_s))  # type: ignore[misc]
    return digest.hexdigest()
