"""The two indexes of the work queue: created, checked, and watched while they build.

`embedding_work_queue`   {lang: 1, classified: 1, _id: 1}, partial on {retweeted: null, <done-field>: null}
`processed_monitor_idx`  {<done-field>: 1}, sparse

With `--retweeted false` or `any` the first is partial on {retweeted: false, <done-field>: null} or {<done-field>: null}
and has `_retweeted_false` or `_retweeted_any` in its name. A second done field on the same collection gets indexes of
its own, under the same names with the field's name behind. Indexes are recognised by what they are, not by how they are
called. They compare text byte by byte, also in a collection that has a collation of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

from pymongo.errors import OperationFailure, PyMongoError

from engine.errors import ConfigError
from engine.records import RETWEETED_VALUES
from readers.batching.ports import Document
from readers.mongo.collection_kind import require_ordinary
from readers.mongo.connection import Documents
from readers.mongo.errors import attempt, describe, is_away, is_missing_collection, is_refusal, translate
from readers.mongo.index_build import BuildProgress, build_progress
from readers.mongo.work_queue import (
    BY_ID,
    CLASSIFIED,
    ID_INDEX,
    LANG,
    RETWEETED,
    SIMPLE,
    WorkQuery,
    WorkQueue,
    queue_conditions,
)

QUEUE_NAME = "embedding_work_queue"
MONITOR_NAME = "processed_monitor_idx"

_INDEX_EXISTS_CODES = frozenset((85, 86))  # IndexOptionsConflict, IndexKeySpecsConflict
_MOST_INDEXES = 1_000
"""More than a collection may have (64): the whole list comes in one answer."""


class IndexState(str, Enum):
    """What was found, or done, about one index."""

    PRESENT = "present"
    CREATED = "created"
    MISSING = "missing"
    BUILDING = "building"
    HIDDEN = "hidden"
    DIFFERS = "differs"

    __str__ = str.__str__  # Pythons differ in what they print else


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """One index of one collection.

    Attributes:
        collection: Full name of the collection.
        name: Name of the index (the one it has, or the one it would get).
        state: What was found or done.
        detail: A sentence when something has to be done, else empty.
    """

    collection: str
    name: str
    state: IndexState
    detail: str = ""

    @property
    def usable(self) -> bool:
        """Whether the engine can work with it."""
        return self.state in (IndexState.PRESENT, IndexState.CREATED)

    def as_dict(self) -> dict[str, str]:
        """For a JSON report."""
        return {"collection": self.collection, "name": self.name, "state": self.state.value, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An index as it has to be."""

    name: str
    keys: tuple[tuple[str, int], ...]
    options: Document

    def create_on(self, collection: Documents, name: str) -> None:
        collection.create_index(list(self.keys), name=name, collation=SIMPLE, **self.options)

    def is_met_by(self, found: Document) -> bool:
        """Whether an existing index does the same, whatever its name; hidden ones included."""
        return self.has_keys_of(found) and (
            _conditions(found.get("partialFilterExpression"))
            == _conditions(self.options.get("partialFilterExpression"))
            and bool(found.get("sparse")) == bool(self.options.get("sparse"))
            and (not found.get("collation") or self.name == MONITOR_NAME)  # no collation orders marks otherwise
        )

    def has_keys_of(self, found: Document) -> bool:
        """Whether an existing index has the same keys in the same order (shells write 1 as a double)."""
        return tuple(found["key"].items()) == self.keys


def _wanted(done_field: str, retweeted: str) -> tuple[_Wanted, _Wanted]:
    queue = _Wanted(
        QUEUE_NAME if retweeted == "null" else f"{QUEUE_NAME}_{RETWEETED}_{retweeted}",
        ((LANG, 1), (CLASSIFIED, 1), ("_id", 1)),
        {"partialFilterExpression": queue_conditions(done_field, retweeted)},
    )
    return queue, _Wanted(MONITOR_NAME, ((done_field, 1),), {"sparse": True})


def _conditions(expression: Document | None) -> Document | None:
    """A partial filter with `{$eq: x}` written as `x`."""
    if expression is None:
        return None
    return {
        name: value["$eq"] if isinstance(value, dict) and list(value) == ["$eq"] else value
        for name, value in expression.items()
    }


def check_indexes(collection: Documents, done_field: str, *, retweeted: str = "null") -> list[IndexReport]:
    """What there is of the two indexes; changes nothing.

    Args:
        retweeted: See `readers.mongo.work_queue.queue_conditions`.

    Raises:
        ConfigError, SourceError: the collection is no ordinary one, or MongoDB refuses or does not answer.
    """
    require_ordinary(collection)
    existing = _existing(collection)
    return [_judge(collection, one, done_field, retweeted, existing) for one in _wanted(done_field, retweeted)]


