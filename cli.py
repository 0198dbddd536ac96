"""The command line: parse, build the configuration, compose, run, exit code. Logic lives below, never here."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

import engine
from commands.options import api_keys, config_option, listed, mongo_uri, option, size, source_of
from engine.errors import EngineError, Exit, SinkError, of_os_error
from engine.supervision.signals import Terminated, raise_when_terminated
from engine.telemetry.logs import configure, redact

if TYPE_CHECKING:
    from commands.run import RunSecrets

app = typer.Typer(
    name="engine",
    help="Embed hundreds of millions of MongoDB documents through a fleet of embedding servers into Parquet: "
    "fast, resumable, without losing or doubling a single one.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

MongoUriOption = Annotated[
    str, option("mongo-uri", "MongoDB; a password belongs in ENGINE_MONGO_URI or --mongo-uri-file.")
]
MongoUriFile = Annotated[Path | None, option("mongo-uri-file", "File (mode 600) that holds the MongoDB URI.")]
Database = Annotated[str, option("database", "Database of the collection.")]
Collection = Annotated[str, option("collection", "Collection of the documents.")]
DoneField = Annotated[str, option("done-field", "Field set to true once a document's shard is committed.")]
TextField = Annotated[str, option("text-field", "Field with the text; dotted paths allowed.")]
TeiUrls = Annotated[str, option("tei-urls", "Embedding servers, comma-separated; one client process each.")]
ApiKeyFile = Annotated[Path | None, option("tei-api-key-file", "File (mode 600) with the servers' API keys.")]
Dimensions = Annotated[int | None, option("dimensions", "Numbers to keep of each vector [default: model's].")]
Normalize = Annotated[bool, option("normalize", "Vectors of length 1.", declared="--normalize/--no-normalize")]
Truncate = Annotated[
    bool, option("truncate", "Cut texts that are too long, or quarantine them.", declared="--truncate/--no-truncate")
]
ServerKind = Annotated[str, option("server-kind", "auto, tei or openai.")]
Model = Annotated[str | None, option("model", "Model name to ask an OpenAI-compatible server for.")]
HotDir = Annotated[Path, option("hot-dir", "NVMe: lock, ledger, checkpoints, quarantine, temporaries.")]
TempDir = Annotated[
    Path | None,
    option("temp-dir", "Temporaries: id keys, sorted runs [default: hot folder, --target or the system's]."),
]
IdColumn = Annotated[str | None, option("id-column", "Name of the id column in foreign files.")]
VectorColumn = Annotated[str | None, option("vector-column", "Name of the vectors in foreign files.")]
ColdDir = Annotated[Path, option("cold-dir", "Final Parquet.")]
Json = Annotated[bool, option("json", "One JSON object on stdout.", declared="--json")]
Verbose = Annotated[bool, option("verbose", "Log debug events too.")]

DEFAULT_URI = "mongodb://localhost:27017"
DEFAULT_URLS = ",".join(f"http://localhost:{port}/embed" for port in range(18080, 18084))


def _epilog(*examples: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)


def _logging(verbose: bool, *, quiet: bool = False) -> None:
    configure(level=logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


def _print_json(value: Any) -> None:
    _print(json.dumps(value, default=str))


def _print(text: str) -> None:
    """Print a result. That nobody reads on changes nothing; that it cannot be written does.

    Raises:
        SinkError: standard output is a file on a device that is full or failing.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        _discard_output()
        if not isinstance(error, BrokenPipeError):
            raise SinkError(f"the result cannot be written to standard output ({error.strerror})") from error


def _discard_output() -> None:
    """Write to nowhere from now on: the interpreter's last flush may not fail either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"engine {engine.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback with an error (anywhere on the line).")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Options of every command."""


