"""The quarantine of a run: its entries, and taking some out so that they are tried again."""

from __future__ import annotations

from typing import Any

from engine.ledger.quarantine import id_text, read_quarantine, replace_quarantine
from engine.ledger.runfolder import RunFolders, RunLock


def entries_with(folders: RunFolders, reasons: tuple[str, ...]) -> list[dict[str, Any]]:
    """The entries with one of the reasons, all when none is named.

    Raises:
        ConfigError: there is no such run.
        DamageError: a line of the file is damaged.
    """
    folders.require_run()
    return [entry for entry in read_quarantine(folders.quarantine) if not reasons or entry["reason"] in reasons]


def retry(folders: RunFolders, reasons: tuple[str, ...], ids: tuple[str, ...]) -> int:
    """Take entries out, so that the next run reads their documents again; returns how many.

    Raises:
        ConfigError: there is no such run.
        LockHeld: a run is going on; it has the quarantine in its hands.
    """
    folders.require_run()
    if not folders.quarantine.exists():
        return 0
    lock = RunLock(folders.lock)
    try:
        entries = read_quarantine(folders.quarantine)
        kept = [entry for entry in entries if not _is_meant(entry, reasons, ids)]
        if len(kept) < len(entries):
            replace_quarantine(folders.quarantine, kept)
        return len(entries) - len(kept)
    finally:
        lock.release()


def _is_meant(entry: dict[str, Any], reasons: tuple[str, ...], ids: tuple[str, ...]) -> bool:
    value = entry["_id"]
    names = {id_text(entry), str(value["$oid"] if isinstance(value, dict) and "$oid" in value else value)}
    return (not reasons or entry["reason"] in reasons) and (not ids or not names.isdisjoint(ids))


def as_text(entries: list[dict[str, Any]]) -> str:
    """The entries for a person, one a line."""
    if not entries:
        return "the quarantine is empty"
    lines = [
        f"{id_text(entry)}  {entry['reason']}  attempts {entry['attempts']}  {entry['detail']}" for entry in entries
    ]
    return "\n".join(
        [*lines, f"{len(entries):,} documents; `engine quarantine retry` lets the next run try them again"]
    )
