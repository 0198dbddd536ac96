"""A search over a data set: what is asked for, the nearest rows, and their texts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from commands.composition.partners import Collection, ServerEmbedder, examine_for
from commands.options.secrets import RunSecrets
from engine.config import SourceConfig
from engine.errors import ConfigError, DamageError, FingerprintMismatch
from engine.memory.ids import IdType
from engine.records import Fingerprint
from writers.parquet.access import FileAccess
from writers.parquet.canary import canary_differences
from writers.parquet.merge_schema import MergeSchema
from writers.search.exact import Hit, nearest
from writers.search.lookup import find_row, values_of
from writers.verify.config import Findings, VerifyConfig
from writers.verify.ids import MERGED_SHARD
from writers.verify.sample import ids_at, rows_at
from writers.verify.subject import find_subject

_MAX_QUERY_FILE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """What to search, and for what.

    Attributes:
        files: The data set, or a plain folder.
        source: The collection, for texts and by its text field.
        urls: Servers that embed `text`.
        text, identity, vector: What to search for; exactly one.
        prompt: Text put before `text`; None is the prompt of the documents.
        k: How many rows.
        with_text: Whether to fetch the documents' texts.
        jobs: Threads, or 0 for one a core.
    """

    files: VerifyConfig
    source: SourceConfig
    urls: tuple[str, ...]
    text: str | None = None
    identity: str | None = None
    vector: Path | None = None
    prompt: str | None = None
    k: int = 10
    with_text: bool = False
    jobs: int = 0

    def __post_init__(self) -> None:
        if sum(asked is not None for asked in (self.text, self.identity, self.vector)) != 1:
            raise ConfigError("name what to search for with exactly one of --text, --id and --vector")
        if self.k < 1:
            raise ConfigError(f"--k is {self.k}; allowed is at least 1")
        if self.prompt is not None and self.text is None:
            raise ConfigError("--query-prompt goes before --text; leave it out with --id or --vector")


@dataclass(frozen=True, slots=True)
class Found:
    """A row that was found.

    Attributes:
        identity: Its id as people write it: a number, a string, extended JSON as an object.
        score: Cosine.
        text: Its document's text, when asked for and there.
    """

    identity: Any
    score: float
    text: str | None = None

    def as_dict(self, *, with_text: bool) -> dict[str, Any]:
        """As `--json` prints it."""
        shown = {"_id": self.identity, "score": round(self.score, 6)}
        return {**shown, "text": self.text} if with_text else shown


def search(
    config: SearchConfig, secrets: RunSecrets, on_progress: Callable[[int, int], None] | None = None
) -> list[Found]:
    """Find the nearest rows, best first.

    Args:
        on_progress: Told how many rows have been looked at, and of how many.

    Raises:
        ConfigError: no data set, no such id, or a vector that does not fit.
        FingerprintMismatch: the servers serve another vector space.
        ServersUnavailable, SourceError: servers or MongoDB do not answer.
        DamageError: a file cannot be read.
    """
    files, schema = _files_of(config.files)
    query, itself = _query(config, secrets, files, schema)
    if query.shape != (schema.dim,):
        raise ConfigError(f"the vector has {query.size} numbers, those of the data set have {schema.dim}")
    if not np.isfinite(query).all() or not query.any():
        raise ConfigError("the vector to search for is zero, or holds a number that is not finite")
    access = FileAccess(config.files.cold)
    hits = nearest(
        files,
        schema,
        query,
        config.k + (itself is not None),
        jobs=config.jobs or None,
        on_rows=_counter(files, on_progress, access),
        access=access,
    )
    hits = [hit for hit in hits if (hit.file, hit.row) != itself][: config.k]
    return _described(config, secrets, files, schema, hits)


def _files_of(config: VerifyConfig) -> tuple[list[str], MergeSchema]:
    """The files that hold each row once: what a merge has written, and the shards that it has not.

    Raises:
        ConfigError: there is no data set, or nothing in it yet.
    """
    subject = find_subject(config, Findings(), [])
    files = [expected.path for expected, kind in zip(subject.files, subject.kinds, strict=True) if kind != MERGED_SHARD]
    if not files or subject.schema is None:
        raise ConfigError("there is nothing to search: nothing has been committed yet")
    return files, subject.schema


def _query(
    config: SearchConfig, secrets: RunSecrets, files: list[str], schema: MergeSchema
) -> tuple[npt.NDArray[np.float32], tuple[int, int] | None]:
    """The vector to search for, and the row that it comes from, which is not searched for itself."""
    if config.vector is not None:
        return _vector_of_file(config.vector), None
    if config.identity is not None:
        access = FileAccess(config.files.cold)
        place = find_row(files, schema, values_of(config.identity, schema.id_type), access)
        if place is None:
            raise ConfigError(f"no row has the id {config.identity!r} ({schema.id_type.value} ids)")
        (_, vector), *_ = rows_at([(files[place[0]], place[1])], schema, access)
        return vector.astype(np.float32), place
    assert config.text is not None  # exactly one is given
    return _embedded(config, secrets, schema, config.text), None


def _vector_of_file(path: Path) -> npt.NDArray[np.float32]:
    """float32 (dim,) of a `.npy` file or a JSON list.

    Raises:
        ConfigError: it holds no vector.
    """
    try:
        if path.stat().st_size > _MAX_QUERY_FILE_BYTES:
            raise ConfigError(f"--vector {path} is too large for one vector")
        values = (
            np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.asarray(json.loads(path.read_text()))
        )
        vector = values.astype(np.float32)
    except OSError as error:
        raise ConfigError(f"--vector {path} cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"--vector {path} holds no vector: expected a .npy file, or a JSON list of numbers"
        ) from error
    if vector.ndim == 2 and len(vector) == 1:
        vector = vector[0]
    if vector.ndim != 1:
        raise ConfigError(f"--vector {path} holds an array of the shape {vector.shape}; expected one vector")
    return vector


def _embedded(config: SearchConfig, secrets: RunSecrets, schema: MergeSchema, text: str) -> npt.NDArray[np.float32]:
    """The text's vector, made as the data set's vectors were.

    Raises:
        FingerprintMismatch: the servers serve another vector space.
        ServersUnavailable: none answers.
    """
    known = None if schema.fingerprint is None else Fingerprint.from_dict(schema.fingerprint)
    fleet, settings = examine_for(known, schema.dim, config.urls, secrets.servers)
    if fleet.dim != schema.dim:
        raise FingerprintMismatch(f"the servers' vectors have {fleet.dim} numbers, those of the data set {schema.dim}")
    differences = known.differences(fleet.fingerprint) if known is not None else []
    differences += canary_differences(fleet.canary_brief, schema.canaries)
    if differences:
        raise FingerprintMismatch(f"the servers do not serve this data set's vectors: {'; '.join(differences)}")
    if config.prompt is not None:  # models have other prompts for questions than for documents
        settings = dataclasses.replace(settings, prompt=config.prompt)
    embedder = ServerEmbedder(fleet, settings)
    try:
        matrix: npt.NDArray[np.float32] = embedder([text])
        return matrix.reshape(-1)
    finally:
        embedder.close()


def _counter(
    files: list[str], on_progress: Callable[[int, int], None] | None, access: FileAccess
) -> Callable[[int], None] | None:
    if on_progress is None:
        return None
    total = sum(pq.read_metadata(access.source(path)).num_rows for path in files)
    seen = 0

    def count(rows: int) -> None:
        nonlocal seen
        seen += rows
        on_progress(seen, total)

    return count


def _described(
    config: SearchConfig, secrets: RunSecrets, files: list[str], schema: MergeSchema, hits: list[Hit]
) -> list[Found]:
    access = FileAccess(config.files.cold)
    ids = ids_at([(files[hit.file], hit.row) for hit in hits], schema, access)
    texts: list[str | None] = [None] * len(hits)
    if config.with_text and hits:
        if config.source.text_field in schema.arrow.names:
            texts = [_text_at(access, files[hit.file], hit.row, config.source.text_field) for hit in hits]
        else:
            texts = _texts_of(config, secrets, schema, ids)
    return [
        Found(_as_written(value, schema.id_type), hit.score, text)
        for value, hit, text in zip(ids, hits, texts, strict=True)
    ]


def _text_at(access: FileAccess, path: str, row: int, column: str) -> str | None:
    """A carried column's value."""
    with pq.ParquetFile(access.source(path), pre_buffer=False) as parquet:
        for group in range(parquet.num_row_groups):
            n_rows = parquet.metadata.row_group(group).num_rows
            if row < n_rows:
                value = parquet.read_row_group(group, [column], use_threads=False).column(0)[row].as_py()
                return value if isinstance(value, str) else None
            row -= n_rows
    raise DamageError(f"{path} has fewer rows than its footer says: restore it from a copy")


