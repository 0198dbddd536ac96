"""`engine run` on the command line."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from commands.options import declared as shared
from commands.options.cold import cold_place, source_store
from commands.options.config_file import config_option
from commands.options.declared import examples, option, path_option
from commands.options.secrets import RunSecrets, mongo_uri, server_secrets
from commands.options.source import source_options
from commands.options.values import concurrency_of, given, listed, part_of, retweeted_of, size, source_of
from commands.terminal.output import print_result, say, set_up_logs, to_json

EPILOG = examples(
    "engine run --collection tweets --hot-dir /nvme/engine --cold-dir /ssd/parquet",
    "engine run --source /data/articles --text-field body --id-field url",
    "engine run --source '/data/2026-*/*.jsonl.zst' --name news --columns lang,date",
    "engine run --source s3://corpus/articles --cold-region eu-central-1",
    "engine run --config engine.toml --limit 100000 --json",
    "engine run --tuned tuned.toml --target-p95 5",
    "engine run --part 1/2    # and --part 2/2 on the other machine",
    "engine run --ray auto --cold-dir /mnt/shared/parquet    # on every node of a Ray cluster that has a GPU",
    "engine run --http 127.0.0.1:9100 --log-format json",
    "engine run --serve --backend tei --model BAAI/bge-base-en-v1.5 --gpus 0,1,2,3 -- --max-batch-tokens 32768",
)


def run(
    context: typer.Context,
    config: Annotated[Path | None, config_option("run")] = None,
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
    columns: Annotated[str | None, option("columns", "Further fields carried into Parquet, comma-separated.")] = None,
    scan: shared.Scan = "queue",
    retweeted: shared.Retweeted = "null",
    part: shared.Part = None,
    ray: Annotated[
        str | None,
        option("ray", "Work on many machines: auto, HOST:PORT of a Ray head, or local:N to try it on this one."),
    ] = None,
    ray_resource: Annotated[str, option("ray-resource", "Nodes that offer this resource work.")] = "GPU",
    no_mark: Annotated[
        bool, option("no-mark", "Never write to MongoDB; resume from the ledger.", declared="--no-mark")
    ] = False,
    tei_urls: shared.TeiUrls = shared.DEFAULT_URLS,
    tei_api_key_file: shared.ApiKeyFile = None,
    tei_header_file: shared.HeaderFile = None,
    tei_ca_file: shared.CaFile = None,
    server_kind: shared.ServerKind = "auto",
    model: shared.Model = None,
    serve: shared.Serve = None,
    backend: shared.Backend = None,
    gpus: shared.ServeGpus = None,
    ports: shared.Ports = None,
    binary: shared.Binary = None,
    docker: shared.Docker = None,
    flags: shared.ServerFlagsLine = None,
    start_timeout: shared.StartTimeout = 900.0,
    batch_size: Annotated[int, option("batch-size", "Texts per request; never above what the server admits.")] = 32,
    concurrency: shared.Concurrency = "auto",
    max_concurrency: Annotated[int, option("max-concurrency", "Ceiling of auto.")] = 64,
    target_p95: Annotated[
        float | None, option("target-p95", "Seconds: auto keeps the 95th percentile under it.")
    ] = None,
    prompt: shared.Prompt = None,
    dimensions: shared.Dimensions = None,
    normalize: shared.Normalize = True,
    truncate: shared.Truncate = True,
    dedup: Annotated[
        bool, option("dedup", "Embed identical texts of a window once.", declared="--dedup/--no-dedup")
    ] = False,
    bucketing: Annotated[str, option("bucketing", "Requests of like length: auto, on or off.")] = "auto",
    accept_vectors: Annotated[
        float | None,
        option("accept-vectors", "Lowest cosine to servers of the first start to go on with, as after new hardware."),
    ] = None,
    hot_dir: shared.HotDir = Path("hot"),
    cold_dir: shared.ColdDir = "cold",
    cold_endpoint: shared.ColdEndpoint = None,
    cold_region: shared.ColdRegion = None,
    cold_option: shared.ColdOption = None,
    shard_bytes: shared.ShardBytes = "256MiB",
    shard_seconds: Annotated[float, option("shard-seconds", "... or at this age: what a crash recomputes.")] = 60.0,
    vector_type: shared.VectorType = "float32",
    truncated_column: Annotated[
        bool, option("truncated-column", "Write a boolean column that flags cut texts.", declared="--truncated-column")
    ] = False,
    keep_text: Annotated[
        bool, option("keep-text", "Keep texts in the quarantine file.", declared="--keep-text")
    ] = False,
    tuned: Annotated[Path | None, path_option("tuned", "The file that `engine bench` wrote.")] = None,
    limit: Annotated[int | None, option("limit", "Stop after that many documents; exit 8 when work is left.")] = None,
    max_time: Annotated[float | None, option("max-time", "Stop cleanly after that many seconds.")] = None,
    max_outage: Annotated[
        float, option("max-outage", "Seconds without a server or MongoDB before a clean stop.")
    ] = 600.0,
    ring_bytes: Annotated[str, option("ring-bytes", "Shared memory of the vector ring.")] = "48MiB",
    progress: Annotated[
        bool | None, option("progress", "Live progress [default: on a terminal].", declared="--progress/--no-progress")
    ] = None,
    http: Annotated[
        str | None,
        option("http", "Serve the run's page, /metrics, /healthz, /status.json at HOST:PORT; there is no login."),
    ] = None,
    metrics_port: Annotated[int | None, option("metrics-port", "The same as --http 127.0.0.1:PORT.")] = None,
    log_format: shared.LogFormat = "text",
    json_: Annotated[bool, option("json", "One JSON object on stdout; logs go to stderr.", declared="--json")] = False,
    verbose: shared.Verbose = False,
) -> None:
    """Embed what is not yet embedded; the same command again continues or picks up what is new."""
    # here and not above: only the command that is called pays for what it imports
    from commands.run.http_address import http_address
    from commands.run.report import as_text
    from commands.run.run import run as run_to_the_end
    from engine.config import LimitsConfig, RunConfig, ServersConfig, SinkConfig, SourceConfig
    from engine.errors import ConfigError
    from engine.ray_address import RayAddress

    as_lines = json_ or log_format == "json"
    show = sys.stderr.isatty() and not as_lines if progress is None else progress
    if show and log_format == "json":
        raise ConfigError("--progress draws on the terminal, --log-format json writes JSON there: drop one of them")
    set_up_logs(verbose, quiet=show)
    fleet, urls = None, listed(tei_urls)
    if ray is not None and (serve or backend is not None or context.args):
        raise ConfigError("--serve starts servers on this machine alone; with --ray start them on the nodes beforehand")
    if serve or backend is not None or context.args:
        from commands.composition.own_servers import ServeOptions, own_servers  # it imports what starts servers

        options = ServeOptions(
            serve=serve,
            backend=backend,
            model=model,
            gpus=gpus,
            ports=ports,
            binary=binary,
            docker=docker,
            flags=flags,
            start_timeout_s=start_timeout,
            further=tuple(context.args),
            hot_dir=hot_dir,
            tuned=tuned,
        )
        fleet, own = own_servers(options, urls_given=source_of(context, "tei_urls") == "COMMANDLINE")
        urls = own or urls
    servers = ServersConfig(
        urls=urls,
        batch_size=batch_size,
        concurrency=concurrency_of(concurrency),
        max_concurrency=max_concurrency,
        target_p95_s=target_p95,
        prompt=prompt,
        dimensions=dimensions,
        normalize=normalize,
        truncate=truncate,
        kind=server_kind,
        model=model,
        dedup=dedup,
        bucketing=bucketing,
        accept_vectors=accept_vectors,
    )
    if tuned is not None:
        from commands.composition.tuned import apply_tuned  # it imports the tuner

        servers = apply_tuned(servers, tuned, given(context))
    of_store = (cold_endpoint, cold_region, cold_option)
    store = source_store(source, *of_store, cold_dir)
    configuration = RunConfig(
        source=SourceConfig(
            **{"mark": not no_mark, **source_options(source, name, database, collection, store)},
            text_field=text_field,
            id_field=id_field,
            done_field=done_field,
            langs=listed(lang),
            filter=filter_,
            columns=listed(columns),
            scan=scan,
            retweeted=retweeted_of(retweeted),
            part=part_of(part),
        ),
        servers=servers,
        sink=SinkConfig(
            hot_dir=hot_dir,
            cold_dir=cold_place(cold_dir, *of_store, source),
            shard_bytes=size("shard-bytes", shard_bytes),
            shard_seconds=shard_seconds,
            vector_type=vector_type,
            truncated_column=truncated_column,
            keep_text=keep_text,
        ),
        limits=LimitsConfig(
            limit=limit, max_time_s=max_time, max_outage_s=max_outage, ring_bytes=size("ring-bytes", ring_bytes)
        ),
        ray=None if ray is None else RayAddress(address=ray, resource=ray_resource),
    )
    secrets = RunSecrets(
        mongo_uri=mongo_uri(context, mongo_uri_, mongo_uri_file),
        servers=server_secrets(tei_api_key_file, tei_header_file, tei_ca_file),
    )
    address = http_address(http, metrics_port)
    result = run_to_the_end(configuration, secrets, show_progress=show, http=address, tuned=tuned, own_servers=fleet)
    if json_:
        print_result(to_json(result.summary))
    elif result.error is None or result.summary["read"]:
        print_result(as_text(result.summary, configuration))
    if result.error is not None:
        raise result.error
    if result.sentence:
        say(result.sentence)
    raise typer.Exit(int(result.summary["exit"]))
