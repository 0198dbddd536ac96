"""Paths as options give them: `~` is expanded wherever the option comes from, and what is no path is refused.

A shell expands `~/data`, but not `--hot-dir=~/data`, and nothing expands it in a TOML file, a unit of systemd or an
environment. Taken as it stands, it would be a folder of that name where the user stands.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import typer

from engine.errors import ConfigError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # one slash: Path has taken the other one away
_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")


def expanded_path(option_name: str, path: Path) -> Path:
    """The path that was meant.

    Raises:
        ConfigError: a URL, a home of nobody, or a variable of the environment that nobody has expanded.
    """
    text = str(path)
    if (scheme := _SCHEME.match(text)) is not None:
        raise ConfigError(
            f"{option_name} is {scheme[1]}://{text[scheme.end() :].lstrip('/')}, but only a folder or a file of this "
            "machine's file system is supported: give a path, for example of a mount"
        )
    first = text.partition("/")[0]
    if (variable := _VARIABLE.search(text)) is not None and variable[1].strip("{}") in os.environ:
        raise ConfigError(
            f"{option_name} is {text}: nothing expands the variable {variable[0]} here; write the path out"
        )
    if not first.startswith("~"):
        return path
    try:
        return Path(first).expanduser() / text[len(first) + 1 :]
    except RuntimeError:  # nobody's home, or none is known
        if path.exists():
            return path  # editors leave files like `~backup` behind
        raise ConfigError(f"{option_name} is {path}: nobody's home is {first} here; write the path out") from None


def path_callback(param: typer.CallbackParam, value: Path | None) -> Path | None:
    """For typer: `expanded_path` of an option's value."""
    return None if value is None else expanded_path("--" + (param.name or "").rstrip("_").replace("_", "-"), value)
