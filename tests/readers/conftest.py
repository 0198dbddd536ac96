"""Fixtures of the reader's tests."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.collection import Collection
from pymongo.database import Database


@pytest.fixture
def documents(mongo_db: Database[dict[str, Any]]) -> Collection[dict[str, Any]]:
    """An empty collection as a user opens it."""
    return mongo_db["tweets"]
