"""Samples of the collection and of what the servers make of them: all that a forecast goes by."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.tuner.measure.probe import Probed, probe
from bench.tuner.texts.corpus import WINDOW_TEXTS, Corpus
from bench.tuner.tuning import CHARACTERS_PER_TOKEN
from engine.config import RunConfig
from engine.errors import ServersUnavailable, SeveralBackends
from engine.memory.ids import IdType
from gpu_clients.servers.doctor import Fleet, examine
from gpu_clients.settings import ClientSettings
from readers.batching.skip import QuarantinedKeys, QuarantineLog
from readers.mongo.connection import open_client, open_collection, ping
from readers.mongo.ids import decide_id_type, key_of_text
from readers.mongo.sample import QueueSample, sample_queue
from readers.mongo.work_queue import WorkQuery
from readers.preflight.empty_queue import why_empty

_log = logging.getLogger("engine.plan")

PROBE_TEXTS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What the collection and the servers show.

    Attributes:
        queue: Texts of the work queue at random, and how many documents it holds.
        id_type: What the ids are.
        fleet: The servers, or None when none answers.
        corpus: The texts as a run would send them.
        probed: What the servers gave for some of them, or None when none answers.
    """

    queue: QueueSample
    id_type: IdType
    fleet: Fleet | None
    corpus: Corpus
    probed: Probed | None


def sample_documents(config: RunConfig, uri: str) -> tuple[QueueSample, IdType, str | None]:
    """Texts of the work queue at random, without what is in quarantine; the type of the ids; why the queue is empty.

    Raises:
        ConfigError, SourceError: the collection cannot be read.
    """
    source = config.source
    if source.files is not None:
        from commands.composition.files.sampling import sample_texts  # noqa: PLC0415 - only files need it

        files, kind = sample_texts(config, WINDOW_TEXTS)
        return files, kind, None if files.n_drawn else "every row is embedded or in quarantine"
    with open_client(uri, name="engine-plan") as client:
        ping(client, uri)
        collection = open_collection(client, source.database, source.collection)
        query = WorkQuery.of(source.done_field, source.langs, source.filter, source.scan, source.retweeted, source.part)
        quarantined = QuarantinedKeys(Path(tempfile.gettempdir()))
        for keys in QuarantineLog(str(config.folders.quarantine), key_of_text).new_keys():
            quarantined.add(keys)
        queue = sample_queue(
            collection,
            query,
            source.text_field,
            WINDOW_TEXTS,
            quarantined=quarantined,
            counts_without_text=True,
        )
        why_none = None if queue.n_drawn or not queue.n_documents else why_empty(collection, query)
        return queue, decide_id_type(collection), why_none


def sample_servers(settings: ClientSettings, queue: QueueSample, id_type: IdType, *, has_rate: bool) -> Samples:
    """Show the servers some of the texts.

    Args:
        has_rate: Whether the rate is known already, so that the forecast can do without servers.

    Raises:
        ConfigError: the servers cannot be used.
        ServersUnavailable: none answers, and `has_rate` is False.
    """
    fleet: Fleet | None = None
    probed = None
    try:
        fleet = examine(settings)
    except ServersUnavailable as error:
        if not has_rate or isinstance(error, SeveralBackends):
            raise
        _log.warning("%s; the forecast goes by --tuned alone", error)
    limit = limit_tokens(fleet)
    most = limit * CHARACTERS_PER_TOKEN if limit is not None and settings.truncate else None
    corpus = Corpus(list(queue.texts), prompt=settings.prompt, max_characters=most)
    if fleet is not None:
        for warning in fleet.warnings:
            _log.warning("%s", warning)
        probed = probe(fleet, settings, corpus.sample(PROBE_TEXTS))
    return Samples(queue=queue, id_type=id_type, fleet=fleet, corpus=corpus, probed=probed)


def limit_tokens(fleet: Fleet | None) -> int | None:
    """Tokens of the longest text that every server takes; None when no server says."""
    facts = [server.facts for server in fleet.servers if server.facts is not None] if fleet is not None else []
    return min((item.max_input_length for item in facts if item.max_input_length is not None), default=None)
