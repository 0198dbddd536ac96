"""`engine plan` on the command line."""

from pathlib import Path
from typing import Annotated

import typer

from commands.options import declared as shared
from commands.options.cold import cold_place, source_store
from commands.options.config_file import config_option
from commands.options.declared import examples, option, path_option
from commands.options.secrets import RunSecrets, mongo_uri, server_secrets
from commands.options.source import source_options
from commands.options.values import concurrency_of, listed, part_of, retweeted_of, size
from commands.terminal.output import print_result, set_up_logs, to_json

EPILOG = examples(
    "engine plan --collection tweets --gpu-hour-price 0.30 --api-price-per-mtok 0.02",
    "engine plan --source /data/articles --text-field body",
    "engine plan --tuned tuned.toml --json",
)


def plan(
    context: typer.Context,
    config: Annotated[Path | None, config_option("plan")] = None,
    mongo_uri_: shared.MongoUri = shared.DEFAULT_URI,
    mongo_uri_file: shared.MongoUriFile = None,
    database: shared.Database = "twitter_data",
    collection: shared.Collection = "tweets",
    source: shared.Source = None,
    id_field: shared.IdField = None,
    name: shared.Name = None,
    text_field: shared.TextField = "text",
    done_field: shared.DoneField = "gemma_embedded_768",
    lang: shared.Lang = None,
    filter_: shared.Filter = None,
    scan: shared.Scan = "queue",
    retweeted: shared.Retweeted = "null",
    part: shared.Part = None,
    tei_urls: shared.TeiUrls = shared.DEFAULT_URLS,
    tei_api_key_file: shared.ApiKeyFile = None,
    tei_header_file: shared.HeaderFile = None,
    tei_ca_file: shared.CaFile = None,
    server_kind: shared.ServerKind = "auto",
    model: shared.Model = None,
    batch_size: Annotated[int, option("batch-size", "Texts per request.")] = 32,
    concurrency: shared.Concurrency = "auto",
    target_p95: shared.LatencyTarget = None,
    prompt: Annotated[str | None, option("prompt", "Text put before each document.")] = None,
    dimensions: shared.Dimensions = None,
    normalize: shared.Normalize = True,
    truncate: shared.TruncateSamples = True,
    hot_dir: shared.HotDir = Path("hot"),
    cold_dir: shared.ColdDir = "cold",
    cold_endpoint: shared.ColdEndpoint = None,
    cold_region: shared.ColdRegion = None,
    cold_option: shared.ColdOption = None,
    shard_bytes: shared.ShardBytes = "256MiB",
    shard_seconds: Annotated[float, option("shard-seconds", "... or at this age.")] = 60.0,
    vector_type: shared.VectorType = "float32",
    tuned: Annotated[
        Path | None, path_option("tuned", "The file that `engine bench` wrote [default: measure the servers].")
    ] = None,
    max_seconds: Annotated[float, option("max-seconds", "Time for measuring the servers, at most.")] = 60.0,
    gpu_hour_price: shared.GpuHourPrice = None,
    gpus: shared.Gpus = None,
    api_price_per_mtok: Annotated[
        float | None, option("api-price-per-mtok", "Price of a hosted API for a million tokens.")
    ] = None,
    json_: shared.Json = False,
    log_format: shared.LogFormat = "text",
    verbose: shared.Verbose = False,
) -> None:
    """Forecast hours, cost, bytes and files of a run before anything is spent; writes nothing anywhere."""
    # here and not above: only the command that is called pays for what it imports
    from commands.plan.config import PlanConfig
    from commands.plan.plan import forecast_run
    from commands.plan.report import as_text
    from engine.config import RunConfig, ServersConfig, SinkConfig, SourceConfig

    set_up_logs(verbose)
    of_store = (cold_endpoint, cold_region, cold_option)
    store = source_store(source, *of_store, cold_dir)
    configuration = RunConfig(
        source=SourceConfig(
            **source_options(source, name, database, collection, store),
            text_field=text_field,
            id_field=id_field,
            done_field=done_field,
            langs=listed(lang),
            filter=filter_,
            scan=scan,
            retweeted=retweeted_of(retweeted),
            part=part_of(part),
        ),
        servers=ServersConfig(
            urls=listed(tei_urls),
            batch_size=batch_size,
            concurrency=concurrency_of(concurrency),
            target_p95_s=target_p95,
            prompt=prompt,
            dimensions=dimensions,
            normalize=normalize,
            truncate=truncate,
            kind=server_kind,
            model=model,
        ),
        sink=SinkConfig(
            hot_dir=hot_dir,
            cold_dir=cold_place(cold_dir, *of_store, source),
            shard_bytes=size("shard-bytes", shard_bytes),
            shard_seconds=shard_seconds,
            vector_type=vector_type,
        ),
    )
    figures = forecast_run(
        PlanConfig(
            run=configuration,
            tuned=tuned,
            gpu_hour_price=gpu_hour_price,
            api_price_per_mtok=api_price_per_mtok,
            gpus=gpus,
            max_seconds=max_seconds,
        ),
        RunSecrets(
            mongo_uri=mongo_uri(context, mongo_uri_, mongo_uri_file),
            servers=server_secrets(tei_api_key_file, tei_header_file, tei_ca_file),
        ),
    )
    print_result(to_json(figures) if json_ else as_text(figures))
