"""Connections to MongoDB: how they are opened, and what a user is told when they cannot be."""

from __future__ import annotations

import socket
import ssl

from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import MongoClient, ReadPreference, WriteConcern, uri_parser
from pymongo.collection import Collection
from pymongo.errors import PyMongoError, ServerSelectionTimeoutError
from pymongo.read_concern import ReadConcern

from engine.errors import ConfigError
from readers.batching.ports import Document
from readers.mongo.errors import attempt, translate

Client = MongoClient[Document]
Documents = Collection[Document]

CODEC: CodecOptions[Document] = CodecOptions(
    document_class=dict,
    unicode_decode_error_handler="surrogateescape",
    datetime_conversion=DatetimeConversion.DATETIME_MS,
)
"""Decodes whatever a collection may hold. Invalid UTF-8 becomes lone surrogates, which no text may have, so such a
document is found later without spoiling its page; dates may lie outside the years that Python knows."""

MAJORITY_WAIT_MS = 10_000
"""How long one write waits for a majority of the replica set before that is said; it is then sent again."""

_SELECTION_MS = 5_000
_SHORTEST_SELECTION_MS = 500
_CONNECT_MS = 10_000


def selection_ms(max_outage_s: float) -> int:
    """How long one call may wait for a server when an outage may last that long in all: no longer than that."""
    return int(min(_SELECTION_MS, max(_SHORTEST_SELECTION_MS, 1000 * max_outage_s)))


def open_client(uri: str, *, name: str = "engine", selection_ms: int = _SELECTION_MS) -> Client:
    """A client that has not connected yet; the caller closes it.

    Args:
        uri: Connection string; its options hold except those about waiting.
        name: How the connection is called in the server's log.
        selection_ms: How long a call waits for a server before it fails, in milliseconds.

    Raises:
        ConfigError: the connection string cannot be used.
    """
    _refuse_bad_options(uri)
    try:
        return MongoClient(
            uri,
            appname=name,
            serverSelectionTimeoutMS=selection_ms,
            connectTimeoutMS=_CONNECT_MS,
            tz_aware=False,
        )
    except PyMongoError as error:
        raise translate(error, "connecting") from error
    except (ValueError, TypeError, OSError) as error:  # a port that is no number, a CA file that cannot be read
        raise ConfigError(
            f"--mongo-uri cannot be used ({type(error).__name__}): expected mongodb://[user:password@]host:port/"
            "[?options], and that files it names can be read"
        ) from error


def _refuse_bad_options(uri: str) -> None:
    """Refuse an option that pymongo would leave out with a warning: `tls=yes` must not end in plain text.

    Raises:
        ConfigError: an unknown option, or a value that it does not take.
    """
    options = uri.partition("?")[2]
    try:
        if options:
            uri_parser.split_options(options, validate=True, warn=False)
    except (PyMongoError, ValueError, TypeError) as error:
        raise ConfigError(f"--mongo-uri has an option that cannot be used: {error}") from error
    except OSError:  # a file that it names; said where it is opened
        return


def open_collection(client: Client, database: str, collection: str) -> Documents:
    """The collection as everybody here reads and writes it.

    Reads come from the primary with read concern majority: a stale or rolled-back answer would offer a document
    again that is embedded already (G2). Writes are acknowledged by a majority and journaled (G4).

    Raises:
        ConfigError: MongoDB does not allow the name.
    """
    try:
        return client.get_database(database).get_collection(
            collection,
            codec_options=CODEC,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern(w="majority", j=True, wtimeout=MAJORITY_WAIT_MS),
        )
    except PyMongoError as error:
        raise ConfigError(
            f"--database {database!r} with --collection {collection!r} is not a name that MongoDB allows ({error})"
        ) from error


def silent_members(client: Client) -> tuple[str, ...]:
    """Members of the replica set that do not answer, as the driver knows it; asks nothing.

    Returns:
        `host:port` of each, sorted; empty for a set whose members all answer, and for a server that is in none.
    """
    topology = client.topology_description
    if not topology.topology_type_name.startswith("ReplicaSet"):
        return ()
    servers = topology.server_descriptions().items()
    return tuple(sorted(f"{host}:{port}" for (host, port), server in servers if server.server_type_name == "Unknown"))


def hosts_of(uri: str) -> str:
    """The hosts of a connection string, without user and password: `a:27017,b:27017`."""
    rest = uri.partition("://")[2]
    return rest.partition("/")[0].partition("?")[0].rpartition("@")[2] or "localhost"


def ping(client: Client, uri: str) -> None:
    """Make sure that MongoDB answers and takes the credentials.

    Raises:
        ConfigError: wrong credentials, or a certificate that does not verify.
        SourceError: it does not answer.
    """
    where = f"connecting to MongoDB at {hosts_of(uri)}"
    try:
        attempt(lambda: client.admin.command("ping", read_preference=ReadPreference.PRIMARY), where)
    except Exception as error:
        if isinstance(error.__cause__, ServerSelectionTimeoutError):
            _refuse_bad_certificate(uri, where)
        raise


def _refuse_bad_certificate(uri: str, where: str) -> None:
    """Shake hands once more by hand: pymongo reports a bad certificate as a server that is away.

    Raises:
        ConfigError: a certificate does not verify.
    """
    try:
        parsed = uri_parser.parse_uri(uri)
    except PyMongoError:
        return
    options = parsed["options"]
    if not options.get("tls") or options.get("tlsInsecure") or options.get("tlsAllowInvalidCertificates"):
        return
    for host, port in parsed["nodelist"]:
        try:
            context = ssl.create_default_context(cafile=options.get("tlsCAFile"))
            context.check_hostname = not options.get("tlsAllowInvalidHostnames", False)
            with (
                socket.create_connection((host, port or 27017), timeout=5) as raw,
                context.wrap_socket(raw, server_hostname=host),
            ):
                pass
        except ssl.SSLCertVerificationError as error:
            raise ConfigError(
                f"{where}: the certificate of {host} does not verify ({error.verify_message}): check tlsCAFile and "
                "the host name in --mongo-uri"
            ) from error
        except OSError:
            continue