@app.command(
    epilog=_epilog(
        "engine run --collection tweets --hot-dir /nvme/engine --cold-dir /ssd/parquet",
        "engine run --config engine.toml --limit 100000 --json",
        "engine run --tuned tuned.toml --target-p95 5",
    )
)
def run(
    context: typer.Context,
    config: Annotated[Path | None, config_option("run")] = None,
    mongo_uri_: MongoUriOption = DEFAULT_URI,
    mongo_uri_file: MongoUriFile = None,
    database: Database = "twitter_data",
    collection: Collection = "tweets",
    text_field: TextField = "text",
    done_field: DoneField = "gemma_embedded_768",
    lang: Annotated[str | None, option("lang", "Languages of the work queue, comma-separated [default: all].")] = None,
    filter_: Annotated[str | None, option("filter", "Extended JSON, ANDed to the work query.")] = None,
    columns: Annotated[str | None, option("columns", "Further fields carried into Parquet, comma-separated.")] = None,
    scan: Annotated[str, option("scan", "queue: the partial index; id: the whole collection in _id order.")] = "queue",
    no_mark: Annotated[
        bool, option("no-mark", "Never write to MongoDB; resume from the ledger.", declared="--no-mark")
    ] = False,
    tei_urls: TeiUrls = DEFAULT_URLS,
    tei_api_key_file: ApiKeyFile = None,
    server_kind: ServerKind = "auto",
    model: Model = None,
    batch_size: Annotated[int, option("batch-size", "Texts per request; never above what the server admits.")] = 32,
    concurrency: Annotated[str, option("concurrency", "Requests in flight per server, or auto.")] = "auto",
    max_concurrency: Annotated[int, option("max-concurrency", "Ceiling of auto.")] = 64,
    target_p95: Annotated[
        float | None, option("target-p95", "Seconds: auto keeps the 95th percentile under it.")
    ] = None,
    prompt: Annotated[str | None, option("prompt", "Text put before each document; part of the fingerprint.")] = None,
    dimensions: Dimensions = None,
    normalize: Normalize = True,
    truncate: Truncate = True,
    dedup: Annotated[
        bool, option("dedup", "Embed identical texts of a window once.", declared="--dedup/--no-dedup")
    ] = False,
    bucketing: Annotated[str, option("bucketing", "Requests of like length: auto, on or off.")] = "auto",
    hot_dir: HotDir = Path("hot"),
    cold_dir: ColdDir = Path("cold"),
    shard_bytes: Annotated[str, option("shard-bytes", "A shard is sealed at this size ...")] = "256MiB",
    shard_seconds: Annotated[float, option("shard-seconds", "... or at this age: what a crash recomputes.")] = 60.0,
    vector_type: Annotated[str, option("vector-type", "float32 or float16.")] = "float32",
    truncated_column: Annotated[
        bool, option("truncated-column", "Write a boolean column that flags cut texts.", declared="--truncated-column")
    ] = False,
    keep_text: Annotated[
        bool, option("keep-text", "Keep texts in the quarantine file.", declared="--keep-text")
    ] = False,
    tuned: Annotated[Path | None, option("tuned", "The file that `engine bench` wrote.")] = None,
    limit: Annotated[int | None, option("limit", "Stop after that many documents; exit 8 when work is left.")] = None,
    max_time: Annotated[float | None, option("max-time", "Stop cleanly after that many seconds.")] = None,
    max_outage: Annotated[
        float, option("max-outage", "Seconds without a server or MongoDB before a clean stop.")
    ] = 600.0,
    ring_bytes: Annotated[str, option("ring-bytes", "Shared memory of the vector ring.")] = "48MiB",
    progress: Annotated[
        bool | None, option("progress", "Live progress [default: on a terminal].", declared="--progress/--no-progress")
    ] = None,
    metrics_port: Annotated[int | None, option("metrics-port", "Serve Prometheus metrics on 127.0.0.1.")] = None,
    json_: Annotated[bool, option("json", "One JSON object on stdout; logs go to stderr.", declared="--json")] = False,
    verbose: Verbose = False,
) -> None:
    """Embed what is not yet embedded; the same command again continues or picks up what is new."""

    from commands import run as command
    from engine.config import LimitsConfig, RunConfig, ServersConfig, SinkConfig, SourceConfig

    show = sys.stderr.isatty() and not json_ if progress is None else progress
    _logging(verbose, quiet=show)
    servers = ServersConfig(
        urls=listed(tei_urls),
        batch_size=batch_size,
        concurrency=None if concurrency == "auto" else _positive("concurrency", concurrency),
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
    )
    if tuned is not None:
        from commands.tuned import apply_tuned

        servers = apply_tuned(servers, tuned, _given(context))
    configuration = RunConfig(
        source=SourceConfig(
            database=database,
            collection=collection,
            text_field=text_field,
            done_field=done_field,
            langs=listed(lang),
            filter=filter_,
            columns=listed(columns),
            scan=scan,
            mark=not no_mark,
        ),
        servers=servers,
        sink=SinkConfig(
            hot_dir=hot_dir,
            cold_dir=cold_dir,
            shard_bytes=size("shard-bytes", shard_bytes),
            shard_seconds=shard_seconds,
            vector_type=vector_type,
            truncated_column=truncated_column,
            keep_text=keep_text,
        ),
        limits=LimitsConfig(
            limit=limit, max_time_s=max_time, max_outage_s=max_outage, ring_bytes=size("ring-bytes", ring_bytes)
        ),
    )
    secrets = command.RunSecrets(
        mongo_uri=mongo_uri(context, mongo_uri_, mongo_uri_file), api_keys=api_keys(tei_api_key_file)
    )
    result = command.run(configuration, secrets, show_progress=show, metrics_port=metrics_port, tuned=tuned)
    if json_:
        _print_json(result.summary)
    elif result.error is None or result.summary["read"]:
        _print(command.as_text(result.summary, configuration))
    if result.error is not None:
        raise result.error
    if result.sentence:
        _say(result.sentence)
    raise typer.Exit(int(result.summary["exit"]))


