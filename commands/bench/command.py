"""`engine bench` and `engine bench pipeline` on the command line."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from commands.options import declared as shared
from commands.options.cold import source_store
from commands.options.config_file import config_option
from commands.options.declared import examples, option, path_option
from commands.options.secrets import RunSecrets, mongo_uri, server_secrets
from commands.options.source import source_options
from commands.options.values import listed, positive, retweeted_of, source_of
from commands.terminal.output import complain, print_result, set_up_logs, to_json

app = typer.Typer()


@app.callback(
    invoke_without_command=True,
    epilog=examples(
        "engine bench --texts texts.jsonl --target-p95 10 --out tuned.toml --plot curve.png",
        "engine bench --collection tweets --batch-sizes 16,32 --html tuning.html",
        "engine bench --source /data/articles --text-field body",
        "engine bench --serve --backend tei --model BAAI/bge-base-en-v1.5 --texts texts.jsonl \\\n"
        "      --server-flags 'max-batch-tokens=8192,16384,32768 dtype=float16,float32'",
        "engine bench --texts texts.jsonl --tei-urls http://localhost:18080 --against http://localhost:8000",
        "engine bench pipeline --compare",
    ),
)
def bench(
    context: typer.Context,
    config: Annotated[Path | None, config_option("bench")] = None,
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
    flags: Annotated[str | None, option("flags", "Further flags of servers that are started, on one line.")] = None,
    start_timeout: shared.StartTimeout = 900.0,
    server_flags: Annotated[
        str | None,
        option("server-flags", "Tune the servers too: FLAG=VALUE,VALUE,... of each flag to try, with blanks between."),
    ] = None,
    hot_dir: shared.HotDir = Path("hot"),
    against: Annotated[
        str | None,
        option("against", "URLs of a second fleet: tuned with the same texts, and compared with --tei-urls."),
    ] = None,
    texts: Annotated[
        Path | None, path_option("texts", "One text a line, or .jsonl with `text` [default: sample the collection].")
    ] = None,
    mongo_uri_: shared.MongoUri = shared.DEFAULT_URI,
    mongo_uri_file: shared.MongoUriFile = None,
    database: shared.Database = "twitter_data",
    collection: shared.Collection = "tweets",
    source: shared.Source = None,
    name: shared.Name = None,
    cold_endpoint: shared.ColdEndpoint = None,
    cold_region: shared.ColdRegion = None,
    cold_option: shared.ColdOption = None,
    text_field: shared.TextField = "text",
    done_field: shared.DoneField = "gemma_embedded_768",
    lang: shared.Lang = None,
    filter_: shared.Filter = None,
    retweeted: shared.Retweeted = "null",
    batch_sizes: Annotated[str, option("batch-sizes", "Texts per request to try, comma-separated.")] = "8,16,32,64",
    concurrency_max: Annotated[
        int | None, option("concurrency-max", "Requests in flight per server [default: what the servers admit].")
    ] = None,
    target_p95: shared.LatencyTarget = None,
    seconds: Annotated[float, option("seconds", "Steady state of one visit to a point, at most.")] = 10.0,
    max_seconds: Annotated[
        float,
        option(
            "max-seconds",
            "The whole search, at most; with --server-flags that of each setting, the last two up to three times that.",
        ),
    ] = 300.0,
    seed: Annotated[int | None, option("seed", "Of the order in which points are repeated [default: random].")] = None,
    prompt: shared.Prompt = None,
    dimensions: shared.Dimensions = None,
    normalize: shared.Normalize = True,
    truncate: shared.TruncateSamples = True,
    out: Annotated[Path, path_option("out", "The file that `engine run --tuned` takes.")] = Path("tuned.toml"),
    plot: Annotated[
        Path | None, path_option("plot", "Curve of latency over throughput: .png or .svg (extra `plot`).")
    ] = None,
    html: Annotated[Path | None, path_option("html", "Write it as one page, with curves, to this file.")] = None,
    json_: shared.Json = False,
    log_format: shared.LogFormat = "text",
    verbose: shared.Verbose = False,
) -> None:
    """Find batch size and concurrency for running servers: from one request upward, explained, and written down."""
    if context.invoked_subcommand is not None:
        return
    # here and not above: only the command that is called pays for what it imports
    import secrets

    from bench.tuner.search.survey import TuneConfig
    from bench.tuner.tuning import TuningPlan
    from commands.bench.bench import BenchConfig, as_dict, as_text, find_operating_point
    from engine.config import RunConfig, ServersConfig, SourceConfig

    set_up_logs(verbose)
    sizes = tuple(
        positive("batch-sizes", part, "numbers of at least 1, comma-separated") for part in listed(batch_sizes)
    )
    urls, started, plan = listed(tei_urls), None, None
    if serve or backend is not None or server_flags is not None:
        from commands.composition.own_servers import ServeOptions, own_servers, with_ports  # it imports a fleet

        own = ServeOptions(
            serve=True if server_flags is not None else serve,
            backend=backend,
            model=model,
            gpus=gpus,
            ports=ports,
            binary=binary,
            docker=docker,
            flags=flags,
            start_timeout_s=start_timeout,
            further=(),
            hot_dir=hot_dir,
        )
        urls_given = source_of(context, "tei_urls") == "COMMANDLINE"
        started, own_urls = own_servers(own, urls_given=urls_given)
        urls = own_urls or urls
        plan = with_ports(own.plan(), own_urls) if server_flags is not None else None
    servers = ServersConfig(
        urls=urls,
        batch_size=min(sizes, default=1),
        target_p95_s=target_p95,
        prompt=prompt,
        dimensions=dimensions,
        normalize=normalize,
        truncate=truncate,
        kind=server_kind,
        model=model,
    )
    store = source_store(source, cold_endpoint, cold_region, cold_option)
    configured = SourceConfig(
        **source_options(source, name, database, collection, store),
        text_field=text_field,
        done_field=done_field,
        langs=listed(lang),
        filter=filter_,
        retweeted=retweeted_of(retweeted),
    )
    settings = BenchConfig(
        run=RunConfig(source=configured, servers=servers),
        plan=TuningPlan(
            batch_sizes=sizes,
            concurrency_max=concurrency_max,
            tune=TuneConfig(
                target_p95_s=target_p95,
                seconds=seconds,
                max_seconds=max_seconds,
                seed=secrets.randbelow(1 << 31) if seed is None else seed,
            ),
        ),
        texts=texts,
        out=out,
        plot=plot,
        html=html,
        against=listed(against),
    )
    all_secrets = RunSecrets(
        mongo_uri=mongo_uri(context, mongo_uri_, mongo_uri_file),
        servers=server_secrets(tei_api_key_file, tei_header_file, tei_ca_file),
    )
    if plan is not None and server_flags is not None:
        from bench.tuner.joint.settings import parse_axes
        from commands.bench import joint

        result, settings_tried = joint.find_joint_point(settings, plan, parse_axes(server_flags), all_secrets)
        found = joint.as_dict(settings_tried) | as_dict(result)
        said = f"{joint.as_text(settings_tried)}\n\n{as_text(result)}"
    else:
        with started.quietly() if started is not None else contextlib.nullcontext():
            result = find_operating_point(settings, all_secrets)
        found, said = as_dict(result), as_text(result)
    print_result(to_json(found) if json_ else said)
    if result.sentence:
        complain(result.sentence)
    raise typer.Exit(int(result.exit_code))


@app.command("pipeline", epilog=examples("engine bench pipeline --documents 200000 --compare --json"))
def bench_pipeline(
    documents: Annotated[int, option("documents", "Documents in the work queue.")] = 200_000,
    dim: Annotated[int, option("dim", "Numbers in a vector.")] = 768,
    batch_size: Annotated[int, option("batch-size", "Texts per request.")] = 32,
    compare: Annotated[bool, typer.Option("--compare", help="Run the plain script beside it.")] = False,
    files: Annotated[
        str | None, option("files", "Also from files, comma-separated: parquet, jsonl [default: MongoDB only].")
    ] = None,
    mongod: shared.Mongod = None,
    json_: shared.Json = False,
) -> None:
    """Measure the engine's own ceiling on this machine: servers that answer at once, a real mongod, every stage."""
    # here and not above: only the command that is called pays for what it imports
    from bench.measure.pipeline import PipelineConfig, as_text, measure

    set_up_logs(verbose=False, quiet=True)
    figures = measure(
        PipelineConfig(
            n_documents=documents,
            dim=dim,
            batch_size=batch_size,
            compare=compare,
            files=listed(files),
            mongod=mongod,
        )
    )
    print_result(to_json(figures) if json_ else as_text(figures))
