"""The servers as a command starts with them: what every client is told, and the doctor's word on the fleet."""

from __future__ import annotations

import logging
import time

from commands.composition.patience import Patience
from commands.options.secrets import RunSecrets, ServerSecrets
from engine.config import RunConfig
from engine.errors import ConfigError, ServersUnavailable, SeveralBackends
from gpu_clients.servers.doctor import Fleet, examine
from gpu_clients.servers.probe import LongTexts
from gpu_clients.settings import ClientSettings

_log = logging.getLogger("engine.run")


def client_settings(config: RunConfig, secrets: RunSecrets) -> ClientSettings:
    """What every client is told, before the doctor has seen the servers.

    Raises:
        ConfigError: the keys do not match the servers.
    """
    servers = config.servers
    return ClientSettings(
        urls=servers.urls,
        server_kind=servers.kind,
        model=servers.model,
        batch_size=servers.batch_size,
        concurrency=servers.concurrency,
        start_concurrency=servers.start_concurrency,
        max_concurrency=servers.max_concurrency,
        target_p95_s=servers.target_p95_s,
        prompt=servers.prompt,
        dimensions=servers.dimensions,
        normalize=servers.normalize,
        truncate=servers.truncate,
        half=config.sink.vector_type == "float16",
        keep_text=config.sink.keep_text,
        api_keys=keys_for(servers.urls, secrets.servers),
        headers=secrets.servers.headers,
        ca_file=secrets.servers.ca_file,
    )


def keys_for(urls: tuple[str, ...], secrets: ServerSecrets) -> tuple[str, ...]:
    """One key for each server, or none at all.

    Raises:
        ConfigError: the keys do not match the servers.
    """
    keys = secrets.api_keys
    if len(keys) not in (0, 1, len(urls)):
        raise ConfigError(f"{len(keys)} API keys for {len(urls)} servers: give one for all, or one for each URL")
    return keys * len(urls) if len(keys) == 1 else keys


def examine_patiently(
    settings: ClientSettings, *, wait_s: float, with_padding: bool = False, long_texts: LongTexts = LongTexts.NOT
) -> Fleet:
    """Examine the servers; when none answers, look again for a while: they may just be starting.

    Args:
        wait_s: For how long.
        with_padding: Whether to measure if the servers pad, too.
        long_texts: How closely to look at long texts among equals.

    Raises:
        ConfigError: see `gpu_clients.servers.doctor.examine`.
        ServersUnavailable: none answered in time.
    """
    patience = Patience(wait_s)
    while True:
        try:
            fleet = examine(settings, with_padding=with_padding, long_texts=long_texts)
        except SeveralBackends:
            raise  # no waiting mends it
        except ServersUnavailable as error:
            if patience.is_over():
                raise
            patience.tell("servers", error)
            time.sleep(min(1.0, patience.left_s))
            continue
        for warning in fleet.warnings:
            _log.warning("%s", warning)
        if fleet.pads is False:
            _log.info("the servers do not pad (measured): documents are read as they come, not sorted by length")
        return fleet
