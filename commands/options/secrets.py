"""The secrets of a command: from the environment or from files that only their owner may read (G10)."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import typer

from commands.options.values import listed, source_of
from engine.errors import ConfigError
from engine.telemetry.logs import keep_secret


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSecrets:
    """What may not stand in a configuration file, a log or a process's arguments."""

    mongo_uri: str
    api_keys: tuple[str, ...] = ()


def run_secrets(context: typer.Context, uri: str, uri_file: Path | None, key_file: Path | None) -> RunSecrets:
    """The secrets as the options of a command name them.

    Raises:
        ConfigError: see `mongo_uri` and `secret_from_file`.
    """
    return RunSecrets(mongo_uri=mongo_uri(context, uri, uri_file), api_keys=api_keys(key_file))


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
    if _has_password(given):
        keep_secret(given)
        keep_secret(given.partition("://")[2].rpartition("@")[0].partition(":")[2])
    return given


def secret_from_file(option_name: str, path: Path) -> str:
    """The first line of a file that only its owner may read.

    Raises:
        ConfigError: it cannot be read, or others can read it.
    """
    try:
        mode = os.stat(path).st_mode
        text = path.read_text(encoding="utf-8-sig").strip()  # some editors begin a file with a byte order mark
    except OSError as error:
        raise ConfigError(f"{option_name} {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{option_name} {path} is not a text file") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{option_name} {path} can be read by others: chmod 600 it")
    return text.splitlines()[0] if text else ""


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


def _has_password(uri: str) -> bool:
    credentials = uri.partition("://")[2].rpartition("@")[0]
    return ":" in credentials
