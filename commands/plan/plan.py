"""What a run would take, from samples of the collection and the servers; nothing is written anywhere."""

from __future__ import annotations

from typing import Any

from bench.tuner.report.tuned import read_tuned
from commands.composition.servers import client_settings
from commands.options.secrets import RunSecrets
from commands.plan.config import PlanConfig
from commands.plan.figures import figures_of
from commands.plan.nothing_to_embed import nothing_to_embed
from commands.plan.rate import measured_rate, tuned_rate
from commands.plan.samples import sample_documents, sample_servers


def forecast_run(config: PlanConfig, secrets: RunSecrets) -> dict[str, Any]:
    """Forecast a run.

    Raises:
        ConfigError: options, collection or servers cannot be used.
        SourceError: MongoDB does not answer.
        ServersUnavailable: no server answers, and there is no tuned file to go by.
    """
    tuned = read_tuned(config.tuned) if config.tuned is not None else None
    queue, id_type, why_none = sample_documents(config.run, secrets.mongo_uri)
    if not queue.texts:
        return nothing_to_embed(config, queue, why_none=why_none)
    settings = client_settings(config.run, secrets)
    samples = sample_servers(settings, queue, id_type, has_rate=tuned is not None)
    if samples.probed is not None and not len(samples.probed.vectors):
        return nothing_to_embed(config, queue, refused=samples.probed.refused)
    rate = tuned_rate(tuned, samples.fleet) if tuned is not None else measured_rate(config, settings, samples)
    return figures_of(config, samples, rate, tuned)