def create_indexes(
    collection: Documents,
    done_field: str,
    *,
    retweeted: str = "null",
    on_progress: Callable[[str, float], None] | None = None,
) -> list[IndexReport]:
    """Create what is missing of the two indexes, or wait for what is being built; does nothing when both are there.

    Args:
        retweeted: See `readers.mongo.work_queue.queue_conditions`.
        on_progress: Gets the index's name and how much of it is built, 0 to 1, about twice a second.

    Raises:
        ConfigError: there is no such collection, it is no ordinary one, an index of that name is there and different,
            or the rights do not suffice.
        SourceError: MongoDB refuses or does not answer.
    """
    require_collection(collection)
    require_ordinary(collection)
    reports = []
    for wanted in _wanted(done_field, retweeted):
        report = _judge(collection, wanted, done_field, retweeted, _existing(collection))
        if report.state in (IndexState.MISSING, IndexState.BUILDING):  # the same build asked for twice is one build
            with BuildProgress(collection, report.name, on_progress):
                _create(collection, wanted, report.name)
            report = IndexReport(collection=report.collection, name=report.name, state=IndexState.CREATED)
        elif not report.usable:
            raise ConfigError(report.detail)
        reports.append(report)
    return reports


def require_collection(collection: Documents) -> None:
    """Refuse a name that no collection has: a typing mistake must not look like an empty collection.

    Raises:
        ConfigError: there is none; names those that there are.
        SourceError: MongoDB does not answer.
    """
    database = collection.database
    names = attempt(
        lambda: database.list_collection_names(authorizedCollections=True),
        f"listing the collections of {database.name}",
    )
    if collection.name not in names:
        there = ", ".join(sorted(names)[:10]) or "none"
        raise ConfigError(
            f"the database {database.name} has no collection {collection.name} (it has: {there}): "
            "check --database and --collection"
        )


def require_queue_index(collection: Documents, query: WorkQuery, fields: tuple[str, ...]) -> WorkQueue:
    """The work queue on a usable index, after the server has proved that it follows that index.

    Args:
        fields: Paths of the fields to fetch besides `_id`.

    Raises:
        ConfigError: there is no usable index, names the command that creates it; or the collection is no ordinary one.
        SourceError: MongoDB refuses or does not answer.
    """
    require_ordinary(collection)
    return attempt(lambda: open_queue(collection, query, fields), f"checking the index of {collection.full_name}")


def open_queue(collection: Documents, query: WorkQuery, fields: tuple[str, ...]) -> WorkQueue:
    """`require_queue_index` for a caller that retries by itself.

    Raises:
        ConfigError: there is no usable index.
        pymongo.errors.PyMongoError: MongoDB refuses or does not answer.
    """
    name = ID_INDEX
    if query.scan != "id":
        wanted, _ = _wanted(query.done_field, query.retweeted)
        report = _judge(collection, wanted, query.done_field, query.retweeted, _listed(collection))
        if not report.usable:
            raise ConfigError(report.detail)
        name = report.name
    queue = WorkQueue(collection, query, name, fields, merges=collection.database.client.is_mongos)
    try:
        plan = queue.explain()
    except OperationFailure as error:
        if is_refusal(error) and query.part is not None and "$toHashedIndexKey" in str(error):
            raise ConfigError(
                f"this server cannot tell the shares of --part apart ({describe(error)}): they stand on "
                "$toHashedIndexKey, which MongoDB has from 5.0 on"
            ) from error
        if is_refusal(error):
            raise ConfigError(
                f"MongoDB does not take the work query on {collection.full_name} ({describe(error)}): check --filter "
                "and --text-field"
            ) from error
        raise
    _require_plan(plan, name, collection)
    return queue


def _require_plan(plan: Document, name: str, collection: Documents) -> None:
    stages = list(_stages(plan))
    kinds = [stage["stage"] for stage in stages]
    scans = [stage for stage in stages if stage["stage"] in ("IXSCAN", "COLLSCAN", "CLUSTERED_IXSCAN")]
    follows = _follows_id if name == ID_INDEX else partial(_follows_queue, name)
    if not scans or not all(map(follows, scans)) or "SORT" in kinds:
        raise ConfigError(
            f"MongoDB does not follow the index {name} of {collection.full_name} (its plan: {' <- '.join(kinds)}): "
            "run `engine index --check` and create the index anew"
        )


def _follows_id(scan: Document) -> bool:
    """Whether a scan goes by `_id`: by its index, or by the documents themselves where these are clustered by it."""
    return scan["stage"] == "CLUSTERED_IXSCAN" or scan.get("keyPattern") == BY_ID


def _follows_queue(name: str, scan: Document) -> bool:
    return scan.get("indexName") == name and bool(scan.get("isPartial"))


