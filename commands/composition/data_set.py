"""What all shards of a ledger have in common (`DataSet`): recorded at the first start, compared at every other (G9)."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from commands.composition.canary import require_same_canary
from engine.config import RunConfig
from engine.errors import ConfigError, DamageError, FingerprintMismatch
from engine.ledger.log import FORMAT, Ledger, Record, RunState
from engine.ledger.runfolder import IN_PROGRESS, RunFolders
from engine.memory.ids import IdType
from engine.records import Fingerprint
from writers.cold.settings import ColdSettings
from writers.shards.schema import ShardSchema
from writers.shards.store import ParquetShards

_log = logging.getLogger("engine.dataset")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """What every shard of a ledger has in common.

    Attributes:
        ledger: Id of the ledger, 12 hexadecimal digits.
        prefix: Start of the name of every shard.
        schema: Columns of every shard.
        fingerprint: The vector space.
    """

    ledger: str
    prefix: str
    schema: ShardSchema
    fingerprint: Fingerprint

    def shards(self, folders: RunFolders, cold: ColdSettings | None = None) -> ParquetShards:
        """The shards, as recovery sees them: those of a folder, or of a cold store."""
        if cold is not None:
            from writers.cold.shards import ColdShards  # noqa: PLC0415 - only a URL pays for the library

            return ColdShards(folders.shards, self.schema, self.fingerprint, self.ledger, cold)
        return ParquetShards(folders.shards, self.schema, self.fingerprint, self.ledger)


def recorded(state: RunState) -> DataSet | None:
    """The data set that a ledger describes, None for a new ledger.

    Raises:
        DamageError: there are shards but no RUN record.
    """
    record = state.run
    if record is None:
        if state.commits:
            raise DamageError("the ledger has shards but no RUN record: it is damaged; restore it from a copy")
        return None
    return from_record(record)


def from_record(record: Record) -> DataSet:
    """The data set of a RUN record."""
    schema: dict[str, Any] = record["schema"]
    return DataSet(
        ledger=record["ledger"],
        prefix=_prefix(record["done_field"], record["ledger"]),
        schema=ShardSchema(
            id_type=IdType(schema["id_type"]),
            columns=tuple((name, kind) for name, kind in schema["columns"]),
            dim=schema["dim"],
            vector_type=schema["vector_type"],
            truncated=schema["truncated"],
        ),
        fingerprint=Fingerprint.from_dict(record["fingerprint"]),
    )


def _prefix(done_field: str, ledger: str) -> str:
    return f"{done_field}-{ledger[:6]}-"


def begin_or_continue(
    ledger: Ledger[RunState],
    config: RunConfig,
    *,
    fingerprint: Fingerprint,
    id_type: IdType,
    columns: tuple[tuple[str, str], ...],
    canary: str,
    canary_brief: str = "",
    names: Callable[[], Collection[str]] | None = None,
) -> DataSet:
    """Begin a data set, or make sure that this run continues the one that is there.

    Args:
        id_type, columns: What the collection suggests; a data set that is there decides for itself.
        canary: The servers' vectors of the canary texts (`Canary.encode`): recorded at the first start, compared at
            every other, because a model that says the same of itself may give other vectors (another default prompt,
            other weights under one path).
        canary_brief: A part of that (`Canary.brief`), for whoever merges the shards.
        names: Of the files where shards are; None for those of the shards folder.

    Raises:
        FingerprintMismatch: the vectors would not be comparable; names the fields, or the cosine of the canary.
        ConfigError: another column set or vector type, or shards of a ledger that is not this one.
    """
    known = recorded(ledger.state)
    there = (lambda: [path.name for path in config.folders.shards.iterdir()]) if names is None else names
    if known is None:
        _refuse_foreign_shards(config, there())
        record: Record = {
            "type": "RUN",
            "format": FORMAT,
            "ledger": secrets.token_hex(6),
            "database": config.source.database,
            "collection": config.source.collection,
            "done_field": config.source.done_field,
            "fingerprint": fingerprint.as_dict(),
            "schema": {
                "id_type": id_type.value,
                "columns": [list(column) for column in columns],
                "dim": fingerprint.dim,
                "vector_type": config.sink.vector_type,
                "truncated": config.sink.truncated_column,
            },
            "canary": canary,
            "canary_brief": canary_brief,
        }
        if config.source.files is not None:
            record["source"] = {"kind": "files", "id_field": config.source.id_field}
        ledger.append(record)
        return from_record(record)
    _refuse_names_of_other_case(ledger.state.run or {}, config)
    if ("source" in (ledger.state.run or {})) != (config.source.files is not None):
        began = "files (--source)" if config.source.files is None else "a collection of MongoDB"
        raise ConfigError(
            f"the data set of {config.folders.hot} was begun with {began}: continue it so, or begin another one with "
            "another --name or --done-field"
        )
    if differences := known.fingerprint.differences(fingerprint):
        raise FingerprintMismatch(
            f"this run would not continue the data set of {config.folders.hot}: {'; '.join(differences)}. "
            "Start the servers as before, or begin another data set with another --done-field"
        )
    _compare_columns(known, config)
    cosine = require_same_canary(ledger.state, canary, config.folders, config.servers.accept_vectors)
    if cosine is not None:
        _log.warning("vectors_accepted cosine=%.4f: the ledger says so from now on", cosine)
        ledger.append({"type": "ACCEPTED", "cosine": cosine, "canary": canary, "canary_brief": canary_brief})
    _warn_of_missing_shards(ledger.state, config, there())
    return known


def _refuse_names_of_other_case(record: Record, config: RunConfig) -> None:
    """Where upper and lower case are one (exFAT, SMB, macOS), two collections would have one folder and one ledger."""
    for name in ("database", "collection", "done_field"):
        asked = getattr(config.source, name)
        recorded_name = str(record.get(name, asked))
        if recorded_name != asked and recorded_name.casefold() == asked.casefold():
            raise ConfigError(
                f"the ledger in {config.folders.hot} is that of --{name.replace('_', '-')} {recorded_name}, not of "
                f"{asked}: this file system takes upper and lower case for one; name another --hot-dir and --cold-dir"
            )


def _warn_of_missing_shards(state: RunState, config: RunConfig, there: Collection[str]) -> None:
    """Say when not one committed shard is where shards go: a disk that is not mounted, or another --cold-dir."""
    if not state.commits or config.folders.consolidated.is_dir():  # a merge may have removed what it consolidated
        return
    if set(there).isdisjoint(commit["file"] for commit in state.commits.values()):
        _log.warning(
            "shards_not_there folder=%s committed=%d: is its disk mounted, and is it the --cold-dir of before?",
            config.folders.where,
            len(state.commits),
        )


def _compare_columns(known: DataSet, config: RunConfig) -> None:
    asked = {
        "columns": config.source.columns,
        "vector-type": config.sink.vector_type,
        "truncated-column": config.sink.truncated_column,
    }
    there = {
        "columns": tuple(name for name, _ in known.schema.columns),
        "vector-type": known.schema.vector_type,
        "truncated-column": known.schema.truncated,
    }
    for name, value in asked.items():
        if value != there[name]:
            raise ConfigError(
                f"--{name} is {_shown(value)}, but the data set in {config.folders.hot} was begun with "
                f"{_shown(there[name])}: use the same, or begin another data set with another --done-field"
            )


def _shown(value: Any) -> str:
    """An option's value as a person would give it."""
    if isinstance(value, tuple):
        return ",".join(value) or "empty"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refuse_foreign_shards(config: RunConfig, there: Collection[str]) -> None:
    """A new ledger beside shards of the same done field means that a ledger was lost or another one is in use."""
    own = re.compile(re.escape(config.source.done_field) + r"-[0-9a-f]{6}-e\d+-\d+\.parquet(" + IN_PROGRESS + ")?")
    names = sorted(name for name in there if own.fullmatch(name))
    if names:
        raise ConfigError(
            f"{config.folders.where} holds {len(names)} shards of --done-field {config.source.done_field} (for "
            f"example {names[0]}), but the ledger in {config.folders.hot} is new: name the --hot-dir they were "
            "written with, restore its ledger, or use another --cold-dir"
        )
