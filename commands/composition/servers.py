"""The servers as a command starts with them: what every client is told, and the doctor's word on the fleet."""

from __future__ import annotations

import logging
import time

from commands.composition.patience import Patience
from commands.options.secrets import RunSecrets
from engine.config import RunConfig
from engine.errors import ConfigError, ServersUnavailable
from gpu_clients.servers.doctor import Fleet, examine
from gpu_clients.settings import ClientSettings

_log = logging.getLogger("engine.run")


def client_settings(config: RunConfig, secrets: RunSecrets) -> ClientSettings:
    """What every client is told, before the doctor has seen the servers.

    Raises:
        ConfigError: the keys do not match the servers.
    """
    servers, n_keys = config.servers, len(secrets.api_keys)
    if n_keys not in (0, 1, len(servers.urls)):
        raise ConfigError(f"{n_keys} API keys for {len(servers.urls)} servers: give one for all, or one for each URL")
    keys = secrets.api_keys * len(servers.urls) if n_keys == 1 else secrets.api_keys
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
        keep_text=config.sink.keep_text,
        api_keys=keys,
    )


def examine_patiently(settings: ClientSettings, *, wait_s: float, with_padding: bool = False) -> Fleet:
    """Examine the servers; when none answers, look again for a while: they may just be starting.

    Args:
        wait_s: For how long.
        with_padding: Whether to measure if the servers pad, too.

    Raises:
        ConfigError: see `gpu_clients.servers.doctor.examine`.
        ServersUnavailable: none answered in time.
    """
    patience = Patience(wait_s)
    while True:
        try:
            fleet = examine(settings, with_padding=with_padding)
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
