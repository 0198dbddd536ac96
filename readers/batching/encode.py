"""Encoding: a batch becomes the bytes of a document slot, which are sent and written as they are."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from engine.errors import ConfigError
from engine.memory.slots import HEADER_BYTES, Header, VectorLayout
from readers.batching.ports import IdTypeMismatch, SourceIds
from readers.batching.unicode import is_encodable
from readers.batching.window import Batch

_BYTES_PER_TOKEN = 4
_TOKENS_PER_TEXT = 2
_SMALLEST_ROOM_BYTES = 256

Refuse = Callable[[Any, str, str, str], None]
"""Puts one document into quarantine: `_id`, reason, detail, text as it would have been sent."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A batch as it goes into a slot.

    Attributes:
        batch: What was encoded.
        ids, columns, fanout, body: The parts of a document slot (see `engine.memory.slots`).
        n_characters: Characters of all texts.
    """

    batch: Batch
    ids: bytes
    columns: bytes
    fanout: bytes
    body: bytes
    n_characters: int

    def write(self, slot: memoryview, generation: int, sequence: int) -> None:
        """Fill a slot; the header comes last, and the caller hands the slot's number on afterwards."""
        flags = self.batch.flags
        payload = b"".join((self.ids, flags, self.columns, self.fanout, self.body))
        slot[HEADER_BYTES : HEADER_BYTES + len(payload)] = payload
        n_texts = len(self.batch.texts)
        Header(
            generation,
            len(self.batch.ids),
            sequence,
            len(self.ids),
            len(flags),
            len(self.columns),
            len(self.body),
            n_texts,
            len(self.fanout),
            # UTF-8 bytes tell tokens better than characters do: about four a token in English and in Japanese alike
            len(self.body) // _BYTES_PER_TOKEN + _TOKENS_PER_TEXT * n_texts,
            self.n_characters,
        ).pack_into(slot)


class BatchEncoder:
    """Encodes batches; halves what does not fit, and refuses the documents that cannot be encoded."""

    def __init__(
        self, ids: SourceIds, layout: VectorLayout, slot_bytes: int, max_request_bytes: int, refuse: Refuse
    ) -> None:
        """
        Args:
            ids: How the source's ids are packed and checked.
            layout: Its meta area has to hold a batch's ids, flags and columns, its matrix a batch's rows.
            slot_bytes: Size of a document slot.
            max_request_bytes: Bytes that the JSON array of a batch's texts may have.
        """
        self._source_ids = ids
        self._pack_ids = ids.pack
        self._max_rows = layout.max_rows
        self._max_meta_bytes = layout.meta_capacity_bytes
        self._max_payload_bytes = slot_bytes - HEADER_BYTES
        self._max_body_bytes = max_request_bytes
        self._refuse = refuse

    def encode(self, batch: Batch) -> Iterator[Encoded]:
        """The batch in one piece, or in several where it does not fit; without the documents that were refused."""
        sound = self._encodable(batch)
        if sound is None:
            return
        batch, ids, body = sound
        columns = orjson.dumps(batch.columns) if batch.columns else b""
        fanout = b"" if batch.fanout is None else struct.pack(f"<{len(batch)}H", *batch.fanout)
        meta_bytes = len(ids) + len(batch) + len(columns)
        if (
            len(body) <= self._max_body_bytes
            and meta_bytes <= self._max_meta_bytes
            and meta_bytes + len(fanout) + len(body) <= self._max_payload_bytes
            and len(batch) <= self._max_rows
        ):
            yield Encoded(batch, ids, columns, fanout, body, sum(map(len, batch.texts)))
        elif len(batch) > 1:
            middle = len(batch) // 2
            yield from self.encode(batch.part(range(middle)))
            yield from self.encode(batch.part(range(middle, len(batch))))
        else:
            detail = (
                f"its _id and columns have {meta_bytes} bytes (room for {self._max_meta_bytes}), its text {len(body)} "
                f"(room for {min(self._max_body_bytes, self._max_payload_bytes - meta_bytes)})"
            )
            self._refuse(batch.ids[0], "too_large", detail, batch.texts[0])

    def _encodable(self, batch: Batch) -> tuple[Batch, bytes, bytes] | None:
        """The batch without what JSON or the id column cannot hold, its ids and its texts encoded; None when empty."""
        try:
            return batch, self._pack_ids(batch.ids), orjson.dumps(batch.texts)
        except (TypeError, IdTypeMismatch):  # a lone surrogate in a text, or a stray id
            pass
        kept = []
        for row in range(len(batch)):
            text = batch.texts[row if batch.fanout is None else batch.fanout[row]]
            misfit = self._source_ids.misfit(batch.ids[row])
            if misfit is not None:
                self._refuse(batch.ids[row], "id_type", misfit, text)
            elif not is_encodable(text):
                detail = "the text holds bytes that are not valid UTF-8 or lone surrogates"
                self._refuse(batch.ids[row], "invalid_unicode", detail, text)
            else:
                kept.append((row, text))
        if not kept:
            return None
        sound = _rebuilt(batch, kept)
        return sound, self._pack_ids(sound.ids), orjson.dumps(sound.texts)


def _rebuilt(batch: Batch, kept: list[tuple[int, str]]) -> Batch:
    """Some rows of a batch with their texts; equal texts are still neighbours."""
    rows = [row for row, _ in kept]
    texts: list[str] = []
    fanout: list[int] = []
    for _, text in kept:
        is_repeat = batch.fanout is not None and texts and texts[-1] == text
        if not is_repeat:
            texts.append(text)
        fanout.append(len(texts) - 1)
    return Batch(
        [batch.ids[row] for row in rows],
        [batch.columns[row] for row in rows] if batch.columns else [],
        bytes(batch.flags[row] for row in rows),
        texts,
        fanout if len(texts) < len(rows) else None,
    )


def room_for_a_text(max_text_bytes: int, max_request_bytes: int, slot_bytes: int, meta_capacity_bytes: int) -> int:
    """Bytes that one text may have as JSON so that it fits, alone, into a request and a slot.

    Raises:
        ConfigError: the slots are too small for any text worth the name.
    """
    around = 4  # the brackets of the array and a fan-out of one row
    in_slot = slot_bytes - HEADER_BYTES - meta_capacity_bytes - around
    room = min(max_text_bytes, max_request_bytes - around, in_slot)
    if room < min(max_text_bytes, _SMALLEST_ROOM_BYTES):
        raise ConfigError(
            f"a document slot of {slot_bytes} bytes leaves {in_slot} for a text, and a request {max_request_bytes}; "
            f"expected at least {_SMALLEST_ROOM_BYTES}: raise --ring-bytes or lower --batch-size"
        )
    return room
