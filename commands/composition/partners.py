"""Whom a verification asks besides the files: MongoDB (level 4) and the embedding servers (level 5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import orjson

from commands.composition.canary import strange_cosine
from commands.composition.data_set import DataSet, recorded
from commands.composition.servers import keys_for
from commands.options.secrets import ServerSecrets
from engine.config import SourceConfig
from engine.errors import ConfigError, FingerprintMismatch, ServersUnavailable
from engine.ledger.log import RunState
from engine.memory.ids import IdType
from engine.part import Part
from engine.ports import IdList
from engine.records import Fingerprint
from gpu_clients.errors import Action, Failure, FailureKind
from gpu_clients.http.address import Address
from gpu_clients.http.client import HttpClient
from gpu_clients.http.polling import Poller
from gpu_clients.servers.doctor import Fleet, examine
from gpu_clients.servers.requester import Completion, Requester
from gpu_clients.servers.routes import choose_route
from gpu_clients.settings import ClientSettings
from gpu_clients.vectors.cutting import LongestBeginning
from gpu_clients.vectors.soundness import MIN_COSINE
from readers.batching.paths import getter
from readers.mongo.connection import open_client, open_collection, ping
from readers.mongo.errors import attempt
from readers.mongo.ids import from_bson_ids, key_of, to_bson_ids
from readers.mongo.marker import Marker
from writers.verify.config import VerifyConfig

if TYPE_CHECKING:
    from commands.composition.files.rows import FileRows

_REQUEST_TIMEOUT_S = 60.0
_TEXT_CHUNK = 1000


class Collection:
    """`writers.verify.config.Documents` over MongoDB."""

    has_marks = True

    def __init__(
        self,
        uri: str,
        database: str,
        collection: str,
        *,
        done_field: str,
        text_field: str,
        id_type: IdType,
        part: Part | None = None,
    ) -> None:
        """Connect.

        Args:
            part: The share whose marks are looked at, or None for all.

        Raises:
            ConfigError, SourceError: MongoDB refuses or does not answer.
        """
        self._client = open_client(uri, name="engine-verify")
        ping(self._client, uri)
        self._documents = open_collection(self._client, database, collection)
        self._marker = Marker(uri, database, collection, done_field)
        self._id_type = id_type
        self._part = part
        self._field = text_field
        self._text_of = getter(text_field)

    def marked_ids(self) -> Iterator[IdList]:
        """See the protocol."""
        for ids in self._marker.marked_ids(self._part):
            yield from_bson_ids(self._id_type, ids)

    def states(self, ids: IdList) -> list[str]:
        """See the protocol."""
        names = {True: "marked", False: "unmarked", None: "gone"}
        return [names[state] for state in self._marker.are_marked(to_bson_ids(self._id_type, ids))]

    def texts(self, ids: IdList) -> list[str | None]:
        """See the protocol."""
        values = to_bson_ids(self._id_type, ids)
        found: dict[Any, Any] = {}
        for start in range(0, len(values), _TEXT_CHUNK):
            chunk = values[start : start + _TEXT_CHUNK]
            rows = attempt(
                lambda chunk=chunk: list(self._documents.find({"_id": {"$in": chunk}}, {self._field: 1})),  # type: ignore[misc]
                f"reading {self._documents.full_name}",
            )
            found.update((key_of(row["_id"]), self._text_of(row)) for row in rows)
        texts = [found.get(key_of(value)) for value in values]
        return [text if isinstance(text, str) else None for text in texts]

    def close(self) -> None:
        """Close the connections."""
        self._marker.close()
        self._client.close()


class ServerEmbedder:
    """Embeds texts the way a run does, on the first server that answers."""

    def __init__(self, fleet: Fleet, settings: ClientSettings) -> None:
        """Choose a server.

        Raises:
            ServersUnavailable: none answers.
        """
        alive = [(index, server) for index, server in enumerate(fleet.servers) if server.facts is not None]
        if not alive:
            raise ServersUnavailable("no embedding server answers: start one, or use --level 4")
        index, server = alive[0]
        assert server.facts is not None  # chosen so
        self._poller = Poller()
        http = HttpClient(Address.parse(server.url), self._poller, settings.access(index))
        self._requester = Requester(
            http, choose_route(server.facts, settings.options), dim=fleet.dim, normalized=settings.normalize
        )
        self._dim = fleet.dim
        self._batch_size = fleet.batch_size
        self._timeout_s = server.facts.timeout_s(fleet.batch_size, _REQUEST_TIMEOUT_S)
        self._prompt = settings.prompt or ""

    def __call__(self, texts: list[str], /) -> npt.NDArray[np.float32]:
        """float32 (n_texts, dim).

        Raises:
            ServersUnavailable: a request failed.
        """
        matrix = np.empty((len(texts), self._dim), dtype=np.float32)
        for start in range(0, len(texts), self._batch_size):
            batch = [self._prompt + text for text in texts[start : start + self._batch_size]]
            self._embed(batch, matrix[start : start + len(batch)])
        return matrix

    def _embed(self, batch: list[str], rows: npt.NDArray[np.float32]) -> None:
        """Embed a batch; one that is refused for a text in it is halved, and a text too long is cut as a run cuts it.

        Raises:
            ServersUnavailable: a request failed for another reason, or a text is refused alone.
        """
        failure = self._ask(batch, rows)
        if failure is None:
            return
        if failure.action is Action.DIVIDE and len(batch) > 1:
            middle = len(batch) // 2
            self._embed(batch[:middle], rows[:middle])
            self._embed(batch[middle:], rows[middle:])
            return
        if failure.kind is FailureKind.TOO_LONG and self._embed_cut(batch[0], rows):
            return
        raise ServersUnavailable(
            f"embedding the sample failed ({failure.detail}): look at the server, then run it again"
        )

    def _embed_cut(self, text: str, row: npt.NDArray[np.float32]) -> bool:
        """Embed the longest beginning that the server takes; False when it takes none."""
        beginning = LongestBeginning(len(text))
        while (length := beginning.next()) is not None:
            refused = self._ask([text[:length]], row)
            if refused is not None and refused.kind is not FailureKind.TOO_LONG:
                return False
            beginning.tell(length, is_taken=refused is None)
        return bool(beginning.taken)

    def _ask(self, batch: list[str], rows: npt.NDArray[np.float32]) -> Failure | None:
        """One request; its vectors are in `rows` when nothing failed."""
        self._requester.submit([orjson.dumps(batch)], len(batch), timeout_s=self._timeout_s)
        completion = self._completion()
        if completion.failure is None:
            completion.decode_into(rows)
            completion.release()
        return completion.failure

    def _completion(self) -> Completion:
        """Wait for the one request in flight; its own deadline ends the wait."""
        while True:
            for completion in self._requester.poll(1.0):
                return completion

    def close(self) -> None:
        """Close the connections."""
        self._requester.abandon()
        self._poller.close()


@dataclass(frozen=True, slots=True)
class CollectionName:
    """A collection, and which of its fields matter."""

    database: str
    collection: str
    done_field: str
    text_field: str


class Partners:
    """Whom a verification asks besides the files: MongoDB, the embedding servers. Closes what it opened."""

    def __init__(self) -> None:
        self.documents: Collection | FileRows | None = None
        self.embedder: ServerEmbedder | None = None

    def connect(self, config: VerifyConfig, uri: str, name: CollectionName) -> None:
        """Connect to the collection of a data set.

        Raises:
            ConfigError: there is no such data set.
        """
        known = _data_set(config)
        self.documents = Collection(
            uri,
            name.database,
            name.collection,
            done_field=name.done_field,
            text_field=name.text_field,
            id_type=known.schema.id_type,
            part=known.part,
        )

    def read_files(self, config: VerifyConfig, source: SourceConfig) -> None:
        """Look at the files of a data set.

        Raises:
            ConfigError: there is no such data set, or a file has changed.
        """
        from commands.composition.files.rows import FileRows  # noqa: PLC0415 - only data sets of files need it

        known = _data_set(config)
        assert config.run_ledger is not None  # the data set is there
        self.documents = FileRows.of_data_set(config, config.run_ledger, source, known.schema.id_type)

    def embed_with(self, config: VerifyConfig, urls: tuple[str, ...], secrets: ServerSecrets) -> None:
        """Find a server that embeds as the data set's run did.

        Raises:
            FingerprintMismatch: the servers serve another vector space.
            ServersUnavailable: none answers.
        """
        known = _data_set(config)
        fleet, settings = examine_for(known.fingerprint, known.fingerprint.dim, urls, secrets)
        if differences := known.fingerprint.differences(fleet.fingerprint):
            raise FingerprintMismatch(f"the servers do not serve this data set's vectors: {'; '.join(differences)}")
        assert config.run_ledger is not None  # a data set has one
        cosine = strange_cosine(RunState.of(config.run_ledger), fleet.canary)
        if cosine is not None:
            raise FingerprintMismatch(
                "the servers do not serve this data set's vectors: those of the canary texts are others (cosine "
                f"{cosine:.4f}, expected at least {MIN_COSINE}): start servers as the run had them, or use --level 4"
            )
        self.embedder = ServerEmbedder(fleet, settings)

    def __enter__(self) -> Partners:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for partner in (self.documents, self.embedder):
            if partner is not None:
                partner.close()


def examine_for(
    known: Fingerprint | None, dim: int, urls: tuple[str, ...], secrets: ServerSecrets
) -> tuple[Fleet, ClientSettings]:
    """Examine servers as those that are to embed for a data set, and say how they are asked.

    Args:
        known: The data set's vector space, when it says so; whether theirs is the same is for the caller to judge.
        dim: Numbers that its vectors keep.

    Raises:
        ServersUnavailable: none answers.
    """
    settings = ClientSettings(
        urls=urls,
        prompt=known.prompt if known is not None else None,
        dimensions=None,
        normalize=known.normalize if known is not None else True,
        api_keys=keys_for(urls, secrets),
        headers=secrets.headers,
        ca_file=secrets.ca_file,
    )
    fleet = examine(settings)
    if fleet.dim > dim:
        settings = dataclasses.replace(settings, dimensions=dim)
        fleet = examine(settings)
    return fleet, settings


def _data_set(config: VerifyConfig) -> DataSet:
    path = config.run_ledger
    known = recorded(RunState.of(path)) if path is not None and path.exists() else None
    if known is None:
        raise ConfigError(
            f"no data set in {config.run_ledger}: check --hot-dir, --database, --collection and --done-field"
        )
    return known
