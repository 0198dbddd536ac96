"""Fixtures of tests against a collection as the reader opens it; the conftest of a room takes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pymongo.database import Database

from bench.parts.local_mongod import LocalMongod
from readers.mongo.connection import Client, Documents, open_client, open_collection


@pytest.fixture
def client(mongod: LocalMongod) -> Iterator[Client]:
    """The reader's own client."""
    with open_client(mongod.uri) as found:
        yield found


@pytest.fixture
def documents(client: Client, mongo_db: Database[dict[str, Any]]) -> Documents:
    """An empty collection."""
    return open_collection(client, mongo_db.name, "tweets")
