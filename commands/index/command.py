"""`engine index` on the command line."""

from pathlib import Path
from typing import Annotated

import typer

from commands.options import declared as shared
from commands.options.config_file import config_option
from commands.options.declared import examples, option
from commands.options.secrets import mongo_uri
from commands.options.values import listed, retweeted_of
from commands.terminal.output import print_result, set_up_logs, to_json

EPILOG = examples("engine index --collection tweets,tweets_usa", "engine index --check --json")


def index(
    context: typer.Context,
    config: Annotated[Path | None, config_option("index")] = None,
    mongo_uri_: shared.MongoUri = shared.DEFAULT_URI,
    mongo_uri_file: shared.MongoUriFile = None,
    database: shared.Database = "twitter_data",
    collection: Annotated[str, option("collection", "One collection, or several with commas.")] = "tweets",
    done_field: shared.DoneField = "gemma_embedded_768",
    retweeted: shared.Retweeted = "null",
    check: Annotated[bool, option("check", "Only report; exit 2 when one is missing.", declared="--check")] = False,
    log_format: shared.LogFormat = "text",
    json_: shared.Json = False,
) -> None:
    """Create the two indexes of the work queue, with progress while they build."""
    # here and not above: only the command that is called pays for what it imports
    from commands.index.index import IndexConfig, as_text, create_or_check, exit_code

    set_up_logs(verbose=False)
    reports = create_or_check(
        IndexConfig(
            database=database,
            collections=listed(collection),
            done_field=done_field,
            check=check,
            retweeted=retweeted_of(retweeted),
        ),
        mongo_uri(context, mongo_uri_, mongo_uri_file),
    )
    print_result(to_json([report.as_dict() for report in reports]) if json_ else as_text(reports))
    raise typer.Exit(int(exit_code(reports)))
