"""What is told of documents that go into quarantine, in messages that fit the channel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.memory.ids import IdType
from engine.records import Quarantined
from gpu_clients.batches.batch import Batch, id_texts
from gpu_clients.diagnosis.finding import Rejection

TEXT_BYTES = 32 << 10
MESSAGE_BYTES = 96 << 10
MOST_ENTRIES = 50


def quarantine_messages(
    batch: Batch, rejected: dict[int, Rejection], id_type: IdType, *, keep_text: bool
) -> Iterator[list[dict[str, Any]]]:
    """The entries of a batch's rejected texts, a list for each message; one entry for every row of such a text."""
    owners = batch.text_of_row()
    rows = [row for row, text in enumerate(owners) if text in rejected]
    texts = batch.texts() if keep_text else []
    entries: list[dict[str, Any]] = []
    size_bytes = 0
    for row, identity in zip(rows, id_texts(id_type, batch.meta(), batch.n_rows, rows), strict=True):
        rejection = rejected[owners[row]]
        entry = Quarantined(
            id=identity,
            reason=rejection.failure.reason,
            detail=rejection.detail,
            attempts=rejection.attempts,
            text=_cut(texts[owners[row]]) if keep_text else None,
        )
        # as JSON a control character takes six bytes
        size_bytes += 2 * len((entry.text or "").encode()) + len(identity) + 6 * len(entry.detail) + 200
        if entries and (size_bytes > MESSAGE_BYTES or len(entries) >= MOST_ENTRIES):
            yield entries
            entries, size_bytes = [], 2 * len((entry.text or "").encode()) + 200
        entries.append({name: getattr(entry, name) for name in entry.__slots__})
    if entries:
        yield entries


def _cut(text: str) -> str:
    return text.encode("utf-8")[:TEXT_BYTES].decode("utf-8", "ignore")
