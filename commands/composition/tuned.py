"""`engine run --tuned FILE`: the operating point that `engine bench` found, and whether the fleet is still that one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from bench.tuner.report.tuned import fleet_changes, read_tuned
from engine.config import ServersConfig
from gpu_clients.servers.doctor import Fleet


def apply_tuned(servers: ServersConfig, path: Path, given: frozenset[str]) -> ServersConfig:
    """The configuration with the file's operating point.

    Args:
        servers: What was configured.
        path: The file.
        given: Names of options that a person gave (flag, environment, configuration file); they win.

    Raises:
        ConfigError: the file cannot be read, or is not such a file.
    """
    point = read_tuned(path)
    changes: dict[str, Any] = {
        "batch_size": point.batch_size,
        "concurrency": point.concurrency,
        "start_concurrency": point.concurrency,  # of `--concurrency auto`
        "max_concurrency": point.max_concurrency,
        "bucketing": point.bucketing,
    }
    if point.target_p95_s is not None and "target_p95" not in given:
        changes["target_p95_s"] = point.target_p95_s
    return dataclasses.replace(servers, **{name: value for name, value in changes.items() if name not in given})


def fleet_changed(path: Path, fleet: Fleet) -> list[str]:
    """How the servers differ from those the point was found on, one phrase each; empty when they do not.

    Raises:
        ConfigError: see `apply_tuned`.
    """
    return fleet_changes(read_tuned(path), fleet)