def _positive(name: str, text: str, expected: str = "auto or a number of at least 1") -> int:
    if not text.isdigit() or int(text) < 1:
        raise typer.BadParameter(f"--{name} is {text!r}; expected {expected}")
    return int(text)


def _secrets(context: typer.Context, uri: str, uri_file: Path | None, key_file: Path | None) -> RunSecrets:
    from commands.run import RunSecrets

    return RunSecrets(mongo_uri=mongo_uri(context, uri, uri_file), api_keys=api_keys(key_file))


def _given(context: typer.Context) -> frozenset[str]:
    """Names of the options that a person set in any way; the rest are defaults."""
    return frozenset(name for name in context.params if source_of(context, name) != "DEFAULT")


@app.command(
    epilog=_epilog(
        "engine status --collection tweets --hot-dir /nvme/engine", "engine status --json --gpu-hour-price 0.30"
    )
)
def status(
    config: Annotated[Path | None, config_option("status")] = None,
    database: Database = "twitter_data",
    collection: Collection = "tweets",
    done_field: DoneField = "gemma_embedded_768",
    hot_dir: HotDir = Path("hot"),
    cold_dir: ColdDir = Path("cold"),
    gpu_hour_price: Annotated[float | None, option("gpu-hour-price", "Price of one GPU for an hour.")] = None,
    gpus: Annotated[int | None, option("gpus", "How many GPUs that price is paid for [default: servers].")] = None,
    json_: Json = False,
) -> None:
    """Say how far a run is: works while it is going and after a crash."""
    from commands import status as command
    from engine.ledger.runfolder import RunFolders

    folders = RunFolders.of(hot_dir, cold_dir, database, collection, done_field)
    figures = command.collect(folders, gpu_hour_price=gpu_hour_price, n_gpus=gpus)
    if json_:
        _print_json(figures)
    else:
        _print(command.as_text(figures, folders.hot))


@app.command(
    epilog=_epilog(
        "engine index --collection tweets,tweets_usa",
        "engine index --check --json",
    )
)
def index(
    context: typer.Context,
    config: Annotated[Path | None, config_option("index")] = None,
    mongo_uri_: MongoUriOption = DEFAULT_URI,
    mongo_uri_file: MongoUriFile = None,
    database: Database = "twitter_data",
    collection: Annotated[str, option("collection", "One collection, or several with commas.")] = "tweets",
    done_field: DoneField = "gemma_embedded_768",
    check: Annotated[bool, option("check", "Only report; exit 2 when one is missing.", declared="--check")] = False,
    json_: Json = False,
) -> None:
    """Create the two indexes of the work queue, with progress while they build."""
    from commands import index as command

    _logging(verbose=False)
    reports = command.index(
        command.IndexConfig(database=database, collections=listed(collection), done_field=done_field, check=check),
        mongo_uri(context, mongo_uri_, mongo_uri_file),
    )
    if json_:
        _print_json([report.as_dict() for report in reports])
    else:
        _print(command.as_text(reports))
    raise typer.Exit(int(command.exit_code(reports)))


