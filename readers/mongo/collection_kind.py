"""What kind of collection a name stands for: views, time series and MongoDB's own cannot be embedded from."""

from __future__ import annotations

from typing import Any

from pymongo.errors import OperationFailure

from engine.errors import ConfigError
from readers.mongo.connection import Documents
from readers.mongo.errors import attempt, is_away


def require_ordinary(collection: Documents) -> None:
    """Refuse what has no `_id` index to read by, or whose documents cannot bear a mark. A missing collection passes.

    Raises:
        ConfigError: it is a view, a time-series collection or one of MongoDB's own; says what to name instead.
        SourceError: MongoDB does not answer.
    """
    name = collection.full_name
    if collection.name.startswith("system."):
        raise ConfigError(f"{name} belongs to MongoDB itself: name an ordinary collection with --collection")
    found = attempt(lambda: _described(collection), f"looking at {name}")
    kind = found.get("type", "collection")
    if kind == "view":
        base = found.get("options", {}).get("viewOn")
        stands_on = f"on {base}" if base else "on another collection"
        raise ConfigError(
            f"{name} is a view {stands_on}: a view has no indexes, and its documents cannot be marked: name the "
            "collection itself with --collection, and the view's condition with --filter"
        )
    if kind == "timeseries":
        raise ConfigError(
            f"{name} is a time-series collection: it has no index of _id, and its documents cannot be marked: copy "
            "what is to be embedded into an ordinary collection (an aggregation that ends with $out or $merge) and "
            "name that with --collection"
        )


def _described(collection: Documents) -> dict[str, Any]:
    """What the server lists of it: `type`, and `options` where the rights suffice; empty for a missing collection."""
    wanted = {"name": collection.name}
    try:
        found = list(collection.database.list_collections(filter=wanted))
    except OperationFailure as error:
        if is_away(error):
            raise
        found = _described_by_name(collection, wanted)
    return dict(found[0]) if found else {}


def _described_by_name(collection: Documents, wanted: dict[str, Any]) -> list[Any]:
    """As much as a user sees who may read this one collection only; nothing when not even that is allowed."""
    try:
        return list(collection.database.list_collections(filter=wanted, nameOnly=True, authorizedCollections=True))
    except OperationFailure as error:
        if is_away(error):
            raise
        return []
