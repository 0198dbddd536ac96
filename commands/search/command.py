"""`engine search` on the command line."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from commands.options import declared as shared
from commands.options.cold import cold_place, source_store
from commands.options.config_file import config_option
from commands.options.declared import examples, option, path_option
from commands.options.secrets import RunSecrets, mongo_uri, server_secrets
from commands.options.source import named, source_options
from commands.options.values import listed
from commands.terminal.output import print_result, set_up_logs, to_json

EPILOG = examples(
    "engine search --text 'my phone battery died' --with-text",
    "engine search --id 1462341 --k 5 --collection tweets_usa",
    "engine search --vector query.npy --folder merged --json",
)


def search(
    context: typer.Context,
    config: Annotated[Path | None, config_option("search")] = None,
    text: Annotated[str | None, option("text", "Embed this text and find what is nearest to it.")] = None,
    id_: Annotated[
        str | None, option("id", "Find what is nearest to the row with this _id; it is left out itself.")
    ] = None,
    vector: Annotated[
        Path | None, path_option("vector", "Find what is nearest to the vector in this file: .npy, or a JSON list.")
    ] = None,
    k: Annotated[int, option("k", "How many rows.")] = 10,
    query_prompt: Annotated[
        str | None, option("query-prompt", "Text put before --text [default: what stood before the documents].")
    ] = None,
    with_text: Annotated[
        bool, option("with-text", "Show the documents' texts, from the files or from MongoDB.", declared="--with-text")
    ] = False,
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
    target: Annotated[
        Path | None, path_option("target", "Where the shards were merged to [default: consolidated].")
    ] = None,
    tei_urls: shared.TeiUrls = shared.DEFAULT_URLS,
    tei_api_key_file: shared.ApiKeyFile = None,
    tei_header_file: shared.HeaderFile = None,
    tei_ca_file: shared.CaFile = None,
    id_column: shared.IdColumn = None,
    vector_column: shared.VectorColumn = None,
    jobs: Annotated[int, option("jobs", "Threads [default: cores].")] = 0,
    json_: Annotated[bool, option("json", "A JSON list on stdout: _id, score, text.", declared="--json")] = False,
    log_format: shared.LogFormat = "text",
    verbose: shared.Verbose = False,
) -> None:
    """Find the rows nearest to a text, a row or a vector: exact, over all Parquet files, on all cores."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the search has its own threads; before numpy is imported
    # here and not above: only the command that is called pays for what it imports
    from commands.search.search import SearchConfig, as_text
    from commands.search.search import search as find
    from engine.config import SourceConfig
    from writers.verify.config import VerifyConfig

    set_up_logs(verbose)
    of_store = (cold_endpoint, cold_region, cold_option)
    store = source_store(source, *of_store, cold_dir)
    options: dict[str, Any] = {"id_column": id_column, "vector_column": vector_column}
    if folder is not None:
        files = VerifyConfig.of_folder(folder, level=1, **options)
    else:
        cold = cold_place(cold_dir, *of_store, source)
        database, collection = named(source, name, database, collection)
        files = VerifyConfig.of_collection(hot_dir, cold, database, collection, done_field, target=target, level=1)
    found = find(
        SearchConfig(
            files=files,
            source=SourceConfig(
                **source_options(source, None if source is None else name, database, collection, store),
                id_field=id_field,
                done_field=done_field,
                text_field=text_field,
            ),
            urls=listed(tei_urls),
            text=text,
            identity=id_,
            vector=vector,
            prompt=query_prompt,
            k=k,
            with_text=with_text,
            jobs=jobs,
        ),
        RunSecrets(
            mongo_uri=mongo_uri(context, mongo_uri_, mongo_uri_file),
            servers=server_secrets(tei_api_key_file, tei_header_file, tei_ca_file),
        ),
        None if json_ or not sys.stderr.isatty() else _tell,
    )
    print_result(to_json([item.as_dict(with_text=with_text) for item in found]) if json_ else as_text(found))


def _tell(seen: int, total: int) -> None:
    end = "\r\033[K" if seen >= total else ""
    print(f"\r\033[K{seen:,} of {total:,} rows{end}", end="", file=sys.stderr, flush=True)
