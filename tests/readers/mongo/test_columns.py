"""Column types from a sample of a collection."""

from __future__ import annotations

import datetime

from bson import Decimal128

from readers.mongo.columns import sample_columns
from readers.mongo.connection import Documents


def test_column_types_follow_from_a_sample(documents: Documents) -> None:
    documents.insert_many(
        [
            {
                "_id": 1,
                "i": 5,
                "d": 1.5,
                "b": True,
                "s": "x",
                "t": datetime.datetime(2020, 1, 1),
                "m": 1,
                "o": {"k": 1},
            },
            {
                "_id": 2,
                "i": 2**40,
                "d": 3,
                "b": None,
                "s": "",
                "m": "x",
                "o": [1],
                "u": {"id": 7},
                "x": Decimal128("1"),
            },
        ]
    )
    names = ("i", "d", "b", "s", "t", "m", "o", "u.id", "x", "nowhere")
    inferred = sample_columns(documents, names)
    assert dict(inferred.columns) == {
        "i": "int64",
        "d": "double",
        "b": "bool",
        "s": "string",
        "t": "timestamp",
        "m": "json",
        "o": "json",
        "u.id": "int64",
        "x": "json",
        "nowhere": "string",
    }
    assert inferred.absent == ("nowhere",)
    assert sample_columns(documents, ()).columns == ()
