"""A batch that a client has taken, what is known of its troubles, and its documents' ids as people read them."""

from __future__ import annotations

import dataclasses
import enum
import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from engine.memory import ids
from engine.memory.ids import IdType
from engine.memory.slots import HEADER_BYTES, Header, RowMeta, body_of, fanout_of, meta_of
from gpu_clients.http.connection import Exchange

_HISTORY = struct.Struct("<IBBH")  # low half of the sequence, returns and suspicion (4 bits each), server, text
_HISTORY_OFFSET = HEADER_BYTES - _HISTORY.size
_MOST_RETURNS = 15


class Suspicion(enum.IntEnum):
    """What a batch is suspected of, worst last."""

    NONE = 0
    NEARBY = 1  # it was in flight, among others, when a server died
    ALONE = 2  # a server died when it had nothing else in flight
    TEXT = 3  # a server died of one text of it


@dataclass(frozen=True, slots=True)
class BatchHistory:
    """What the clients have found out about a batch that may hold a text which kills servers.

    It travels in the last eight bytes of the document slot's header, which the reader leaves alone: a client whose
    server died gives the batch back, and the next one has to know. The batch's sequence number stands in it, so that
    a history left in a slot that was filled anew means nothing.

    Attributes:
        suspicion: How bad it is.
        server: Number of the server that died of the text; only with `TEXT`.
        text: Number of that text in the batch; only with `TEXT`.
        returns: How often it was given back after it had failed, at most 15.
    """

    suspicion: Suspicion = Suspicion.NONE
    server: int = 0
    text: int = 0
    returns: int = 0


class Batch:
    """A document slot that this client has taken.

    Attributes:
        number: Its slot.
        view: The slot's bytes.
        header: Its header.
        n_texts: Texts in its body; fewer than rows when identical texts are embedded once.
        attempts: Requests for it that failed, but for overload.
        n_overloaded: Requests for it that were answered with "overloaded".
        overloaded_s: When the first of these was, monotonic seconds.
        lost: Whether a connection was lost while its answer was waited for.
        sent_s: When it was last sent, monotonic seconds.
        exchange: Its request in flight, good for cancelling it.
    """

    __slots__ = (
        "attempts", "exchange", "header", "lost", "n_overloaded", "n_texts", "number", "overloaded_s", "sent_s", "view",
    )  # fmt: skip

    def __init__(self, number: int, view: memoryview, generation: int) -> None:
        self.number = number
        self.view = view
        self.header = Header.unpack_from(view, generation)
        self.n_texts = self.header.n_texts or self.header.n_rows
        self.attempts = 0
        self.n_overloaded = 0
        self.overloaded_s = 0.0
        self.lost = False
        self.sent_s = 0.0
        self.exchange: Exchange | None = None

    @property
    def n_rows(self) -> int:
        """Documents in it."""
        return self.header.n_rows

    @property
    def history(self) -> BatchHistory:
        """What is suspected of it."""
        sequence, marks, server, text = _HISTORY.unpack_from(self.view, _HISTORY_OFFSET)
        if not marks or sequence != self.header.sequence & 0xFFFFFFFF:
            return BatchHistory()
        return BatchHistory(Suspicion(marks & 0xF), server, text, marks >> 4)

    @history.setter
    def history(self, history: BatchHistory) -> None:
        sequence = self.header.sequence & 0xFFFFFFFF
        marks = min(history.returns, _MOST_RETURNS) << 4 | history.suspicion
        _HISTORY.pack_into(self.view, _HISTORY_OFFSET, sequence, marks, history.server & 0xFF, history.text)

    def note_return(self) -> None:
        """Count that it is given back; only when it has failed, which need not be the server's fault."""
        if self.attempts or self.n_overloaded:
            history = self.history
            self.history = dataclasses.replace(history, returns=history.returns + 1)

    def body(self) -> memoryview:
        """The JSON array of its texts, as a view into the slot."""
        return body_of(self.view, self.header)

    def texts(self) -> list[str]:
        """Its texts."""
        parsed: list[str] = orjson.loads(self.body())
        return parsed

    def meta(self) -> RowMeta:
        """Ids, flags and columns, as views into the slot."""
        return meta_of(self.view, self.header)

    def fanout(self) -> npt.NDArray[np.uint16] | None:
        """Which text belongs to which row, uint16 (n_rows,); None when text i belongs to row i."""
        if not self.header.fanout_bytes:
            return None
        return np.frombuffer(fanout_of(self.view, self.header), dtype="<u2")

    def text_of_row(self) -> list[int]:
        """The number of each row's text."""
        fanout = self.fanout()
        return list(range(self.n_rows)) if fanout is None else fanout.tolist()


def id_texts(kind: IdType, meta: RowMeta, n_rows: int, rows: list[int]) -> list[str]:
    """The ids of some rows as canonical extended JSON; plain decimal numbers for an int64 column."""
    values: list[Any] = list(ids.unpack(kind, meta.ids, n_rows))
    return [_id_text(kind, values[row]) for row in rows]


def _id_text(kind: IdType, value: Any) -> str:
    if kind is IdType.INT64:
        return str(value)
    if kind is IdType.OBJECTID:
        return json.dumps({"$oid": value.hex()})
    text: str = value.decode("utf-8")
    return json.dumps(text) if kind is IdType.STRING else text
