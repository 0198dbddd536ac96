"""The secrets of a command: from the environment or from files that only their owner may read (G10)."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import typer

from commands.options.values import listed, source_of
from engine.errors import ConfigError
from engine.telemetry.logs import keep_secret

_WRITTEN_BY_US = (
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "accept-encoding",
    "accept",
)
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
_LEAST_SECRET = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSecrets:
    """What the servers, or the proxies before them, want to see.

    Attributes:
        api_keys: One for all servers, or one for each URL, or none.
        headers: Further headers, name and value.
        ca_file: Certificates of the authorities that may vouch for the servers; no secret, but of the same matter.
    """

    api_keys: tuple[str, ...] = field(default=(), repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    ca_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSecrets:
    """What may not stand in a configuration file, a log or a process's arguments."""

    mongo_uri: str
    servers: ServerSecrets = field(default_factory=ServerSecrets)


def server_secrets(key_file: Path | None, header_file: Path | None, ca_file: Path | None) -> ServerSecrets:
    """What the servers want to see, as the options of a command name it.

    Raises:
        ConfigError: a file that cannot be read, that others can read, or that does not hold what it should.
    """
    keys, headers = api_keys(key_file), _headers(header_file)
    if keys and any(name.lower() == "authorization" for name, _ in headers):
        raise ConfigError("--tei-header-file has an Authorization header, and a key is given as well: give one of them")
    if ca_file is not None:
        try:
            ca_file.read_bytes()
        except OSError as error:
            raise ConfigError(f"--tei-ca-file {ca_file} cannot be read ({error.strerror})") from error
        ca_file = ca_file.absolute()
    return ServerSecrets(api_keys=keys, headers=headers, ca_file=str(ca_file) if ca_file else None)


def mongo_uri(context: typer.Context, given: str, uri_file: Path | None) -> str:
    """The MongoDB URI, from a file when one is named; a password may not stand on the command line (G10).

    Raises:
        ConfigError: a password in the arguments, or a file that cannot be read or that others can read.
    """
    if uri_file is not None:
        given = secret_from_file("--mongo-uri-file", uri_file)
    elif _has_password(given) and source_of(context, "mongo_uri_") == "COMMANDLINE":
        keep_secret(given)
        raise ConfigError(
            "--mongo-uri holds a password, which every user of the machine could read in the process list; "
            "put the URI into the environment variable ENGINE_MONGO_URI or into a file named by --mongo-uri-file"
        )
    keep_uri_secret(given)
    return given


def keep_uri_secret(uri: str) -> None:
    """Never let the password of a MongoDB URI into a log line or an error."""
    if _has_password(uri):
        keep_secret(uri)
        keep_secret(uri.partition("://")[2].rpartition("@")[0].partition(":")[2])


def secret_from_file(option_name: str, path: Path) -> str:
    """The first line of a file that only its owner may read.

    Raises:
        ConfigError: it cannot be read, or others can read it.
    """
    lines = _secret_lines(option_name, path)
    return lines[0] if lines else ""


def _secret_lines(option_name: str, path: Path) -> list[str]:
    try:
        mode = os.stat(path).st_mode
        text = path.read_text(encoding="utf-8-sig").strip()  # some editors begin a file with a byte order mark
    except OSError as error:
        raise ConfigError(f"{option_name} {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{option_name} {path} is not a text file") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{option_name} {path} can be read by others: chmod 600 it")
    return text.splitlines()


def api_keys(key_file: Path | None) -> tuple[str, ...]:
    """Keys for the servers from ENGINE_TEI_API_KEY (one for all, or one per URL with commas) or a file.

    Raises:
        ConfigError: see `secret_from_file`, or a key that no header of a request can hold.
    """
    text = secret_from_file("--tei-api-key-file", key_file) if key_file else os.environ.get("ENGINE_TEI_API_KEY", "")
    keys = listed(text)
    for number, key in enumerate(keys, 1):
        keep_secret(key)
        if (at := next((at for at, letter in enumerate(key, 1) if not "!" <= letter <= "~"), None)) is not None:
            where = "--tei-api-key-file" if key_file else "ENGINE_TEI_API_KEY"
            raise ConfigError(
                f"{where}: character {at} of key {number} is U+{ord(key[at - 1]):04X}, which no header of a request "
                "can hold; a key has letters, digits and signs of ASCII only: copy it again"
            )
    return keys


def _headers(path: Path | None) -> tuple[tuple[str, str], ...]:
    """Headers from a file: one `Name: value` a line; empty lines, and those that begin with #, are passed over."""
    if path is None:
        return ()
    headers = []
    for number, line in enumerate(_secret_lines("--tei-header-file", path), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, value = _parse_header(line)
        except ConfigError as error:
            raise ConfigError(f"--tei-header-file {path}: line {number} {error}") from error
        headers.append((name, value))
        for secret in {value, value.rpartition(" ")[2]}:
            if len(secret) >= _LEAST_SECRET:  # to strike out every "1" would make a log unreadable
                keep_secret(secret)
    return tuple(headers)


def _parse_header(line: str) -> tuple[str, str]:
    """Read `Name: value`.

    Raises:
        ConfigError: no header, or one that the client writes itself; the value is never named.
    """
    name, colon, value = line.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not name or not set(name.lower()) <= _TOKEN:
        raise ConfigError("is not of the form `Name: value`")
    if name.lower() in _WRITTEN_BY_US:
        raise ConfigError(f"sets {name}, which the client writes itself")
    if not value.isascii() or not value.isprintable():
        raise ConfigError(f"gives {name} a value with characters that no header can hold")
    return name, value


def _has_password(uri: str) -> bool:
    credentials = uri.partition("://")[2].rpartition("@")[0]
    return ":" in credentials
