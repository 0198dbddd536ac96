"""Screening: which documents of a page can be embedded, and what becomes of the others.

    missing or null                   quarantine `missing`
    not a string                      quarantine `not_text`
    empty, or only white space        quarantine `empty`
    invalid UTF-8, lone surrogates    quarantine `invalid_unicode`
    an `_id` that does not fit        quarantine `id_type`
    what the source could not read    quarantine `unreadable`, or what the source says
    too long                          cut and flagged, or quarantine `too_long`
    NUL and other control characters  embedded like any other

The usual page passes a few checks over whole columns; documents are looked at one by one only where a check fails.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import orjson

from engine.records import Quarantined
from engine.words import start_of_word
from readers.batching.columns import ColumnReader
from readers.batching.paths import MISSING, getter
from readers.batching.ports import Document, SourceIds, UnreadableDocument
from readers.batching.skip import SkipSet

KEPT_TEXT_BYTES = 32 << 10
"""As JSON: a quarantine entry has to fit into a message."""

LONGEST_ID_TEXT = 16 << 10
_get_id = itemgetter("_id")
_FAR_CHARACTERS_PER_TOKEN = 32
"""Ordinary text has 2 to 6; only texts beyond that many are looked at for words that no server would see."""
_JSON_BYTES_PER_CHARACTER = 6  # the most that JSON makes of one: \u0000


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPolicy:
    """What is done with a document's text.

    Attributes:
        text_field: Path of the text, dotted when it lies in an embedded document.
        prompt: Text put before every document's text; may be empty.
        max_text_bytes: Bytes that a text may have as JSON, prompt included.
        max_characters: Characters that a text may have, prompt included, or None; only with `truncate`.
        max_tokens: Tokens that the servers take of a text, or None; only with `truncate`. A text that is far longer
            is cut behind so many words, which are more tokens: the server cuts the rest as it would have cut the whole.
        truncate: Whether texts that are too long are cut (and flagged) or quarantined as `too_long`.
        keep_text: Whether quarantine entries carry the text.
    """

    text_field: str
    prompt: str
    max_text_bytes: int
    max_characters: int | None
    max_tokens: int | None
    truncate: bool
    keep_text: bool


@dataclass(slots=True)
class Rows:
    """Documents that can be embedded, column by column.

    Attributes:
        ids: Their `_id`s.
        texts: What is sent for them, prompt included.
        columns: Their carried values; empty when nothing is carried.
        truncated: Keys (`readers.batching.ports.SourceIds`) of those whose text was cut.
    """

    ids: list[Any] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    columns: list[tuple[Any, ...]] = field(default_factory=list)
    truncated: set[Hashable] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.ids)


class Screening:
    """Tells the documents of a page that can be embedded from the others, by the text policy.

    Attributes:
        quarantined: Documents that were refused and not yet told to the supervisor; the caller empties it.
        n_quarantined: All documents refused so far.
        n_truncated: All texts cut so far.
        page_characters: Characters of the last page's texts, before any was cut.
    """

    def __init__(self, policy: TextPolicy, ids: SourceIds, skip: SkipSet, columns: ColumnReader | None) -> None:
        self._policy = policy
        self._ids = ids
        self._skip = skip
        self._columns = columns
        self._prompt = policy.prompt
        self._max_text_bytes = policy.max_text_bytes
        self._max_characters = policy.max_characters if policy.truncate else None
        self._max_tokens = policy.max_tokens if policy.truncate else None
        self._most_useful = (self._max_tokens or 0) * _FAR_CHARACTERS_PER_TOKEN or None
        surely_fits = (policy.max_text_bytes - 2) // _JSON_BYTES_PER_CHARACTER
        self._safe_characters = min(surely_fits, self._max_characters or surely_fits, self._most_useful or surely_fits)
        self._get_text = getter(policy.text_field)
        self._get_plain_text = None if "." in policy.text_field else itemgetter(policy.text_field)
        self.quarantined: list[Quarantined] = []
        self.n_quarantined = 0
        self.n_truncated = 0
        self.page_characters = 0

    def has_new(self, documents: list[Document]) -> bool:
        """Whether a page holds a document that would be read."""
        return self._skip.has_new(list(map(_get_id, documents)))

    def screen(self, documents: list[Document], room: int | None) -> tuple[Rows, list[Document]]:
        """The documents of a page that can be embedded.

        Args:
            room: How many documents may still be read, or None.

        Returns:
            The rows, and the documents behind the last one that was looked at when `room` was used up.
        """
        behind: list[Document] = []
        ids = list(map(_get_id, documents))
        fresh = self._skip.new_rows(ids)
        if fresh is not None:
            documents = [documents[row] for row in fresh]
            ids = [ids[row] for row in fresh]
        if room is not None and len(ids) > room:
            behind = documents[room:]
            self._skip.forget(ids[room:])
            documents, ids = documents[:room], ids[:room]
        texts = self._texts(documents, ids)
        if texts is not None:
            rows = Rows(ids, texts)
        else:
            rows, documents = self._one_by_one(documents, ids)
        self.page_characters = sum(map(len, rows.texts))
        if self._prompt:
            rows.texts = [self._prompt + text for text in rows.texts]
        if rows.texts and max(map(len, rows.texts)) > self._safe_characters:
            documents = self._shorten(rows, documents)
        if self._columns is not None:
            rows.columns = self._columns.rows(documents)
        return rows, behind

    def refuse(self, value: Any, reason: str, detail: str, text: str | None = None) -> None:
        """Put one document into quarantine."""
        kept = None
        if self._policy.keep_text and text is not None:
            kept = text[:KEPT_TEXT_BYTES].encode("utf-8", "backslashreplace").decode()
            while (size := json_bytes(kept)) > KEPT_TEXT_BYTES:
                kept = kept[: min(len(kept) - 1, len(kept) * KEPT_TEXT_BYTES // size)]
        self._skip.quarantine(value)
        identity = self._ids.text(value)[:LONGEST_ID_TEXT]
        self.quarantined.append(Quarantined(id=identity, reason=reason, detail=detail, attempts=0, text=kept))
        self.n_quarantined += 1

    def refuse_sent(self, value: Any, reason: str, detail: str, text: str) -> None:
        """Put one document into quarantine; `text` is what would have been sent, prompt included."""
        self.refuse(value, reason, detail, text[len(self._prompt) :])

    def _texts(self, documents: list[Document], ids: list[Any]) -> list[str] | None:
        """The texts when every document of a page is in order, else None."""
        try:
            if self._get_plain_text is not None:
                texts = list(map(self._get_plain_text, documents))
            else:
                texts = [self._get_text(document) for document in documents]
            if not all(texts) or any(map(str.isspace, texts)):
                return None
        except (KeyError, TypeError):  # no such field; `str.isspace` takes nothing but strings
            return None
        return texts if self._ids.fit(ids) else None

    def _one_by_one(self, documents: list[Document], ids: list[Any]) -> tuple[Rows, list[Document]]:
        rows = Rows()
        kept = []
        for document, value in zip(documents, ids, strict=True):
            text = self._get_text(document)
            problem = problem_of(text)
            if isinstance(document, UnreadableDocument):
                problem = (document.reason, document.detail)
            misfit = self._ids.misfit(value)
            if misfit is not None:
                problem = ("id_type", misfit)
            if problem is not None:
                self.refuse(value, *problem, text=text if isinstance(text, str) else None)
                continue
            rows.ids.append(value)
            rows.texts.append(text)
            kept.append(document)
        return rows, kept

    def _shorten(self, rows: Rows, documents: list[Document]) -> list[Document]:
        """Cut or refuse the texts that are too long, in place; the documents that remain."""
        kept = []
        for row, whole in enumerate(rows.texts):
            text = self._without_useless_words(rows, row) if len(whole) > self._safe_characters else whole
            if len(text) <= self._safe_characters or self._fits(text):
                kept.append(row)
            elif self._policy.truncate:
                rows.texts[row] = self._cut(text)
                self._flag(rows, row)
                kept.append(row)
            else:
                detail = f"{len(text)} characters are more than {self._max_text_bytes} bytes as JSON"
                self.refuse_sent(rows.ids[row], "too_long", detail, text)
        if len(kept) == len(rows):
            return documents
        rows.ids = [rows.ids[row] for row in kept]
        rows.texts = [rows.texts[row] for row in kept]
        return [documents[row] for row in kept]

    def _without_useless_words(self, rows: Rows, row: int) -> str:
        """Take the words off a far too long text that no server would look at: sending them is for nothing."""
        text = rows.texts[row]
        if self._max_tokens is not None and self._most_useful is not None and len(text) > self._most_useful:
            end = start_of_word(text, self._max_tokens)
            if end is not None:
                text = rows.texts[row] = text[:end]
                self._flag(rows, row)
        return text

    def _flag(self, rows: Rows, row: int) -> None:
        key = self._ids.key(rows.ids[row])
        if key not in rows.truncated:
            rows.truncated.add(key)
            self.n_truncated += 1

    def _fits(self, text: str) -> bool:
        if self._max_characters is not None and len(text) > self._max_characters:
            return False
        return len(text) * _JSON_BYTES_PER_CHARACTER + 2 <= self._max_text_bytes or (
            len(text) + 2 <= self._max_text_bytes and json_bytes(text) <= self._max_text_bytes
        )

    def _cut(self, text: str) -> str:
        """A beginning that fits, of about the size allowed; never cuts inside a character."""
        text = text[: min(self._max_characters or len(text), self._max_text_bytes - 2)]
        while (size := json_bytes(text)) > self._max_text_bytes:
            text = text[: min(int(len(text) * self._max_text_bytes / size * 0.995), len(text) - 1)]
        return text


def json_bytes(text: str) -> int:
    """Bytes of a text as JSON; invalid text, which is refused later, counts as if it were valid."""
    try:
        return len(orjson.dumps(text))
    except TypeError:
        return len(text.encode("utf-8", "replace")) + 2


def problem_of(text: Any) -> tuple[str, str] | None:
    """Reason and detail why a value is no text to embed, or None; whether its Unicode is valid is not looked at."""
    if text is MISSING or text is None:
        return "missing", "the text field is missing" if text is MISSING else "the text field is null"
    if not isinstance(text, str):
        return "not_text", f"the text field holds a value of the type {type(text).__name__}"
    if not text or text.isspace():
        return "empty", "the text is empty" if not text else "the text is only white space"
    return None