@app.command(epilog=_epilog("engine doctor --tei-urls http://localhost:18080,http://localhost:18081"))
def doctor(
    config: Annotated[Path | None, config_option("doctor")] = None,
    tei_urls: TeiUrls = DEFAULT_URLS,
    tei_api_key_file: ApiKeyFile = None,
    server_kind: ServerKind = "auto",
    model: Model = None,
    batch_size: Annotated[int, option("batch-size", "Texts per request that a run would send.")] = 32,
    concurrency: Annotated[str, option("concurrency", "Requests in flight per server, or auto.")] = "auto",
    prompt: Annotated[str | None, option("prompt", "The client's prompt.")] = None,
    dimensions: Dimensions = None,
    normalize: Normalize = True,
    truncate: Truncate = True,
    json_: Json = False,
) -> None:
    """Examine the embedding servers as every run does before it starts."""
    from commands import doctor as command
    from commands.run import RunSecrets, client_settings
    from engine.config import RunConfig, ServersConfig
    from gpu_clients.servers.doctor import examine

    _logging(verbose=False)
    servers = ServersConfig(
        urls=listed(tei_urls),
        batch_size=batch_size,
        concurrency=None if concurrency == "auto" else _positive("concurrency", concurrency),
        prompt=prompt,
        kind=server_kind,
        model=model,
        dimensions=dimensions,
        normalize=normalize,
        truncate=truncate,
    )
    secrets = RunSecrets(mongo_uri="", api_keys=api_keys(tei_api_key_file))
    fleet = examine(client_settings(RunConfig(servers=servers), secrets), with_padding=True)
    if json_:
        _print_json(command.as_dict(fleet))
    else:
        _print(command.as_text(fleet))


quarantine_app = typer.Typer(help="Documents that could not be embedded: list them, or let them be tried again.")
app.add_typer(quarantine_app, name="quarantine", no_args_is_help=True)
Reasons = Annotated[str | None, option("reason", "Only these reasons, comma-separated.")]


@quarantine_app.command("list", epilog=_epilog("engine quarantine list --collection tweets --reason too_long"))
def quarantine_list(
    config: Annotated[Path | None, config_option("quarantine")] = None,
    database: Database = "twitter_data",
    collection: Collection = "tweets",
    done_field: DoneField = "gemma_embedded_768",
    hot_dir: HotDir = Path("hot"),
    reason: Reasons = None,
    json_: Json = False,
) -> None:
    """List documents in quarantine."""
    from commands import quarantine as command
    from engine.ledger.runfolder import RunFolders

    entries = command.listed(RunFolders.of(hot_dir, Path(), database, collection, done_field), listed(reason))
    if json_:
        _print_json(entries)
    else:
        _print(command.as_text(entries))


@quarantine_app.command("retry", epilog=_epilog("engine quarantine retry --reason backend && engine run"))
def quarantine_retry(
    config: Annotated[Path | None, config_option("quarantine")] = None,
    database: Database = "twitter_data",
    collection: Collection = "tweets",
    done_field: DoneField = "gemma_embedded_768",
    hot_dir: HotDir = Path("hot"),
    reason: Reasons = None,
    id_: Annotated[str | None, option("id", "Only these ids as the list shows them, comma-separated.")] = None,
    json_: Json = False,
) -> None:
    """Take documents out of quarantine, so that the next run tries them again."""
    from commands import quarantine as command
    from engine.ledger.runfolder import RunFolders

    folders = RunFolders.of(hot_dir, Path(), database, collection, done_field)
    count = command.retry(folders, listed(reason), listed(id_))
    if json_:
        _print_json({"released": count})
    else:
        _print(f"{count:,} documents will be tried again by the next run")


@app.command(epilog=_epilog("engine demo", "engine demo --folder demo --question 'rain on my wedding day'"))
def demo(
    folder: Annotated[Path | None, option("folder", "New folder that keeps the result [default: temporary].")] = None,
    mongod: Annotated[Path | None, option("mongod", "A mongod binary [default: PATH, or the bundled part].")] = None,
    question: Annotated[str | None, option("question", "A text whose nearest tweets are shown.")] = None,
) -> None:
    """Show the whole job on this machine: MongoDB, four servers with a small real model, run, merge, verify, search."""
    from commands.demo import DemoConfig
    from commands.demo import demo as run_demo

    _logging(verbose=False)
    raise typer.Exit(run_demo(DemoConfig(folder=folder, mongod=mongod, question=question)))


