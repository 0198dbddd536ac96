"""Why a work queue is empty although the collection is not: a value of `retweeted`, a misspelt language, a filter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pymongo.errors import OperationFailure

from readers.batching.ports import Document
from readers.mongo.connection import Documents
from readers.mongo.errors import attempt, is_refusal
from readers.mongo.work_queue import LANG, RETWEETED, WorkQuery

SAMPLE_ROWS = 1_000
MAX_TIME_MS = 5_000
"""For each of the two questions that are asked of the server."""

_MOST_VALUES = 5
_TIME_EXCEEDED = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    """How many documents of a sample each condition of the queue keeps out; one document may count several times.

    Attributes:
        n_drawn: Documents of the sample.
        retweeted: Of these, the ones whose `retweeted` is another than the queue wants.
        retweeted_values: What they say instead, most frequent first.
        lang: The ones in another language.
        langs: Languages of the sample, most frequent first.
        condition: The ones that `--filter` does not take.
        done: The ones whose done field is set.
    """

    n_drawn: int
    retweeted: int
    retweeted_values: list[tuple[str, int]]
    lang: int
    langs: list[tuple[str, int]]
    condition: int
    done: int


def why_empty(collection: Documents, query: WorkQuery) -> str | None:
    """Why the work queue holds nothing, in one sentence; None when that is because its documents are marked.

    For a queue that was found empty. A queue of which a document was marked has been worked off. Otherwise a sample of
    the collection tells which condition keeps how many documents out.

    Raises:
        ConfigError, SourceError: MongoDB refuses or does not answer.
    """
    name = collection.full_name
    if attempt(lambda: _was_ever_marked(collection, query), f"searching {name} for marked documents"):
        return None
    counts = attempt(lambda: _count(collection, query), f"sampling {name}")
    if counts is None or not counts.n_drawn:
        return None
    reasons = list(_reasons(counts, query))
    if not reasons:
        return None
    return (
        f"nothing of {name} is in the work queue, and nothing that would be was found marked: of {counts.n_drawn:,} "
        f"documents at random {'; '.join(reasons)}"
    )


def _was_ever_marked(collection: Documents, query: WorkQuery) -> bool:
    """Whether a document that fulfils the queue's other conditions is marked; False when none was found in time."""
    marked = {**query.predicates(), query.done_field: {"$exists": True, "$ne": None}}  # by the sparse index
    try:
        found = collection.find_one(marked, {"_id": 1}, max_time_ms=MAX_TIME_MS, collation=query.collation)
    except OperationFailure as error:
        if error.code == _TIME_EXCEEDED:
            return False
        raise
    return found is not None


def _count(collection: Documents, query: WorkQuery) -> _Counts | None:
    """The counts; None when the sample takes too long."""
    counted: dict[str, Document] = {"all": {}, "done": {query.done_field: {"$ne": None}}}
    wanted = query.predicates()
    if RETWEETED in wanted:
        counted[RETWEETED] = {"$nor": [{RETWEETED: wanted[RETWEETED]}]}
    if query.langs:
        counted[LANG] = {LANG: {"$nin": list(query.langs)}}
    if query.condition:
        counted["filter"] = {"$nor": [query.condition]}
    facets: dict[str, list[Document]] = {
        name: [{"$match": condition}, {"$count": "n"}] for name, condition in counted.items()
    }
    if RETWEETED in counted:
        facets["values"] = [{"$match": counted[RETWEETED]}, *_most_frequent(RETWEETED)]
    facets["langs"] = _most_frequent(LANG)
    while True:
        pipeline: list[Document] = [{"$sample": {"size": SAMPLE_ROWS}}, {"$facet": facets}]
        try:
            cursor = collection.aggregate(pipeline, maxTimeMS=MAX_TIME_MS, collation=query.collation, allowDiskUse=True)
            found: Document = next(iter(cursor))
            break
        except OperationFailure as error:
            if error.code == _TIME_EXCEEDED:
                return None
            if "filter" in facets and is_refusal(error):
                del facets["filter"]  # `$where` and the like cannot be asked for here
                continue
            raise

    def n(name: str) -> int:
        return int(found[name][0]["n"]) if found.get(name) else 0

    return _Counts(
        n_drawn=n("all"),
        retweeted=n(RETWEETED),
        retweeted_values=_shown(found.get("values", [])),
        lang=n(LANG),
        langs=_shown(found["langs"]),
        condition=n("filter"),
        done=n("done"),
    )


def _most_frequent(field: str) -> list[Document]:
    """Stages that count what a field says; values that are long or nested count by their type."""
    path = f"${field}"
    is_plain = {"$in": [{"$type": path}, ["bool", "null", "missing", "int", "long", "double"]]}
    is_short = {"$and": [{"$eq": [{"$type": path}, "string"]}, {"$lt": [{"$strLenCP": {"$toString": path}}, 20]}]}
    kind = {"$concat": ["a value of the type ", {"$type": path}]}
    value: Document = {
        "$switch": {"branches": [{"case": is_plain, "then": path}, {"case": is_short, "then": path}], "default": kind}
    }
    return [{"$group": {"_id": value, "n": {"$sum": 1}}}, {"$sort": {"n": -1, "_id": 1}}, {"$limit": _MOST_VALUES}]


def _shown(groups: list[Document]) -> list[tuple[str, int]]:
    return [(_plain(group["_id"]), int(group["n"])) for group in groups]


def _plain(value: Any) -> str:
    if value is None:
        return "null or nothing"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _reasons(counts: _Counts, query: WorkQuery) -> Iterator[str]:
    """One phrase for each condition that keeps documents out."""
    if counts.retweeted:
        wants = "null or missing" if query.retweeted == "null" else query.retweeted
        yield (
            f"{counts.retweeted:,} are no originals by their field `{RETWEETED}` (the queue wants it {wants}, they "
            f"say {_listed(counts.retweeted_values)}; --retweeted null, false or any says what counts)"
        )
    if counts.lang:
        yield (
            f"{counts.lang:,} are in another language than --lang {','.join(query.langs)} "
            f"(there is {_listed(counts.langs)})"
        )
    if counts.condition:
        yield f"{counts.condition:,} are not what --filter takes"
    if counts.done:
        yield f"{counts.done:,} have a value in {query.done_field}, the done field, already"


def _listed(values: list[tuple[str, int]]) -> str:
    return ", ".join(f"{value}: {count:,}" for value, count in values)
