"""What the processes of a run are told (`StageComposer`), and how large the rings between them are (`plan_rings`)."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

from commands.composition.data_set import DataSet
from engine import __version__
from engine.config import RunConfig
from engine.errors import SinkError
from engine.leases.records import Token
from engine.ledger.log import Ledger, RunState
from engine.ledger.runfolder import RunFolders
from engine.memory.ids import IdType
from engine.memory.ring import MAX_SLOTS
from engine.memory.shared_rings import RingSizes
from engine.memory.slots import HEADER_BYTES, VectorLayout
from engine.supervision.run_plan import StagePlan
from gpu_clients.servers.doctor import Fleet
from gpu_clients.settings import ClientSettings
from readers.settings import ReaderSettings
from writers.cold.settings import ColdSettings
from writers.settings import ROW_GROUP_BYTES, WriterSettings

META_BYTES = 8 << 10
META_WITH_COLUMNS_BYTES = 128 << 10
META_PER_ROW_BYTES = 64
"""Ids of ordinary size; a batch whose ids need more is cut by the reader."""

_JSON_BYTES_PER_TOKEN = 4
_MIN_DOCUMENT_BYTES = 64 << 10
_MAX_DOCUMENT_BYTES = 512 << 10
_MAX_DOCUMENT_RING_BYTES = 96 << 20
_MIN_VECTOR_SLOTS = 16
_SPARE_DOCUMENT_SLOTS = 64
DEFAULT_MAX_INPUT_TOKENS = 512
CHARACTERS_PER_TOKEN = 250
"""A text is cut on the client at so many characters for each token the model takes, where TEI cuts it as well."""

WINDOW_ROWS = 8192


def plan_rings(config: RunConfig, fleet: Fleet, data_set: DataSet) -> RingSizes:
    """Sizes of both rings from the batch size, the model and what the servers admit."""
    batch = fleet.batch_size
    has_columns = bool(config.source.columns) or config.source.id_field is not None
    meta = (META_WITH_COLUMNS_BYTES if has_columns else META_BYTES) + batch * META_PER_ROW_BYTES
    layout = VectorLayout(dim=data_set.schema.dim, max_rows=batch, meta_capacity_bytes=meta)
    tokens = max_input_tokens(fleet)
    body = min(max(batch * tokens * _JSON_BYTES_PER_TOKEN, _MIN_DOCUMENT_BYTES), _MAX_DOCUMENT_BYTES)
    document_bytes = _round_up(HEADER_BYTES + meta + batch * 2 + body)
    window = config.servers.concurrency or min(fleet.max_concurrency, config.servers.max_concurrency)
    in_flight = len(config.servers.urls) * window
    n_documents = min(in_flight + _SPARE_DOCUMENT_SLOTS, _MAX_DOCUMENT_RING_BYTES // document_bytes)
    return RingSizes(
        n_documents=max(8, n_documents),
        document_bytes=document_bytes,
        n_vectors=min(MAX_SLOTS, max(_MIN_VECTOR_SLOTS, config.limits.ring_bytes // layout.slot_bytes)),
        layout=layout,
    )


def slot_id_type(config: RunConfig, data_set: DataSet) -> IdType:
    """What stands as ids in the slots: those of the id column, or the positions of files' rows."""
    return data_set.schema.id_type if config.source.files is None else IdType.INT64


def max_input_tokens(fleet: Fleet) -> int:
    """Tokens of the longest text that the model takes."""
    return known_max_input_tokens(fleet) or DEFAULT_MAX_INPUT_TOKENS


def known_max_input_tokens(fleet: Fleet) -> int | None:
    """Likewise; None when no server says so."""
    lengths = [server.facts.max_input_length for server in fleet.servers if server.facts]
    return next((length for length in lengths if length), None)


def max_request_tokens(fleet: Fleet) -> int | None:
    """Estimated tokens of a request: no more than a GPU batch holds, or long texts would make it wait for several."""
    limits = [server.facts.max_batch_tokens for server in fleet.servers if server.facts]
    return min((limit for limit in limits if limit), default=None)


