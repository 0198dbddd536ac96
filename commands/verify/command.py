"""`engine verify` on the command line."""

from pathlib import Path
from typing import Annotated, Any

import typer

from commands.options import declared as shared
from commands.options.cold import cold_place, source_store
from commands.options.config_file import config_option
from commands.options.declared import examples, option, path_option
from commands.options.secrets import mongo_uri, server_secrets
from commands.options.source import named, source_options
from commands.options.values import listed
from commands.terminal.output import print_result, set_up_logs, to_json

EPILOG = examples(
    "engine verify --collection tweets --level 3",
    "engine verify --level 4 --json",
    "engine verify --source /data/articles --id-field url --level 4",
    "engine verify --folder merged --level 2",
)


def verify(
    context: typer.Context,
    config: Annotated[Path | None, config_option("verify")] = None,
    level: Annotated[
        int,
        option("level", "0 files, 1 footers, 2 pages, 3 rows, 4 against MongoDB, 5 a sample embedded again."),
    ] = 3,
    mongo_uri_: shared.MongoUri = shared.DEFAULT_URI,
    mongo_uri_file: shared.MongoUriFile = None,
    database: shared.Database = "twitter_data",
    collection: shared.Collection = "tweets",
    source: shared.Source = None,
    id_field: shared.IdField = None,
    name: shared.Name = None,
    done_field: shared.DoneField = "gemma_embedded_768",
    text_field: shared.TextField = "text",
    hot_dir: shared.HotDir = Path("hot"),
    cold_dir: shared.ColdDir = "cold",
    cold_endpoint: shared.ColdEndpoint = None,
    cold_region: shared.ColdRegion = None,
    cold_option: shared.ColdOption = None,
    folder: Annotated[
        Path | None, path_option("folder", "A plain folder of Parquet files instead of a collection.")
    ] = None,
    scope: Annotated[str, option("scope", "all, shards or consolidated.")] = "all",
    target: Annotated[
        Path | None, path_option("target", "Where the shards were merged to [default: consolidated].")
    ] = None,
    sample_rows: Annotated[int, option("sample-rows", "Rows that level 5 embeds again.")] = 256,
    min_cosine: Annotated[float, option("min-cosine", "Lowest cosine that level 5 accepts.")] = 0.999,
    tei_urls: shared.TeiUrls = shared.DEFAULT_URLS,
    tei_api_key_file: shared.ApiKeyFile = None,
    tei_header_file: shared.HeaderFile = None,
    tei_ca_file: shared.CaFile = None,
    jobs: shared.Jobs = 0,
    temp_dir: shared.TempDir = None,
    id_column: shared.IdColumn = None,
    vector_column: shared.VectorColumn = None,
    json_: shared.Json = False,
    log_format: shared.LogFormat = "text",
    verbose: shared.Verbose = False,
) -> None:
    """Prove a data set: files, footers, checksums, ids, vectors, MongoDB's marks; exit 4 on any difference."""
    # here and not above: only the command that is called pays for what it imports
    from commands.composition.partners import CollectionName, Partners
    from commands.terminal.progress_line import ProgressLine
    from commands.verify.report import as_text
    from engine.config import SourceConfig
    from engine.errors import ConfigError
    from writers.verify.config import VerifyConfig
    from writers.verify.verify import verify as verify_files

    set_up_logs(verbose)
    of_store = (cold_endpoint, cold_region, cold_option)
    options: dict[str, Any] = {
        "level": level,
        "jobs": jobs,
        "sample_rows": sample_rows,
        "min_cosine": min_cosine,
        "temporary": temp_dir,
    }
    if folder is not None:
        settings = VerifyConfig.of_folder(folder, id_column=id_column, vector_column=vector_column, **options)
    else:
        database, collection = named(source, name, database, collection)
        cold = cold_place(cold_dir, *of_store, source)
        settings = VerifyConfig.of_collection(
            hot_dir, cold, database, collection, done_field, scope=scope, target=target, **options
        )
    with ProgressLine(quiet=json_) as progress, Partners() as partners:
        if level >= 4 and source is None and name is not None:
            raise ConfigError(f"--level {level} compares with the files themselves: name them with --source")
        if level >= 4 and source is not None:
            store = source_store(source, *of_store, cold_dir)
            names = source_options(source, name, database, collection, store)
            partners.read_files(
                settings, SourceConfig(**names, id_field=id_field, text_field=text_field, done_field=done_field)
            )
        elif level >= 4:
            partners.connect(
                settings,
                mongo_uri(context, mongo_uri_, mongo_uri_file),
                CollectionName(database, collection, done_field, text_field),
            )
        if level >= 5:
            secrets = server_secrets(tei_api_key_file, tei_header_file, tei_ca_file)
            partners.embed_with(settings, listed(tei_urls), secrets)
        report = verify_files(settings, progress, documents=partners.documents, embedder=partners.embedder)
    print_result(to_json(report.as_dict()) if json_ else as_text(report))
    raise typer.Exit(int(report.exit_code))
