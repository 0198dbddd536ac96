"""Records that travel between processes: fingerprint, facts of a shard, quarantined document."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

RETWEETED_VALUES = ("null", "false", "any")
"""Which value of a document's `retweeted` may count; here, because the reader's process loads no configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """The vector space of a data set (G9): in the ledger, in every file footer, compared on resume and merge.

    Attributes:
        model_id: What the server says it serves.
        model_sha: Its revision, or None when the server does not know.
        dtype: Number type of the model, as the server names it.
        pooling: Pooling of the model, as the server names it.
        prompt: Text put before each document by this engine, or None.
        dim: Numbers in a vector.
        normalize: Whether vectors have length 1.
        server_version: Version of the server; TEI 1.9 computes GELU otherwise than 1.8.
        server_prompt: Text that the server puts before each document by itself, empty for none; None when that is not
            known, as in older ledgers and files. What is not known differs from nothing.
    """

    model_id: str
    model_sha: str | None
    dtype: str | None
    pooling: str | None
    prompt: str | None
    dim: int
    normalize: bool
    server_version: str | None
    server_prompt: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields in their order."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Fingerprint:
        """Read a fingerprint back; unknown fields of newer versions are left out.

        Raises:
            ValueError: a field is missing.
        """
        known = {item.name for item in dataclasses.fields(cls)}
        needed = {item.name for item in dataclasses.fields(cls) if item.default is dataclasses.MISSING}
        if missing := needed - set(values):
            raise ValueError(f"a fingerprint without {', '.join(sorted(missing))}")
        return cls(**{name: value for name, value in values.items() if name in known})

    def differences(self, other: Fingerprint) -> list[str]:
        """One phrase for each field in which they differ: `dtype 'float32' is not 'float16'`."""
        mine, theirs = self.as_dict(), other.as_dict()
        if self.server_prompt is None or other.server_prompt is None:
            del mine["server_prompt"]
        return [f"{name} {theirs[name]!r} is not {mine[name]!r}" for name in mine if mine[name] != theirs[name]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFacts:
    """The facts of a shard that is durable under its final name, as the writer tells them.

    Attributes:
        shard: Name without ending, unique in the data set.
        file: File name inside the shards folder.
        bytes: Size of the file.
        sha256: SHA-256 of the whole file, hexadecimal.
        rows: Rows in it.
        id_digest: See `writers.shards.schema.id_digest`; does not depend on the order of rows.
        first_id, last_id: First and last id in file order, as text.
        truncated: Rows flagged as truncated.
        sequences: Lowest and highest batch number in it.
        epoch: The start that wrote it.
        positions: Which rows of its source it holds, as `writers.shards.positions` writes them; None for a source whose
            documents are marked or known by their ids.
    """

    shard: str
    file: str
    bytes: int
    sha256: str
    rows: int
    id_digest: str
    first_id: str
    last_id: str
    truncated: int
    sequences: tuple[int, int]
    epoch: int
    positions: str | None = None


QUARANTINE_REASONS = (
    "empty",
    "missing",
    "not_text",
    "invalid_unicode",
    "too_long",
    "rejected",
    "tokenizer",
    "backend",
    "unsound_vector",
    "id_type",
    "too_large",
    "unreadable",
)
"""Why documents go into quarantine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """One document that could not be embedded.

    Attributes:
        id: Its `_id` in canonical extended JSON; a plain decimal number for an int64 column.
        reason: One word, of `QUARANTINE_REASONS`.
        detail: What was said about it.
        attempts: Requests that failed on it alone.
        text: The text, only when the user asked for it.
    """

    id: str
    reason: str
    detail: str
    attempts: int
    text: str | None = None
