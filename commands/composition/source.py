"""The source as a run finds it: is there anything, can it be read by the index, which types do ids and columns have."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from commands.composition.patience import SAY_AFTER_S, Patience
from engine.config import SourceConfig
from engine.errors import SourceError
from engine.memory.ids import IdType
from readers.mongo.collection_kind import require_ordinary
from readers.mongo.columns import sample_columns
from readers.mongo.connection import Client, open_client, open_collection, ping, selection_ms
from readers.mongo.errors import attempt
from readers.mongo.ids import decide_id_type
from readers.mongo.index import require_collection, require_queue_index
from readers.mongo.work_queue import WorkQuery
from readers.preflight.empty_queue import why_empty
from readers.preflight.text_field import require_text_field

_log = logging.getLogger("engine.source")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a run has to know of the collection before it starts.

    Attributes:
        empty: Whether there is no document at all.
        id_type: What its ids are.
        columns: Carried columns with their types.
        why_idle: Why nothing is in the work queue although nothing was ever marked; None when something is or was.
    """

    empty: bool
    id_type: IdType = IdType.INT64
    columns: tuple[tuple[str, str], ...] = ()
    why_idle: str | None = None


def inspect_source(config: SourceConfig, uri: str, *, wait_s: float) -> Source:
    """Look at the collection; refuse what cannot be read.

    Args:
        wait_s: How long to wait for a MongoDB that does not answer yet.

    Raises:
        ConfigError: bad URI or credentials, no such collection, no usable index, a filter that MongoDB does not take,
            no text in the text field.
        SourceError: MongoDB does not answer.
    """
    with open_client(uri, name="engine-preflight", selection_ms=selection_ms(min(SAY_AFTER_S, wait_s))) as client:
        _ping_patiently(client, uri, wait_s)
        collection = open_collection(client, config.database, config.collection)
        require_ordinary(collection)
        first = attempt(lambda: collection.find_one({}, {"_id": 1}), f"reading {collection.full_name}")
        if first is None:
            require_collection(collection)
            return Source(empty=True)
        query = WorkQuery.of(config.done_field, config.langs, config.filter, config.scan, config.retweeted, config.part)
        queue = require_queue_index(collection, query, (config.text_field,))
        has_work = require_text_field(collection, queue, config.text_field)
        inferred = sample_columns(collection, config.columns)
        for name in inferred.absent:
            _log.warning("column_absent name=%s: no document of a sample has it; it is written as strings", name)
        return Source(
            empty=False,
            id_type=decide_id_type(collection),
            columns=inferred.columns,
            why_idle=None if has_work else why_empty(collection, query),
        )


def _ping_patiently(client: Client, uri: str, wait_s: float) -> None:
    patience = Patience(wait_s)
    while True:
        try:
            ping(client, uri)
            return
        except SourceError as error:
            if patience.is_over():
                raise
            patience.tell("mongodb", error)
            time.sleep(min(0.5, patience.left_s))