def _round_up(size_bytes: int) -> int:
    return -(-size_bytes // 64) * 64


class FilePlans(Protocol):
    """Files as the source of a run (`commands.composition.files.inspection.Files`, which only such runs import)."""

    def plan(self, folders: RunFolders) -> dict[str, Any]:
        """Write what the next generation reads; what its reader is told of it."""


class StageComposer:
    """Makes the stage plans of each generation."""

    def __init__(
        self,
        config: RunConfig,
        mongo_uri: str,
        clients: ClientSettings,
        fleet: Fleet,
        data_set: DataSet,
        rings: RingSizes,
        ledger: Ledger[RunState] | None,
        files: FilePlans | None = None,
        cold: ColdSettings | None = None,
    ) -> None:
        """
        Args:
            ledger: None on a node of a cluster, which has none.
            files: What the reader is told of files; None for MongoDB.
        """
        self._config = config
        self._mongo_uri = mongo_uri
        self._clients = clients
        self._fleet = fleet
        self._data_set = data_set
        self._rings = rings
        self._ledger = ledger
        self._files = files
        self._cold = cold

    def stages(self, epoch: int, remaining: int | None) -> list[StagePlan]:
        """The plans of all child processes.

        Args:
            epoch: The epoch of this generation; shard names carry it.
            remaining: Documents that may still be read, None for all.
        """
        files = None if self._files is None else self._files.plan(self._config.folders)
        return self._plans(self._reader(remaining, files), self._writer(f"e{epoch:04d}", files))

    def stages_of_node(
        self,
        token: Token,
        quarantine_before: int,
        files: dict[str, Any] | None = None,
        done_ids_file: str | None = None,
    ) -> list[StagePlan]:
        """The plans of the processes of one node of a cluster, whose reader is given parts of the queue one by one.

        Args:
            token: What its shards are committed under; their names tell it.
            quarantine_before: Bytes of the quarantine file that were there before the run.
            files: What reader and writer are told of files; None for MongoDB.
            done_ids_file: See `ReaderSettings`.
        """
        reader = dataclasses.replace(
            self._reader(None, files),
            by_ranges=True,
            quarantine_before=quarantine_before,
            done_ids_file=done_ids_file,
        )
        return self._plans(reader, self._writer(token.in_names, files))

    def _plans(self, reader: ReaderSettings, writer: WriterSettings) -> list[StagePlan]:
        clients = [
            StagePlan(
                role=f"client-{index}",
                stage="gpu_clients.stage",
                settings=self._fleet.client_settings(self._clients, index).as_dict(),
            )
            for index in range(len(self._config.servers.urls))
        ]
        return [
            StagePlan(role="reader", stage="readers.stage", settings=reader.as_dict()),
            *clients,
            StagePlan(role="writer", stage="writers.stage", settings=writer.as_dict()),
        ]

    def _reader(self, remaining: int | None, files: dict[str, Any] | None) -> ReaderSettings:
        source, servers, limits = self._config.source, self._config.servers, self._config.limits
        body = self._rings.document_bytes - HEADER_BYTES - self._rings.layout.meta_capacity_bytes
        tokens = max_input_tokens(self._fleet)
        return ReaderSettings(
            uri=self._mongo_uri,
            database=source.database,
            collection=source.collection,
            text_field=source.text_field,
            done_field=source.done_field,
            langs=source.langs,
            filter=source.filter,
            columns=self._data_set.schema.columns,
            scan=source.scan,
            retweeted=source.retweeted,
            id_type=slot_id_type(self._config, self._data_set).value,
            prompt=servers.prompt,
            batch_size=self._fleet.batch_size,
            max_text_bytes=body - self._fleet.batch_size * 2 - 2,
            max_characters=tokens * CHARACTERS_PER_TOKEN,
            max_tokens=known_max_input_tokens(self._fleet),
            apart_tokens=self._fleet.neighbours_from,
            max_request_tokens=max_request_tokens(self._fleet),
            truncate=servers.truncate,
            bucketing=self._bucketing(),
            window_rows=WINDOW_ROWS,
            dedup=servers.dedup,
            limit=remaining,
            mark=source.mark,
            quarantine_file=str(self._config.folders.quarantine),
            done_ids_file=self._done_ids_file(),
            keep_text=self._config.sink.keep_text,
            max_outage_s=limits.max_outage_s,
            part=None if source.part is None else str(source.part),
            files=files,
        )

    def _done_ids_file(self) -> str | None:
        """Without marks the shards say what is done: every id of them, sorted into a file for the reader.

        A shard that is not there any more and whose documents are marked was removed by a merge: the queue does not
        offer these documents.
        """
        if self._config.source.mark or self._config.source.files is not None or self._ledger is None:
            return None
        from readers.batching.done_ids import build  # noqa: PLC0415 - imports numpy, which only this mode needs here

        folders = self._config.folders
        path = folders.hot / "done-ids"
        shards = self._data_set.shards(folders, self._cold)
        state = self._ledger.state
        committed = [
            commit for name, commit in state.commits.items() if name not in state.marked or shards.has(commit["file"])
        ]
        try:
            build(
                path, self._data_set.schema.id_type, (ids for commit in committed for ids in shards.ids(commit["file"]))
            )
        except OSError as error:
            raise SinkError(f"cannot write {path} ({error.strerror}): free space on --hot-dir") from error
        return str(path)

    def _bucketing(self) -> bool:
        """`auto` sorts by length unless the doctor has measured that the servers do not pad."""
        wanted = self._config.servers.bucketing
        return self._fleet.pads is not False if wanted == "auto" else wanted == "on"

    def _writer(self, start: str, files: dict[str, Any] | None) -> WriterSettings:
        sink, data_set = self._config.sink, self._data_set
        return WriterSettings(
            folder=str(self._config.folders.shards),
            prefix=f"{data_set.prefix}{start}",
            shard_bytes=sink.shard_bytes,
            shard_seconds=sink.shard_seconds,
            id_type=data_set.schema.id_type.value,
            columns=data_set.schema.columns,
            dim=data_set.schema.dim,
            vector_type=data_set.schema.vector_type,
            truncated=data_set.schema.truncated,
            fingerprint=data_set.fingerprint.as_dict(),
            canary=self._fleet.canary_brief,
            ledger=data_set.ledger,
            version=__version__,
            row_group_bytes=min(ROW_GROUP_BYTES, sink.shard_bytes),
            names_file=None if files is None else files["plan"],
            has_id_field=self._config.source.id_field is not None,
            cold=None if self._cold is None else self._cold.as_dict(),
        )
