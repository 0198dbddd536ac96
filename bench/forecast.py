"""The arithmetic of `engine plan`: hours, cost, bytes and files of a run, before anything is spent."""

from __future__ import annotations

import io
import math
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from engine.ledger.log import frame
from engine.ledger.recovery import commit_record
from engine.ledger.runfolder import RESERVE_BYTES
from engine.memory import ids
from engine.memory.ids import IdType
from engine.records import ShardFacts
from writers.shards.schema import EMBEDDING, ID, TRUNCATED_COLUMN, ShardSchema, id_array, vector_array, writer_options

CONSOLIDATED_FILE_BYTES = 1 << 30
"""What `engine merge` makes by default."""

_SHARES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How long texts are, in characters or tokens.

    Attributes:
        mean: The mean.
        percentiles: By name: p50, p90, p95, p99, max.
    """

    mean: float
    percentiles: dict[str, int]

    @classmethod
    def of(cls, values: Sequence[int] | npt.NDArray[np.int64]) -> Lengths:
        """The lengths of a sample; none of them is an error of the caller."""
        ordered = np.sort(np.asarray(values, dtype=np.int64))
        last = len(ordered) - 1
        return cls(
            mean=float(ordered.mean()),
            percentiles={
                name: int(ordered[min(last, max(0, math.ceil(share * len(ordered)) - 1))])
                for name, share in _SHARES.items()
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEstimate:
    """Tokens of the texts of a sample.

    Attributes:
        lengths: Before any cut.
        mean_embedded: Mean after the cut at the model's limit.
        truncated_share: Share of texts that the limit cuts, None when the limit is unknown.
        counted: Whether a tokenizer counted; otherwise they follow from characters.
    """

    lengths: Lengths
    mean_embedded: float
    truncated_share: float | None
    counted: bool


def estimate_tokens(
    characters: npt.NDArray[np.int64],
    counted: Sequence[tuple[int, int]] | None,
    characters_per_token: float,
    limit_tokens: int | None,
) -> TokenEstimate:
    """Tokens of all texts of a sample, of which a few were counted.

    Args:
        characters: Characters of every text of the sample.
        counted: Characters and tokens of the texts that a tokenizer counted, or None.
        characters_per_token: What to go by without them.
        limit_tokens: Tokens that the model takes, or None.
    """
    if counted:
        lengths, tokens = (np.array(side, dtype=np.float64) for side in zip(*counted, strict=True))
        # a text has a few tokens of its own, and then some for each character
        slope, start = np.polyfit(lengths, tokens, 1) if np.ptp(lengths) > 0 else (0.0, float(tokens.mean()))
        estimated = np.maximum(1, np.rint(start + slope * characters)).astype(np.int64)
    else:
        estimated = np.maximum(1, np.rint(characters / characters_per_token)).astype(np.int64)
    embedded = np.minimum(estimated, limit_tokens) if limit_tokens is not None else estimated
    return TokenEstimate(
        lengths=Lengths.of(estimated),
        mean_embedded=float(embedded.mean()),
        truncated_share=float((estimated > limit_tokens).mean()) if limit_tokens is not None else None,
        counted=bool(counted),
    )


def bytes_per_row(schema: ShardSchema, vectors: npt.NDArray[np.float32]) -> float:
    """Bytes of a row in a Parquet file of this schema, measured by writing a row group to memory.

    Args:
        vectors: Different vectors of the model, float32 (n, dim), at least two. Repeating some would only show how well
            repetitions compress.
    """
    arrow = schema.arrow()
    n_rows = len(vectors)
    arrays = {
        ID: _sample_ids(schema.id_type, n_rows),
        TRUNCATED_COLUMN: pa.array([False] * n_rows),
        EMBEDDING: vector_array(schema, np.ascontiguousarray(vectors)),
    }
    table = pa.Table.from_arrays([arrays[name] for name in arrow.names], schema=arrow)
    half = n_rows // 2
    # the difference leaves the footer out, which a large file has once
    return (_file_bytes(table) - _file_bytes(table.slice(0, half))) / (n_rows - half)


def _file_bytes(table: pa.Table) -> int:
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, **writer_options(table.schema)) as writer:
        writer.write_table(table)
    return sink.tell()


def plain_vectors(n_rows: int, dim: int) -> npt.NDArray[np.float32]:
    """Random vectors of length 1, float32 (n_rows, dim), for want of a model's own: as hard to compress."""
    vectors = np.random.default_rng(1).standard_normal((n_rows, dim), dtype=np.float32)
    normed: npt.NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return normed


