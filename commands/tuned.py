"""`engine run --tuned FILE`: an operating point from a file, and whether the fleet is still the one it was found on.

    [tuned]
    batch_size = 32
    concurrency = 8            # or "auto", bounded by max_concurrency
    max_concurrency = 16
    target_p95 = 5.0
    bucketing = "on"

    [tuned.fingerprint]        # optional: of the servers it was measured on
    model_id = "google/embeddinggemma-300m"

A value that a person gave in any other way (flag, environment, configuration file) wins over the file's.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from engine.config import ServersConfig
from engine.errors import ConfigError
from engine.records import Fingerprint

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FIELDS = {
    "batch_size": "batch_size",
    "concurrency": "concurrency",
    "max_concurrency": "max_concurrency",
    "target_p95": "target_p95_s",
    "bucketing": "bucketing",
}
_NUMBERS = ("batch_size", "max_concurrency", "concurrency")


def apply_tuned(servers: ServersConfig, path: Path, given: frozenset[str]) -> ServersConfig:
    """The configuration with the file's operating point.

    Args:
        servers: What was configured.
        path: The file.
        given: Names of options that a person gave; they win.

    Raises:
        ConfigError: the file cannot be read, or is not such a file.
    """
    point = _read(path)
    changes: dict[str, Any] = {}
    for name, value in point.items():
        if name == "fingerprint":
            continue
        if name not in _FIELDS:
            raise ConfigError(f"--tuned {path}: [tuned] has {name!r}; known are {', '.join(_FIELDS)}, fingerprint")
        if name in _NUMBERS and not isinstance(value, int) and not (name == "concurrency" and value == "auto"):
            raise ConfigError(f"--tuned {path}: {name} is {value!r}; expected a whole number")
        if name not in given:
            changes[_FIELDS[name]] = None if value == "auto" and name == "concurrency" else value
    return dataclasses.replace(servers, **changes)


def fleet_changed(path: Path, fingerprint: Fingerprint) -> list[str]:
    """How the servers differ from those the point was found on, one phrase for each field; empty when they do not.

    Raises:
        ConfigError: see `apply_tuned`.
    """
    known = _read(path).get("fingerprint", {})
    now = fingerprint.as_dict()
    return [
        f"{name} {now[name]!r} is not {value!r}" for name, value in known.items() if name in now and now[name] != value
    ]


def _read(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--tuned {path} cannot be read ({error.strerror})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--tuned {path} is not TOML: {error}") from error
    point = document.get("tuned")
    if not isinstance(point, dict):
        raise ConfigError(f"--tuned {path} has no [tuned] table; expected a file with an operating point")
    return point
