"""`engine bench --against`: a second fleet tuned with the same texts, and compared with the first."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from bench.tuner.measure.probe import embed_each
from bench.tuner.report import side_by_side
from bench.tuner.report.agreement import Agreement, agreement_of
from bench.tuner.report.page import Table
from bench.tuner.tuning import Outcome
from commands.options.secrets import ServerSecrets
from engine.errors import ConfigError, ServersUnavailable
from gpu_clients.servers.doctor import Fleet
from gpu_clients.settings import ClientSettings

SAMPLE_TEXTS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The second fleet's outcome, and how well it agrees with the first; None when one of them gave no vectors."""

    outcome: Outcome
    agreement: Agreement | None


def secrets_of_both(secrets: ServerSecrets, n_first: int, n_second: int) -> tuple[ServerSecrets, ServerSecrets]:
    """The keys of either fleet: one for all, or one for each URL, first those of `--tei-urls`.

    Raises:
        ConfigError: another number of keys.
    """
    keys = secrets.api_keys
    if len(keys) <= 1:
        return secrets, secrets
    if len(keys) != n_first + n_second:
        raise ConfigError(
            f"{len(keys)} API keys for {n_first + n_second} servers: give one for all, or one for each URL of "
            "--tei-urls and then of --against"
        )
    return (
        dataclasses.replace(secrets, api_keys=keys[:n_first]),
        dataclasses.replace(secrets, api_keys=keys[n_first:]),
    )


def agreement_between(
    first: tuple[Fleet, ClientSettings], second: tuple[Fleet, ClientSettings], outcome: Outcome
) -> Agreement | None:
    """How well two fleets agree on a sample of the texts; None when one of them does not answer any more.

    Raises:
        ConfigError: hardly a text is embedded by both.
    """
    texts = outcome.corpus.sample(SAMPLE_TEXTS)
    try:
        return agreement_of(embed_each(*first, texts), embed_each(*second, texts))
    except ServersUnavailable:
        return None


def as_table(first: Outcome, comparison: Comparison) -> Table:
    """Both, for the page."""
    other = comparison.outcome
    return Table(
        place="compared",
        title="Both fleets",
        head=("", "--tei-urls", "--against"),
        rows=side_by_side.rows_of(first, other),
        sentences=side_by_side.conclusions(first, other, comparison.agreement),
    )


def as_text(first: Outcome, comparison: Comparison) -> str:
    """Both, side by side."""
    return side_by_side.as_text(first, comparison.outcome, comparison.agreement)


def as_dict(first: Outcome, comparison: Comparison) -> dict[str, Any]:
    """What it adds to the outcome for a program."""
    return side_by_side.as_dict(first, comparison.outcome, comparison.agreement)
