"""The quarantine of a run: its entries, and taking some out so that they are tried again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from engine.ledger import durable
from engine.ledger.quarantine import each_entry, id_text, replace_quarantine
from engine.ledger.runfolder import RunFolders, RunLock


def entries_with(folders: RunFolders, reasons: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The entries with one of the reasons, all when none is named; one at a time is held in memory.

    Raises:
        ConfigError: there is no such run.
        DamageError: while they are gone through: a line of the file is damaged.
    """
    folders.require_run()
    return (entry for entry in each_entry(folders.quarantine) if not reasons or entry["reason"] in reasons)


def retry(folders: RunFolders, reasons: tuple[str, ...], ids: tuple[str, ...]) -> int:
    """Take entries out, so that the next run reads their documents again; returns how many.

    Raises:
        ConfigError: there is no such run.
        LockHeld: a run is going on; it has the quarantine in its hands.
    """
    folders.require_run()
    if not folders.quarantine.exists():
        return 0
    durable.arm("quarantine")
    lock = RunLock(folders.lock)
    try:
        wanted = set(ids)
        released = sum(_is_meant(entry, reasons, wanted) for entry in each_entry(folders.quarantine))
        if released:
            kept = (entry for entry in each_entry(folders.quarantine) if not _is_meant(entry, reasons, wanted))
            replace_quarantine(folders.quarantine, kept)
        return released
    finally:
        lock.release()


def _is_meant(entry: dict[str, Any], reasons: tuple[str, ...], ids: set[str]) -> bool:
    if reasons and entry["reason"] not in reasons:
        return False
    if not ids:
        return True
    value = entry["_id"]
    return id_text(entry) in ids or str(value["$oid"] if isinstance(value, dict) and "$oid" in value else value) in ids


def as_text(entries: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The entries for a person, one a line, in parts."""
    count = 0
    for entry in entries:
        yield f"{id_text(entry)}  {entry['reason']}  attempts {entry['attempts']}  {entry['detail']}\n"
        count += 1
    if count:
        yield f"{count:,} documents; `engine quarantine retry` lets the next run try them again"
    else:
        yield "the quarantine is empty"
