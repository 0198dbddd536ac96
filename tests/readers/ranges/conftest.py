"""The collection is here as the reader opens it."""

from tests.readers.opened import client, documents

__all__ = ["client", "documents"]
