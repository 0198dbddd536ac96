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
from engine.part import Part
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
        part: The share of the queue that it holds, or None for the whole.
    """

    ledger: str
    prefix: str
    schema: ShardSchema
    fingerprint: Fingerprint
    part: Part | None = None

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
    part = Part.parse(record["part"]) if "part" in record else None
    return DataSet(
        ledger=record["ledger"],
        prefix=_prefix(record["done_field"], record["ledger"], part),
        schema=ShardSchema(
            id_type=IdType(schema["id_type"]),
            columns=tuple((name, kind) for name, kind in schema["columns"]),
            dim=schema["dim"],
            vector_type=schema["vector_type"],
            truncated=schema["truncated"],
        ),
        fingerprint=Fingerprint.from_dict(record["fingerprint"]),
        part=part,
    )


def _prefix(done_field: str, ledger: str, part: Part | None) -> str:
    return f"{done_field}-{ledger[:6]}-" + ("" if part is None else f"{part.in_names}-")


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
        ConfigError: another column set, vector type or share, or shards of a ledger whose share overlaps this one.
    """
    known = recorded(ledger.state)
    there = (lambda: [path.name for path in config.folders.shards.iterdir()]) if names is None else names
    if known is None:
        refuse_overlapping_shards(config, there(), own="")
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
        if config.source.part is not None:
            record["part"] = str(config.source.part)
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
    _compare_parts(known, config)
    if known.part is not None:
        refuse_overlapping_shards(config, there(), own=known.prefix)
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


def _compare_parts(known: DataSet, config: RunConfig) -> None:
    """Refuse another share: its rows would be lost to one ledger and doubled in another (G1, G2)."""
    if known.part != config.source.part:
        asked, began = (
            "the whole queue (without --part)" if part is None else f"--part {part}"
            for part in (config.source.part, known.part)
        )
        raise ConfigError(
            f"this run would read {asked}, but the data set in {config.folders.hot} was begun with {began}: a share is "
            "for good; use the same, or begin another data set with another --hot-dir, --cold-dir and --done-field"
        )


def _shown(value: Any) -> str:
    """An option's value as a person would give it."""
    if isinstance(value, tuple):
        return ",".join(value) or "empty"
    return str(value).lower() if isinstance(value, bool) else str(value)


def refuse_overlapping_shards(config: RunConfig, there: Collection[str], *, own: str) -> None:
    """Refuse shards of another ledger that may hold documents of this one: all but those of other shares of as many.

    Beside a new ledger they mean that a ledger was lost or another one is in use.

    Args:
        there: Names of the files where shards are.
        own: Start of the names of this ledger's own; empty for a new ledger, which has none.

    Raises:
        ConfigError: there are some; names one.
    """
    shard = re.compile(
        re.escape(config.source.done_field)
        + r"-[0-9a-f]{6}-(?:p(\d+)of(\d+)-)?e\d+(?:n\d+)?-\d+\.parquet(?:"
        + re.escape(IN_PROGRESS)
        + ")?"
    )
    part = config.source.part
    names = []
    for name in sorted(there):
        found = shard.fullmatch(name)
        if found is None or (own and name.startswith(own)):
            continue
        of_other_share = part is not None and found[2] == str(part.count) and found[1] != str(part.number)
        if not of_other_share:
            names.append(name)
    if not names:
        return
    said = (
        f"{config.folders.where} holds {len(names)} shards of --done-field {config.source.done_field} (for example "
        f"{names[0]})"
    )
    hot = config.folders.hot
    if part is None:
        raise ConfigError(
            f"{said}, but the ledger in {hot} is new: name the --hot-dir they were written with, restore its ledger, "
            "or use another --cold-dir"
        )
    raise ConfigError(
        f"{said} of a ledger that is not the one in {hot}, and --part {part} overlaps what they hold: name the "
        "--hot-dir they were written with, give every machine the same n and another i of --part i/n, or use another "
        "--cold-dir"
    )
