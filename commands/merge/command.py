"""`engine merge` on the command line."""

from pathlib import Path
from typing import Annotated, Any

import typer

from commands.options import declared as shared
from commands.options.cold import cold_place
from commands.options.config_file import config_option
from commands.options.declared import examples, option, path_option
from commands.options.source import named
from commands.options.values import size
from commands.terminal.output import print_result, set_up_logs, to_json

EPILOG = examples(
    "engine merge --collection tweets --cold-dir /ssd/parquet --file-bytes 4GiB",
    "engine merge --source old-shards --target merged --sort _id --on-duplicate latest",
)


def merge(
    config: Annotated[Path | None, config_option("merge")] = None,
    database: shared.Database = "twitter_data",
    collection: shared.Collection = "tweets",
    name: shared.Name = None,
    done_field: shared.DoneField = "gemma_embedded_768",
    hot_dir: shared.HotDir = Path("hot"),
    cold_dir: shared.ColdDir = "cold",
    cold_endpoint: shared.ColdEndpoint = None,
    cold_region: shared.ColdRegion = None,
    cold_option: shared.ColdOption = None,
    source: Annotated[
        Path | None, path_option("source", "A plain folder of Parquet files instead of a collection.")
    ] = None,
    target: Annotated[
        Path | None, path_option("target", "Where the files go; needed with --source [default: consolidated].")
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
    jobs: shared.Jobs = 0,
    temp_dir: shared.TempDir = None,
    id_column: shared.IdColumn = None,
    vector_column: shared.VectorColumn = None,
    json_: shared.Json = False,
    log_format: shared.LogFormat = "text",
    verbose: shared.Verbose = False,
) -> None:
    """Consolidate committed shards into few large files; each is proved before it counts."""
    # here and not above: only the command that is called pays for what it imports
    from commands.merge.report import as_text
    from commands.terminal.progress_line import ProgressLine
    from writers.merge.config import MergeConfig
    from writers.merge.merge import merge as merge_files

    set_up_logs(verbose)
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
        raise typer.BadParameter(
            "--source (ENGINE_SOURCE) names a plain folder here and needs a --target; a data set of files that a run "
            "has embedded is named by --name"
        )
    if source is not None and target is not None:
        settings = MergeConfig(
            source=source, target=target, id_column=id_column, vector_column=vector_column, **options
        )
    else:
        cold = cold_place(cold_dir, cold_endpoint, cold_region, cold_option)
        database, collection = named(None, name, database, collection)
        settings = MergeConfig.of_collection(hot_dir, cold, database, collection, done_field, target=target, **options)
    with ProgressLine(quiet=json_) as progress:
        report = merge_files(settings, progress)
    print_result(to_json(report.as_dict()) if json_ else as_text(report))