def _stages(plan: Any) -> Any:
    """Every stage of a plan, whatever nests it (shards, slot-based engine)."""
    if isinstance(plan, dict):
        if "stage" in plan:
            yield plan
        for value in plan.values():
            yield from _stages(value)
    elif isinstance(plan, list):
        for value in plan:
            yield from _stages(value)


def _existing(collection: Documents) -> list[Document]:
    return attempt(lambda: _listed(collection), f"listing the indexes of {collection.full_name}")


def _listed(collection: Documents) -> list[Document]:
    """The indexes as the server describes them; one that is still being built has `building`."""
    command: Document = {"listIndexes": collection.name, "cursor": {"batchSize": _MOST_INDEXES}}
    try:
        try:
            answer = collection.database.command({**command, "includeBuildUUIDs": True})
        except OperationFailure as error:
            if is_away(error) or is_missing_collection(error):
                raise
            answer = collection.database.command(command)  # a server, or a strict API, without that field
    except OperationFailure as error:
        if is_missing_collection(error):
            return []
        raise
    found: list[Document] = answer["cursor"]["firstBatch"]
    return [{**one["spec"], "building": True} if "spec" in one else one for one in found]


def _judge(
    collection: Documents, wanted: _Wanted, done_field: str, retweeted: str, existing: list[Document]
) -> IndexReport:
    def report(name: str, state: IndexState, detail: str = "") -> IndexReport:
        return IndexReport(collection=collection.full_name, name=name, state=state, detail=detail)

    same = [found for found in existing if wanted.is_met_by(found)]
    for found in same:
        if not found.get("hidden") and not found.get("building"):
            return report(found["name"], IndexState.PRESENT)
    command = _command(collection, done_field, retweeted)
    for found in same:
        if found.get("building"):
            detail = (
                f"the index {found['name']} of {collection.full_name} is still being built"
                f"{_how_far(collection, found['name'])}: wait for it (`{command}` does, and says how far it is)"
            )
            return report(found["name"], IndexState.BUILDING, detail)
    if same:
        name = same[0]["name"]
        detail = f"the index {name} of {collection.full_name} is hidden, so no query may use it: unhide it (collMod)"
        return report(name, IndexState.HIDDEN, detail)
    by_name = {found["name"]: found for found in existing}
    own_name = f"{wanted.name}_{done_field}"
    for name in (wanted.name, own_name):
        if name not in by_name:
            missing = f"{collection.full_name} has no index {name} for {done_field}: run `{command}`"
            return report(name, IndexState.MISSING, missing)
        if _belongs_to(by_name[name], wanted, done_field, retweeted):
            break  # not another done field's index but a spoilt one of ours
    else:
        name = own_name
    detail = (
        f"the index {name} of {collection.full_name} is not what the engine needs (expected keys "
        f"{dict(wanted.keys)} with {wanted.options} and the simple collation): drop it and run `{command}`"
    )
    return report(name, IndexState.DIFFERS, detail)


def _how_far(collection: Documents, name: str) -> str:
    try:
        share = build_progress(collection.database.client, collection.full_name, name)
    except PyMongoError:  # no right to look
        return ""
    return "" if share is None else f" ({share:.0%})"


def _belongs_to(found: Document, wanted: _Wanted, done_field: str, retweeted: str) -> bool:
    """Whether an index of one of our names is not simply the right index of another work queue."""
    if wanted.name == MONITOR_NAME:
        return list(found["key"]) == [done_field] or len(found["key"]) != 1 or not found.get("sparse")
    expression = _conditions(found.get("partialFilterExpression")) or {}
    others = [name for name in expression if name != RETWEETED]
    queues = [(others[0], value) for value in RETWEETED_VALUES] if len(others) == 1 else []
    whose = [queue for queue in queues if expression == queue_conditions(*queue)]
    return not (wanted.has_keys_of(found) and whose and whose[0] != (done_field, retweeted))


def _command(collection: Documents, done_field: str, retweeted: str) -> str:
    return (
        f"engine index --database {collection.database.name} --collection {collection.name} --done-field {done_field}"
        + (f" --retweeted {retweeted}" if retweeted != "null" else "")
    )


def _create(collection: Documents, wanted: _Wanted, name: str) -> None:
    try:
        wanted.create_on(collection, name)
    except OperationFailure as error:
        if error.code in _INDEX_EXISTS_CODES:
            raise ConfigError(
                f"the index {name} of {collection.full_name} cannot be created beside one that is there "
                f"({describe(error)}): drop that one or rename it"
            ) from error
        raise translate(error, f"creating the index {name} of {collection.full_name}") from error
    except PyMongoError as error:
        raise translate(error, f"creating the index {name} of {collection.full_name}") from error
