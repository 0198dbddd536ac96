"""Marking by the id column of a shard: joins what the engine's marking asks for with what MongoDB's marker takes."""

from __future__ import annotations

from engine.memory.ids import IdType
from engine.ports import IdList
from readers.mongo.ids import to_bson_ids
from readers.mongo.marker import Marker, MarkResult


class ShardMarker:
    """`engine.ports.DocumentMarker` over MongoDB."""

    def __init__(self, marker: Marker, id_type: IdType) -> None:
        self._marker = marker
        self._id_type = id_type

    def mark(self, ids: IdList, *, ours_before: bool) -> MarkResult:
        """See the protocol."""
        return self._marker.mark(to_bson_ids(self._id_type, ids), ours_before=ours_before)

    def close(self) -> None:
        """Close the connection."""
        self._marker.close()
