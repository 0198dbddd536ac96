"""`engine doctor` on the command line."""

from pathlib import Path
from typing import Annotated

from commands.options import declared as shared
from commands.options.config_file import config_option
from commands.options.declared import examples, option
from commands.options.secrets import RunSecrets, server_secrets
from commands.options.values import concurrency_of, listed
from commands.terminal.output import print_result, set_up_logs, to_json

EPILOG = examples("engine doctor --tei-urls http://localhost:18080,http://localhost:18081")


def doctor(
    config: Annotated[Path | None, config_option("doctor")] = None,
    tei_urls: shared.TeiUrls = shared.DEFAULT_URLS,
    tei_api_key_file: shared.ApiKeyFile = None,
    tei_header_file: shared.HeaderFile = None,
    tei_ca_file: shared.CaFile = None,
    server_kind: shared.ServerKind = "auto",
    model: shared.Model = None,
    batch_size: Annotated[int, option("batch-size", "Texts per request that a run would send.")] = 32,
    concurrency: shared.Concurrency = "auto",
    prompt: Annotated[str | None, option("prompt", "The client's prompt.")] = None,
    dimensions: shared.Dimensions = None,
    normalize: shared.Normalize = True,
    truncate: shared.Truncate = True,
    log_format: shared.LogFormat = "text",
    json_: shared.Json = False,
) -> None:
    """Examine the embedding servers as every run does before it starts."""
    # here and not above: only the command that is called pays for what it imports
    from commands.composition.servers import client_settings
    from commands.doctor.report import as_dict, as_text
    from engine.config import RunConfig, ServersConfig
    from engine.gpus.processes import gpu_samples
    from gpu_clients.servers.doctor import examine
    from gpu_clients.servers.probe import LongTexts

    set_up_logs(verbose=False)
    servers = ServersConfig(
        urls=listed(tei_urls),
        batch_size=batch_size,
        concurrency=concurrency_of(concurrency),
        prompt=prompt,
        kind=server_kind,
        model=model,
        dimensions=dimensions,
        normalize=normalize,
        truncate=truncate,
    )
    secrets = RunSecrets(mongo_uri="", servers=server_secrets(tei_api_key_file, tei_header_file, tei_ca_file))
    fleet = examine(
        client_settings(RunConfig(servers=servers), secrets), with_padding=True, long_texts=LongTexts.CLOSELY
    )
    gpus = gpu_samples([server.url for server in fleet.servers])
    print_result(to_json(as_dict(fleet, gpus)) if json_ else as_text(fleet, gpus))
