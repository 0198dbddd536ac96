"""Options as all commands have them: a flag beats the environment, the environment beats the file."""

from __future__ import annotations

import math
import os
import stat
import sys
from pathlib import Path
from typing import Any

import typer

from engine.errors import ConfigError
from engine.telemetry.logs import keep_secret

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SIZE_UNITS = {"": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9}
_SIZE_UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "tb": 10**12}


def option(name: str, help_text: str, **more: Any) -> Any:
    """A typer option `--name` that `ENGINE_NAME` may set too."""
    declared = more.pop("declared", f"--{name}")
    environment = "ENGINE_" + name.upper().replace("-", "_")
    return typer.Option(declared, help=help_text, envvar=environment, show_envvar=False, **more)


OWN_TABLES = ("run", "bench", "merge")
"""Commands whose options stand in their own table only. Every other command is about a run: what its own table does
not say, it takes from [run], so that one file serves them all."""


def config_option(table: str) -> Any:
    """`--config FILE`: read the options of one command from its table of a TOML file, and from [run] beneath."""

    def load(context: typer.Context, path: Path | None) -> Path | None:
        if path is not None:
            context.default_map = {**(context.default_map or {}), **_read_table(context, path, table)}
        return path

    return typer.Option(
        "--config",
        help=f"TOML file with a [{table}] table: option names with underscores."
        if table in OWN_TABLES
        else f"TOML file with a [{table}] table, beneath it [run]: option names with underscores.",
        callback=load,
        is_eager=True,
        envvar="ENGINE_CONFIG",
        show_envvar=False,
    )


def _read_table(context: typer.Context, path: Path, table: str) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} is not TOML: {error}") from error
    _refuse_unknown_tables(context, document, path)
    parameters = {(parameter.name or "").rstrip("_"): parameter.name or "" for parameter in context.command.params}
    values = _table(document, path, table)
    for name in values:
        if name not in parameters:
            raise ConfigError(f"--config {path}: [{table}] has no option {name!r}; see `engine {table} --help`")
    if table not in OWN_TABLES:
        shared = _table(document, path, "run")
        values = {name: value for name, value in shared.items() if name in parameters} | values
    return {
        parameters[name]: ",".join(map(str, value)) if isinstance(value, list) else value
        for name, value in values.items()
    }


def _refuse_unknown_tables(context: typer.Context, document: dict[str, Any], path: Path) -> None:
    """A table's name that is misspelt, or an option outside of every table, would be passed over in silence."""
    application = context.find_root().command
    known = getattr(application, "commands", {})
    for name, value in document.items():
        if isinstance(value, dict) and name not in known:
            raise ConfigError(
                f"--config {path}: no command reads the table [{name}]; expected [run] or another command"
            )
        if not isinstance(value, dict):
            raise ConfigError(
                f"--config {path}: {name!r} stands outside of every table; put it under [run], for example"
            )


def _table(document: dict[str, Any], path: Path, name: str) -> dict[str, Any]:
    values = document.get(name, {})
    if not isinstance(values, dict):
        raise ConfigError(f"--config {path}: [{name}] must be a table")
    return values


def size(name: str, text: str) -> int:
    """Bytes from `268435456`, `256MiB`, `1GiB` or `500MB`, as option `name` was given.

    Raises:
        typer.BadParameter: not a size.
    """
    compact = str(text).strip().lower().replace(" ", "").replace("_", "")
    digits = compact.rstrip("bkmgti")
    unit = _SIZE_UNITS.get(compact[len(digits) :])
    try:
        value = float(digits)
    except ValueError:
        value = -1.0
    if unit is None or not 0 <= value < math.inf:
        raise typer.BadParameter(f"--{name} is {text!r}; expected a number of bytes, or for example 256MiB")
    return int(value * unit)


def source_of(context: typer.Context, name: str) -> str:
    """Where a parameter's value comes from: COMMANDLINE, ENVIRONMENT, DEFAULT_MAP (the TOML file) or DEFAULT."""
    source = context.get_parameter_source(name)
    return "DEFAULT" if source is None else str(source.name)


def listed(text: str | None) -> tuple[str, ...]:
    """The parts of a comma-separated option."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


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
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{option_name} {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{option_name} {path} is not a text file") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{option_name} {path} can be read by others: chmod 600 it")
    return text.splitlines()[0] if text else ""


def api_keys(key_file: Path | None) -> tuple[str, ...]:
    """Keys for the servers from ENGINE_TEI_API_KEY (one for all, or one per URL with commas) or a file."""
    text = secret_from_file("--tei-api-key-file", key_file) if key_file else os.environ.get("ENGINE_TEI_API_KEY", "")
    keys = listed(text)
    for key in keys:
        keep_secret(key)
    return keys


def _has_password(uri: str) -> bool:
    credentials = uri.partition("://")[2].rpartition("@")[0]
    return ":" in credentials
