"""`--config FILE`: options from a TOML file. A flag beats the environment, the environment beats the file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from commands.options.paths import expanded_path
from engine.errors import ConfigError

OWN_TABLES = ("run", "bench", "merge")
"""Commands whose options stand in their own table only. Every other command is about a run: what its own table does
not say, it takes from [run], so that one file serves them all."""

STARTING = ("run", "bench")
"""Commands that can start servers themselves: what says which ones, they take from [serve]."""
SERVED = ("backend", "model", "gpus", "ports", "binary", "docker", "flags", "start_timeout")


def config_option(table: str) -> Any:
    """`--config FILE`: read the options of one command from its table of a TOML file, and from [run] beneath."""

    def load(context: typer.Context, path: Path | None) -> Path | None:
        if path is not None:
            path = expanded_path("--config", path)
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
    # the reader of TOML takes a while to import: only who names a file pays for it
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415
    else:
        import tomli as tomllib  # noqa: PLC0415
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} is not TOML: {error}") from error
    _refuse_unknown_tables(context, document, path)
    repeatable = {parameter.name for parameter in context.command.params if getattr(parameter, "multiple", False)}
    parameters = {(parameter.name or "").rstrip("_"): parameter.name or "" for parameter in context.command.params}
    values = _table(document, path, table)
    for name in values:
        if name not in parameters:
            raise ConfigError(f"--config {path}: [{table}] has no option {name!r}; see `engine {table} --help`")
    if table in STARTING:
        served = _table(document, path, "serve")
        beneath = {name: value for name, value in served.items() if name in SERVED and name in parameters}
        values = beneath | values
    if table not in OWN_TABLES:
        shared = _table(document, path, "run")
        values = {name: value for name, value in shared.items() if name in parameters} | values
    return {parameters[name]: _as_given(value, parameters[name] in repeatable) for name, value in values.items()}


def _as_given(value: Any, is_repeatable: bool) -> Any:
    """A value as the command line would have it: a list is comma-separated, unless its option may be repeated."""
    if is_repeatable:
        return list(map(str, value)) if isinstance(value, list) else [str(value)]
    return ",".join(map(str, value)) if isinstance(value, list) else value


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
