"""What a node process is told first: the run's configuration, secrets, and a witness of the shared folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from commands.options.secrets import RunSecrets, ServerSecrets
from engine.config import LimitsConfig, RunConfig, ServersConfig, SinkConfig, SourceConfig
from engine.memory.channels import Message
from engine.objects.url import ColdUrl


def as_message(config: RunConfig, secrets: RunSecrets) -> Message:
    """Configuration and secrets as JSON values; never log it."""
    sink = dataclasses.asdict(config.sink)
    sink["hot_dir"] = str(config.sink.hot_dir.absolute())
    cold = config.sink.cold_dir
    sink["cold_dir"] = cold.as_dict() if isinstance(cold, ColdUrl) else str(cold.absolute())
    return {
        "source": {**dataclasses.asdict(config.source), "store": None},  # readers are told of it with the files
        "servers": dataclasses.asdict(config.servers),
        "limits": dataclasses.asdict(config.limits),
        "sink": sink,
        "secrets": {
            "mongo_uri": secrets.mongo_uri,
            "api_keys": secrets.servers.api_keys,
            "headers": secrets.servers.headers,
            "ca_file": secrets.servers.ca_file,
        },
    }


def from_message(message: Message, hot_dir: Path) -> tuple[RunConfig, RunSecrets]:
    """Read `as_message` back.

    Args:
        hot_dir: The node's own folder for what is not shared.
    """
    sink: dict[str, Any] = {**message["sink"], "hot_dir": hot_dir}
    cold = sink["cold_dir"]
    sink["cold_dir"] = Path(cold) if isinstance(cold, str) else ColdUrl.from_dict(cold)
    config = RunConfig(
        source=SourceConfig(**_with_tuples(message["source"], "langs", "columns")),
        servers=ServersConfig(**_with_tuples(message["servers"], "urls")),
        limits=LimitsConfig(**message["limits"]),
        sink=SinkConfig(**sink),
    )
    secrets = message["secrets"]
    return config, RunSecrets(
        mongo_uri=secrets["mongo_uri"],
        servers=ServerSecrets(
            api_keys=tuple(secrets["api_keys"]),
            headers=tuple((name, value) for name, value in secrets["headers"]),
            ca_file=secrets["ca_file"],
        ),
    )


def _with_tuples(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {**values, **{name: tuple(values[name]) for name in names}}
