"""Carried columns from MongoDB: which BSON types become which column types, and a sample to decide by."""

from __future__ import annotations

from collections.abc import Sequence

from bson import json_util
from bson.datetime_ms import DatetimeMS
from bson.int64 import Int64
from bson.json_util import JSONMode, JSONOptions

from readers.batching.columns import InferredColumns, infer_columns
from readers.batching.ports import ValueTypes
from readers.mongo.connection import Documents
from readers.mongo.errors import attempt

SAMPLE_ROWS = 200

_RELAXED = JSONOptions(json_mode=JSONMode.RELAXED)


def _relaxed_json(value: object) -> str:
    return json_util.dumps(value, json_options=_RELAXED)


BSON_TYPES = ValueTypes(
    kinds={int: "int64", Int64: "int64", float: "double", bool: "bool", str: "string", DatetimeMS: "timestamp"},
    milliseconds=int,
    json=_relaxed_json,
)
"""Types as `readers.mongo.connection.CODEC` decodes them; `json` is relaxed extended JSON."""


def sample_columns(collection: Documents, names: Sequence[str]) -> InferredColumns:
    """Decide the types of carried columns from a random sample of up to 200 documents.

    Raises:
        ConfigError, SourceError: MongoDB refuses or does not answer.
    """
    if not names:
        return InferredColumns(columns=(), absent=())
    roots = dict.fromkeys(name.partition(".")[0] for name in names)
    pipeline = [{"$sample": {"size": SAMPLE_ROWS}}, {"$project": dict.fromkeys(roots, 1)}]
    sample = attempt(
        lambda: list(collection.aggregate(pipeline)), f"sampling {collection.full_name} for the types of --columns"
    )
    return infer_columns(sample, names, BSON_TYPES)
