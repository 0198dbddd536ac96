"""The reader's settings: parsed once by the composer, sent to the reader's process, never logged."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from engine.errors import ConfigError
from engine.memory.ids import IdType
from engine.records import RETWEETED_VALUES

SCANS = ("queue", "id")
COLUMN_TYPES = ("int64", "double", "bool", "string", "timestamp", "json")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderSettings:
    """Everything that decides which documents are read and how they are put into batches.

    Attributes:
        uri: MongoDB connection string; may hold a password, so it is neither logged nor shown by `repr`.
        database, collection: Where the documents are.
        text_field: Path of the text, dotted when it lies in an embedded document.
        done_field: The field that marking sets; documents that have it are not read.
        langs: Only these languages; empty for all.
        filter: Extended JSON of a further condition, ANDed to the work query.
        columns: Name (dotted allowed) and type (`COLUMN_TYPES`) of fields carried into the output.
        scan: `queue` reads by the partial work-queue index, `id` by `_id` order without it.
        retweeted: Which value of a document's `retweeted` counts (`engine.records.RETWEETED_VALUES`).
        id_type: What stands in the id column (`engine.memory.ids.IdType`).
        prompt: Text put before every document's text, or None.
        batch_size: Texts in a batch, and rows in a batch without duplicates.
        max_text_bytes: Bytes that a text may have as JSON, prompt included; longer ones are cut or quarantined.
        max_characters: Texts are cut to so many characters (prompt included) before they are sent; only with
            `truncate`. None does not cut by characters.
        max_tokens: Tokens that the servers take of a text; far longer texts are cut behind so many words. Likewise.
        apart_tokens: Texts of that many tokens and more are kept apart from texts of equal length, because the
            servers give them other vectors there; None where they do not.
        truncate: Whether texts that are too long are cut (and flagged) or quarantined as `too_long`.
        max_request_bytes: Bytes that the JSON array of a batch's texts may have.
        max_request_tokens: Estimated tokens that a batch may have, or None.
        bucketing: Whether documents of like length are put into one batch.
        window_rows: Documents that are sorted by length, or searched for equal texts, at a time.
        dedup: Whether equal texts of a window are embedded once.
        limit: Stop after reading so many documents; None reads all.
        page_rows: Documents asked for in one query, at most.
        mark: Whether documents get marked after their commit; without it ids are remembered instead.
        quarantine_file: Path of `quarantine.jsonl`; its documents are not read again. None when there is none.
        quarantine_before: How many bytes of it were there before the run, when it holds more already; else None.
        done_ids_file: Path of a file written by `readers.batching.done_ids`; its ids are not read again. Only without
            `mark`.
        keep_text: Whether quarantine entries carry the text.
        max_outage_s: How long MongoDB may be away before the run ends.
        part: The share of the queue that is read, as `engine.part.Part` writes it; None for the whole.
        by_ranges: Whether nothing is read but what the supervisor gives out range by range (`part` commands).
        files: What to read instead of MongoDB, or None: `plan`, the path of a file that
            `readers.files.catalogue.write_plan` wrote, and `id_field` with `id_type` where ids are a field.
    """

    uri: str = field(repr=False)
    database: str
    collection: str
    text_field: str = "text"
    done_field: str
    langs: tuple[str, ...] = ()
    filter: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    scan: str = "queue"
    retweeted: str = "null"
    id_type: str
    prompt: str | None = None
    batch_size: int = 32
    max_text_bytes: int = 1 << 20
    max_characters: int | None = None
    max_tokens: int | None = None
    apart_tokens: int | None = None
    truncate: bool = True
    max_request_bytes: int = 2_000_000
    max_request_tokens: int | None = None
    bucketing: bool = True
    window_rows: int = 4096
    dedup: bool = True
    limit: int | None = None
    page_rows: int = 5000
    mark: bool = True
    quarantine_file: str | None = None
    quarantine_before: int | None = None
    done_ids_file: str | None = None
    keep_text: bool = False
    max_outage_s: float = 600.0
    part: str | None = None
    by_ranges: bool = False
    files: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ConfigError: names the field, its value and the allowed range.
        """
        _check_range("batch_size", self.batch_size, 1, 65_535)  # the fan-out counts texts with 16 bits
        _check_range("max_text_bytes", self.max_text_bytes, 16, 1 << 31)
        _check_range("max_request_bytes", self.max_request_bytes, 16, 1 << 31)
        _check_range("window_rows", self.window_rows, 1, 1 << 20)
        _check_range("page_rows", self.page_rows, 1, 100_000)
        for name, value in (
            ("max_characters", self.max_characters),
            ("max_tokens", self.max_tokens),
            ("apart_tokens", self.apart_tokens),
            ("max_request_tokens", self.max_request_tokens),
            ("limit", self.limit),
        ):
            if value is not None:
                _check_range(name, value, 1, 1 << 62)
        if self.scan not in SCANS:
            raise ConfigError(f"scan is {self.scan!r}; expected one of {', '.join(SCANS)}")
        if self.retweeted not in RETWEETED_VALUES:
            raise ConfigError(f"retweeted is {self.retweeted!r}; expected one of {', '.join(RETWEETED_VALUES)}")
        id_types = [kind.value for kind in IdType]
        if self.id_type not in id_types:
            raise ConfigError(f"id_type is {self.id_type!r}; expected one of {', '.join(id_types)}")
        for name, kind in self.columns:
            if kind not in COLUMN_TYPES:
                raise ConfigError(f"column {name!r} has the type {kind!r}; expected one of {', '.join(COLUMN_TYPES)}")
        for label, name in (("text_field", self.text_field), ("done_field", self.done_field)):
            check_field_name(label, name)
        if self.prompt is not None and len(self.prompt.encode("utf-8", "replace")) * 2 > self.max_text_bytes:
            raise ConfigError(
                f"the prompt has {len(self.prompt)} characters; expected at most half of max_text_bytes "
                f"({self.max_text_bytes}), so that there is room for the text"
            )
        if self.max_outage_s < 0:
            raise ConfigError(f"max_outage_s is {self.max_outage_s}; expected 0 or more")

    def as_dict(self) -> dict[str, Any]:
        """A JSON object for the reader's process; holds the secret uri."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ReaderSettings:
        """Read `as_dict` back after a way through JSON."""
        changed = {
            **values,
            "langs": tuple(values.get("langs", ())),
            "columns": tuple((name, kind) for name, kind in values.get("columns", ())),
        }
        return cls(**changed)


def check_field_name(label: str, name: str) -> None:
    """Refuse a field path that MongoDB would not take as one.

    Raises:
        ConfigError: empty, an empty part, a leading `$`, or NUL.
    """
    parts = name.split(".")
    if not all(parts) or any(part.startswith("$") or "\0" in part for part in parts):
        raise ConfigError(f"{label} is {name!r}; expected a field name or a dotted path such as 'text' or 'tweet.text'")


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} is {value}; expected {low} to {high}")
