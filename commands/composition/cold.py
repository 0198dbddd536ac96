"""Cold as a run finds it: a folder, or a store that is tried before anything is embedded."""

from __future__ import annotations

import dataclasses
import os

from engine.config import RunConfig
from engine.ledger import preflight
from engine.telemetry.logs import keep_secret
from writers.cold.settings import SHARDS, ColdSettings

SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_CLIENT_SECRET",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
)
"""What the library reads from the environment and no line of a log may hold (G10)."""


def cold_settings(config: RunConfig) -> ColdSettings | None:
    """What processes are told of the store, None when cold is a folder; nothing is asked of it."""
    url = config.folders.url
    if url is None:
        return None
    return ColdSettings(
        url=url,
        prefix=config.folders.namespace,
        budget_s=config.limits.max_outage_s,
        largest_bytes=2 * config.sink.shard_bytes,
    )


def keep_secrets() -> None:
    """Let no line of a log hold what the library reads from the environment (G10)."""
    for name in SECRETS:
        keep_secret(os.environ.get(name))


def try_cold(config: RunConfig) -> ColdSettings | None:
    """Try everything that a run will need of cold; the settings of the store, completed, or None for a folder.

    Raises:
        SinkError: something is missing; the sentence says what.
        ConfigError: the library is missing, or does not take the options.
    """
    part = config.source.part  # machines with a share each may look at one folder at the same time
    trial = config.source.done_field + ("" if part is None else f".{part.in_names}")
    preflight.check_shards_folder(config.folders.shards, config.sink.shard_bytes, trial)
    cold = cold_settings(config)
    if cold is None:
        return None
    keep_secrets()
    from writers.cold.preflight import START_BUDGET_S, check_store  # noqa: PLC0415 - only a URL pays for the library

    budget_s = min(START_BUDGET_S, cold.budget_s)
    return dataclasses.replace(cold, by_e_tag=check_store(cold.open(), config.source.done_field, budget_s))


def names_there(config: RunConfig, cold: ColdSettings | None) -> set[str]:
    """Names of all files, or objects and what is on its way to them, where shards are.

    Raises:
        SinkError: the store does not answer.
    """
    names = {path.name for path in config.folders.shards.iterdir()}
    if cold is None:
        return names
    from engine.objects.patience import repeated  # noqa: PLC0415

    store = cold.open()
    objects = repeated(lambda: [each.name for each in store.list(SHARDS)], store.where(SHARDS), cold.budget_s)
    return names | {name.removeprefix(f"{SHARDS}/") for name in objects}