@app.command(
    epilog=_epilog(
        "engine merge --collection tweets --cold-dir /ssd/parquet --file-bytes 4GiB",
        "engine merge --source old-shards --target merged --sort _id --on-duplicate latest",
    )
)
def merge(
    config: Annotated[Path | None, config_option("merge")] = None,
    database: Database = "twitter_data",
    collection: Collection = "tweets",
    done_field: DoneField = "gemma_embedded_768",
    hot_dir: HotDir = Path("hot"),
    cold_dir: ColdDir = Path("cold"),
    source: Annotated[Path | None, option("source", "A plain folder of Parquet files instead of a collection.")] = None,
    target: Annotated[
        Path | None, option("target", "Where the files go; needed with --source [default: consolidated].")
    ] = None,
    file_bytes: Annotated[str, option("file-bytes", "Size of a consolidated file, at most.")] = "1GiB",
    row_group_bytes: Annotated[str, option("row-group-bytes", "Bytes in a row group before compression.")] = "64MiB",
    sort: Annotated[str, option("sort", "none, or _id: all files of this merge sorted by id.")] = "none",
    on_duplicate: Annotated[
        str, option("on-duplicate", "error, or latest: keep the row of the latest file.")
    ] = "error",
    delete_sources: Annotated[
        bool, option("delete-sources", "Remove shards once their rows are safe.", declared="--delete-sources")
    ] = False,
    jobs: Annotated[int, option("jobs", "Worker processes [default: cores].")] = 0,
    temp_dir: TempDir = None,
    id_column: IdColumn = None,
    vector_column: VectorColumn = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Consolidate committed shards into few large files; each is proved before it counts."""
    from commands import merge as command
    from commands.watching import Watch

    _logging(verbose)
    options: dict[str, Any] = {
        "file_bytes": size("file-bytes", file_bytes),
        "row_group_bytes": size("row-group-bytes", row_group_bytes),
        "sort": sort,
        "on_duplicate": on_duplicate,
        "delete_sources": delete_sources,
        "jobs": jobs,
        "temporary": temp_dir,
    }
    if source is not None and target is None:
        raise typer.BadParameter("--source needs a --target")
    if source is not None and target is not None:
        settings = command.MergeConfig(
            source=source, target=target, id_column=id_column, vector_column=vector_column, **options
        )
    else:
        settings = command.MergeConfig.of_collection(
            hot_dir, cold_dir, database, collection, done_field, target=target, **options
        )
    with Watch(quiet=json_) as watch:
        report = command.merge(settings, watch)
    if json_:
        _print_json(report.as_dict())
    else:
        _print(command.as_text(report))


@app.command(
    epilog=_epilog(
        "engine verify --collection tweets --level 3",
        "engine verify --level 4 --json",
        "engine verify --folder merged --level 2",
    )
)
def verify(
    context: typer.Context,
    config: Annotated[Path | None, config_option("verify")] = None,
    level: Annotated[
        int,
        option("level", "0 files, 1 footers, 2 pages, 3 rows, 4 against MongoDB, 5 a sample embedded again."),
    ] = 3,
    mongo_uri_: MongoUriOption = DEFAULT_URI,
    mongo_uri_file: MongoUriFile = None,
    database: Database = "twitter_data",
    collection: Collection = "tweets",
    done_field: DoneField = "gemma_embedded_768",
    text_field: TextField = "text",
    hot_dir: HotDir = Path("hot"),
    cold_dir: ColdDir = Path("cold"),
    folder: Annotated[Path | None, option("folder", "A plain folder of Parquet files instead of a collection.")] = None,
    scope: Annotated[str, option("scope", "all, shards or consolidated.")] = "all",
    target: Annotated[Path | None, option("target", "Where the shards were merged to [default: consolidated].")] = None,
    sample_rows: Annotated[int, option("sample-rows", "Rows that level 5 embeds again.")] = 256,
    min_cosine: Annotated[float, option("min-cosine", "Lowest cosine that level 5 accepts.")] = 0.999,
    tei_urls: TeiUrls = DEFAULT_URLS,
    tei_api_key_file: ApiKeyFile = None,
    jobs: Annotated[int, option("jobs", "Worker processes [default: cores].")] = 0,
    temp_dir: TempDir = None,
    id_column: IdColumn = None,
    vector_column: VectorColumn = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Prove a data set: files, footers, checksums, ids, vectors, MongoDB's marks; exit 4 on any difference."""
    from commands import verify as command
    from commands.watching import Watch

    _logging(verbose)
    options: dict[str, Any] = {
        "level": level,
        "jobs": jobs,
        "sample_rows": sample_rows,
        "min_cosine": min_cosine,
        "temporary": temp_dir,
    }
    if folder is not None:
        settings = command.VerifyConfig.of_folder(folder, id_column=id_column, vector_column=vector_column, **options)
    else:
        settings = command.VerifyConfig.of_collection(
            hot_dir, cold_dir, database, collection, done_field, scope=scope, target=target, **options
        )
    with Watch(quiet=json_) as watch, command.Partners() as partners:
        if level >= 4:
            partners.connect(
                settings,
                mongo_uri(context, mongo_uri_, mongo_uri_file),
                command.CollectionName(database, collection, done_field, text_field),
            )
        if level >= 5:
            partners.embed_with(settings, listed(tei_urls), api_keys(tei_api_key_file))
        report = command.verify(settings, watch, documents=partners.documents, embedder=partners.embedder)
    if json_:
        _print_json(report.as_dict())
    else:
        _print(command.as_text(report))
    raise typer.Exit(int(report.exit_code))


bench_app = typer.Typer()
app.add_typer(bench_app, name="bench")


@bench_app.callback(
    invoke_without_command=True,
    epilog=_epilog(
        "engine bench --texts texts.jsonl --target-p95 10 --out tuned.toml --plot curve.png",
        "engine bench --collection tweets --batch-sizes 16,32 --json",
        "engine bench pipeline --compare",
    ),
)
def bench(
    context: typer.Context,
    config: Annotated[Path | None, config_option("bench")] = None,
    tei_urls: TeiUrls = DEFAULT_URLS,
    tei_api_key_file: ApiKeyFile = None,
    server_kind: ServerKind = "auto",
    model: Model = None,
    texts: Annotated[
        Path | None, option("texts", "One text a line, or .jsonl with `text` [default: sample the collection].")
    ] = None,
    mongo_uri_: MongoUriOption = DEFAULT_URI,
    mongo_uri_file: MongoUriFile = None,
    database: Database = "twitter_data",
    collection: Collection = "tweets",
    text_field: TextField = "text",
    done_field: DoneField = "gemma_embedded_768",
    lang: Annotated[str | None, option("lang", "Languages of the work queue, comma-separated [default: all].")] = None,
    filter_: Annotated[str | None, option("filter", "Extended JSON, ANDed to the work query.")] = None,
    batch_sizes: Annotated[str, option("batch-sizes", "Texts per request to try, comma-separated.")] = "8,16,32,64",
    concurrency_max: Annotated[
        int | None, option("concurrency-max", "Requests in flight per server [default: what the servers admit].")
    ] = None,
    target_p95: Annotated[
        float | None, option("target-p95", "Seconds that the 95th percentile of latency may take.")
    ] = None,
    seconds: Annotated[float, option("seconds", "Steady state of one visit to a point, at most.")] = 10.0,
    max_seconds: Annotated[float, option("max-seconds", "The whole search, at most.")] = 300.0,
    seed: Annotated[int | None, option("seed", "Of the order in which points are repeated [default: random].")] = None,
    prompt: Annotated[str | None, option("prompt", "Text put before each document; part of the fingerprint.")] = None,
    dimensions: Dimensions = None,
    normalize: Normalize = True,
    truncate: Annotated[
        bool, option("truncate", "Cut texts that are too long.", declared="--truncate/--no-truncate")
    ] = True,
    out: Annotated[Path, option("out", "The file that `engine run --tuned` takes.")] = Path("tuned.toml"),
    plot: Annotated[Path | None, option("plot", "PNG of latency over throughput (needs the extra `plot`).")] = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Find batch size and concurrency for running servers: from one request upward, explained, and written down."""
    if context.invoked_subcommand is not None:
        return
    from bench.tuner.search.survey import TuneConfig
    from bench.tuner.tuning import TuningPlan
    from commands import bench as command
    from engine.config import RunConfig, ServersConfig, SourceConfig

    _logging(verbose)
    sizes = tuple(
        _positive("batch-sizes", part, "numbers of at least 1, comma-separated") for part in listed(batch_sizes)
    )
    servers = ServersConfig(
        urls=listed(tei_urls),
        batch_size=min(sizes, default=1),
        target_p95_s=target_p95,
        prompt=prompt,
        dimensions=dimensions,
        normalize=normalize,
        truncate=truncate,
        kind=server_kind,
        model=model,
    )
    source = SourceConfig(
        database=database,
        collection=collection,
        text_field=text_field,
        done_field=done_field,
        langs=listed(lang),
        filter=filter_,
    )
    settings = command.BenchConfig(
        run=RunConfig(source=source, servers=servers),
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
    )
    result = command.bench(settings, _secrets(context, mongo_uri_, mongo_uri_file, tei_api_key_file))
    if json_:
        _print_json(command.as_dict(result))
    else:
        _print(command.as_text(result))
    if result.sentence:
        _complain(result.sentence)
    raise typer.Exit(int(result.exit_code))


@bench_app.command("pipeline", epilog=_epilog("engine bench pipeline --documents 200000 --compare --json"))
def bench_pipeline(
    documents: Annotated[int, option("documents", "Documents in the work queue.")] = 200_000,
    dim: Annotated[int, option("dim", "Numbers in a vector.")] = 768,
    batch_size: Annotated[int, option("batch-size", "Texts per request.")] = 32,
    compare: Annotated[bool, typer.Option("--compare", help="Run the plain script beside it.")] = False,
    mongod: Annotated[Path | None, option("mongod", "A mongod binary [default: PATH, or the bundled part].")] = None,
    json_: Json = False,
) -> None:
    """Measure the engine's own ceiling on this machine: servers that answer at once, a real mongod, every stage."""
    from bench.measure.pipeline import PipelineConfig
    from commands import bench as command

    _logging(verbose=False, quiet=True)
    figures = command.pipeline(
        PipelineConfig(n_documents=documents, dim=dim, batch_size=batch_size, compare=compare, mongod=mongod)
    )
    if json_:
        _print_json(figures)
    else:
        _print(command.pipeline_text(figures))


@app.command(
    epilog=_epilog(
        "engine plan --collection tweets --gpu-hour-price 0.30 --api-price-per-mtok 0.02",
        "engine plan --tuned tuned.toml --json",
    )
)
def plan(
    context: typer.Context,
    config: Annotated[Path | None, config_option("plan")] = None,
    mongo_uri_: MongoUriOption = DEFAULT_URI,
    mongo_uri_file: MongoUriFile = None,
    database: Database = "twitter_data",
    collection: Collection = "tweets",
    text_field: TextField = "text",
    done_field: DoneField = "gemma_embedded_768",
    lang: Annotated[str | None, option("lang", "Languages of the work queue, comma-separated [default: all].")] = None,
    filter_: Annotated[str | None, option("filter", "Extended JSON, ANDed to the work query.")] = None,
    scan: Annotated[str, option("scan", "queue: the partial index; id: the whole collection in _id order.")] = "queue",
    tei_urls: TeiUrls = DEFAULT_URLS,
    tei_api_key_file: ApiKeyFile = None,
    server_kind: ServerKind = "auto",
    model: Model = None,
    batch_size: Annotated[int, option("batch-size", "Texts per request.")] = 32,
    concurrency: Annotated[str, option("concurrency", "Requests in flight per server, or auto.")] = "auto",
    target_p95: Annotated[
        float | None, option("target-p95", "Seconds that the 95th percentile of latency may take.")
    ] = None,
    prompt: Annotated[str | None, option("prompt", "Text put before each document.")] = None,
    dimensions: Dimensions = None,
    normalize: Normalize = True,
    truncate: Annotated[
        bool, option("truncate", "Cut texts that are too long.", declared="--truncate/--no-truncate")
    ] = True,
    hot_dir: HotDir = Path("hot"),
    cold_dir: ColdDir = Path("cold"),
    shard_bytes: Annotated[str, option("shard-bytes", "A shard is sealed at this size ...")] = "256MiB",
    shard_seconds: Annotated[float, option("shard-seconds", "... or at this age.")] = 60.0,
    vector_type: Annotated[str, option("vector-type", "float32 or float16.")] = "float32",
    tuned: Annotated[
        Path | None, option("tuned", "The file that `engine bench` wrote [default: measure the servers].")
    ] = None,
    max_seconds: Annotated[float, option("max-seconds", "Time for measuring the servers, at most.")] = 60.0,
    gpu_hour_price: Annotated[float | None, option("gpu-hour-price", "Price of one GPU for an hour.")] = None,
    gpus: Annotated[int | None, option("gpus", "How many GPUs that price is paid for [default: servers].")] = None,
    api_price_per_mtok: Annotated[
        float | None, option("api-price-per-mtok", "Price of a hosted API for a million tokens.")
    ] = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Forecast hours, cost, bytes and files of a run before anything is spent; writes nothing anywhere."""
    from commands import plan as command
    from engine.config import RunConfig, ServersConfig, SinkConfig, SourceConfig

    _logging(verbose)
    configuration = RunConfig(
        source=SourceConfig(
            database=database,
            collection=collection,
            text_field=text_field,
            done_field=done_field,
            langs=listed(lang),
            filter=filter_,
            scan=scan,
        ),
        servers=ServersConfig(
            urls=listed(tei_urls),
            batch_size=batch_size,
            concurrency=None if concurrency == "auto" else _positive("concurrency", concurrency),
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
            cold_dir=cold_dir,
            shard_bytes=size("shard-bytes", shard_bytes),
            shard_seconds=shard_seconds,
            vector_type=vector_type,
        ),
    )
    figures = command.plan(
        command.PlanConfig(
            run=configuration,
            tuned=tuned,
            gpu_hour_price=gpu_hour_price,
            api_price_per_mtok=api_price_per_mtok,
            gpus=gpus,
            max_seconds=max_seconds,
        ),
        _secrets(context, mongo_uri_, mongo_uri_file, tei_api_key_file),
    )
    if json_:
        _print_json(figures)
    else:
        _print(command.as_text(figures))


@app.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def serve(context: typer.Context) -> None:
    """Stand-in embedding servers for trials and tests (`engine serve --help` lists the options)."""
    from bench.standin.arguments import parse_arguments
    from bench.standin.process import serve as serve_ports

    serve_ports(parse_arguments(context.args, prog="engine serve"))


def main() -> None:
    """Entry point of `engine`: one sentence for an error, a traceback only with --debug."""
    debug = "--debug" in sys.argv[1:] or os.environ.get("ENGINE_DEBUG", "") not in ("", "0")
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    _open_missing_streams()
    raise_when_terminated()
    try:
        code = _run_app(arguments)
    except Terminated as signal:
        _complain(f"stopped by {signal}")
        code = Exit.SIGTERM
    except EngineError as error:
        if debug:
            raise
        _complain(str(error))
        code = error.exit_code
    except KeyboardInterrupt:
        _complain("stopped by SIGINT")
        code = Exit.SIGINT
    except BrokenPipeError:  # nobody reads what a demo says on its way: end quietly, as filters do
        _discard_output()
        code = Exit.UNEXPECTED
    except OSError as error:
        if debug:
            raise
        known = of_os_error(error)
        _complain(str(known))
        code = known.exit_code
    except Exception as error:
        if debug:
            raise
        _complain(f"unexpected error: {type(error).__name__}: {error}; run again with --debug and report it")
        code = Exit.UNEXPECTED
    sys.exit(int(code))


def _open_missing_streams() -> None:
    """Put /dev/null where a starter closed a standard stream, or the lock would get the number that prints go to."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            setattr(sys, name, os.fdopen(fd, "r" if fd == 0 else "w"))


def _run_app(arguments: list[str]) -> int:
    try:
        outcome = app(args=arguments or ["--help"], prog_name="engine", standalone_mode=False)
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # not exported; its message is the whole help text
            print(error.format_message())
            return int(Exit.USAGE)
        context = getattr(error, "ctx", None)
        where = f" (see `{context.command_path} --help`)" if context is not None else ""
        _complain(f"{error.format_message()}{where}")
        return int(Exit.USAGE)
    except typer.Abort:
        _complain("stopped by SIGINT")
        return int(Exit.SIGINT)
    return outcome if isinstance(outcome, int) else 0


def _complain(sentence: str) -> None:
    _say(f"engine: {' '.join(sentence.split())}")


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads: the exit code says it all the same
        print(redact(sentence), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