def _texts_of(config: SearchConfig, secrets: RunSecrets, schema: MergeSchema, ids: Any) -> list[str | None]:
    """Texts from the collection; None for documents that are gone.

    Raises:
        ConfigError: a plain folder has no collection.
        SourceError: MongoDB does not answer.
    """
    if config.files.run_ledger is None:
        raise ConfigError(
            f"--with-text: the files have no column {config.source.text_field!r}, and a plain folder has no "
            "collection; name the column with --text-field"
        )
    source = config.source
    if source.files is not None:
        return _texts_of_files(config, config.files.run_ledger, schema, ids)
    collection = Collection(
        secrets.mongo_uri,
        source.database,
        source.collection,
        done_field=source.done_field,
        text_field=source.text_field,
        id_type=schema.id_type,
    )
    try:
        return collection.texts(ids)
    finally:
        collection.close()


def _texts_of_files(config: SearchConfig, ledger: Path, schema: MergeSchema, ids: Any) -> list[str | None]:
    """Texts from the files; one way through all of them."""
    from commands.composition.files.rows import FileRows  # noqa: PLC0415 - only data sets of files need it

    return FileRows.of_data_set(config.files, ledger, config.source, schema.id_type).texts(ids)


def _as_written(value: Any, id_type: IdType) -> Any:
    if isinstance(value, bytes):
        return {"$oid": value.hex()} if id_type is IdType.OBJECTID else value.hex()
    if id_type is IdType.EXTJSON:
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def as_text(found: list[Found]) -> str:
    """The rows for a person, one a line; a text on one line, cut at 160 characters."""
    lines = []
    for item in found:
        shown = item.identity["$oid"] if isinstance(item.identity, dict) and "$oid" in item.identity else item.identity
        identity = shown if isinstance(shown, str) else json.dumps(shown)
        text = "" if item.text is None else f"  {' '.join(item.text.split())[:160]}"
        lines.append(f"{item.score:.4f}  {identity}{text}")
    return "\n".join(lines)