def _sample_ids(id_type: IdType, n_rows: int) -> pa.Array:
    """Ids as a database makes them: rising numbers, or a timestamp with random digits."""
    rng = random.Random(1)
    if id_type is IdType.INT64:
        return id_array(id_type, ids.pack_int64(range(10**15, 10**15 + n_rows)), n_rows)
    raw = [(1_700_000_000 + row // 50).to_bytes(4, "big") + rng.randbytes(8) for row in range(n_rows)]
    if id_type is IdType.OBJECTID:
        return id_array(id_type, ids.pack_fixed(raw), n_rows)
    texts = [value.hex() if id_type is IdType.STRING else f'{{"$oid":"{value.hex()}"}}' for value in raw]
    return id_array(id_type, ids.pack_variable([text.encode() for text in texts]), n_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The work of a run that is forecast.

    Attributes:
        documents: Documents to embed.
        docs_per_second: Of the whole fleet.
        tokens_per_document: Mean, after the cut.
        bytes_per_row: In a shard.
        shard_bytes, shard_seconds: When a shard is sealed.
        gpus: GPUs that are paid for.
    """

    documents: int
    docs_per_second: float
    tokens_per_document: float
    bytes_per_row: float
    shard_bytes: int
    shard_seconds: float
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Hours, cost, bytes and files of a run.

    Attributes:
        hours: Time at the measured rate.
        tokens: Tokens of all documents.
        gpu_cost: Price of the GPUs for that time, None without a price.
        api_cost: Price of a hosted API for those tokens, None without a price.
        cold_bytes: All shards.
        hot_bytes: Ledger and reserve.
        shards: Files that the run writes.
        files: Files after `engine merge`.
    """

    hours: float
    tokens: int
    gpu_cost: float | None
    api_cost: float | None
    cold_bytes: int
    hot_bytes: int
    shards: int
    files: int


def forecast(work: Workload, *, gpu_hour_price: float | None, api_price_per_mtok: float | None) -> Forecast:
    """Hours, cost, bytes and files of a workload."""
    seconds = work.documents / work.docs_per_second if work.documents else 0.0
    tokens = round(work.documents * work.tokens_per_document)
    cold_bytes = round(work.documents * work.bytes_per_row)
    # sealed at whichever comes first: the bytes, or what the rate brings in the seconds
    sealed_bytes = min(work.shard_bytes, work.shard_seconds * work.docs_per_second * work.bytes_per_row)
    shards = math.ceil(cold_bytes / sealed_bytes) if cold_bytes else 0
    hours = seconds / 3600
    return Forecast(
        hours=hours,
        tokens=tokens,
        gpu_cost=hours * gpu_hour_price * work.gpus if gpu_hour_price is not None else None,
        api_cost=tokens / 1e6 * api_price_per_mtok if api_price_per_mtok is not None else None,
        cold_bytes=cold_bytes,
        hot_bytes=RESERVE_BYTES + shards * _ledger_bytes_per_shard(),
        shards=shards,
        files=math.ceil(cold_bytes / CONSOLIDATED_FILE_BYTES) if cold_bytes else 0,
    )


def _ledger_bytes_per_shard() -> int:
    """Bytes of the two records of a shard in the ledger."""
    name = "embedded-0123ab-e0001-000001"
    facts = ShardFacts(
        shard=name,
        file=f"{name}.parquet",
        bytes=268_435_456,
        sha256="0" * 64,
        rows=100_000,
        id_digest="0" * 32,
        first_id="0" * 24,
        last_id="0" * 24,
        truncated=0,
        sequences=(1_000_000, 1_003_200),
        epoch=1,
    )
    return len(frame(commit_record(facts))) + len(
        frame({"type": "MARKED", "shard": name, "matched": 10**5, "already": 10**5, "gone": 0})
    )


def free_bytes(folder: Path) -> int:
    """Free space where a folder is or would be made; nothing is created."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free
