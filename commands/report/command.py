"""`engine report` on the command line."""

from pathlib import Path
from typing import Annotated

from commands.options import declared as shared
from commands.options.config_file import config_option
from commands.options.declared import examples, option, path_option
from commands.terminal.output import print_result, say, to_json

EPILOG = examples(
    "engine report --collection tweets --hot-dir /nvme/engine",
    "engine report --html report.html --gpu-hour-price 0.30",
    "engine report --json",
)


def report(
    config: Annotated[Path | None, config_option("report")] = None,
    database: shared.Database = "twitter_data",
    collection: shared.Collection = "tweets",
    name: Annotated[
        str | None, option("name", "A run over files: the name that it has in place of database and collection.")
    ] = None,
    done_field: shared.DoneField = "gemma_embedded_768",
    hot_dir: shared.HotDir = Path("hot"),
    html: Annotated[Path | None, path_option("html", "Write it as one page to this file.")] = None,
    gpu_hour_price: shared.GpuHourPrice = None,
    gpus: shared.Gpus = None,
    json_: shared.Json = False,
) -> None:
    """Say why a run was as fast as it was, and since when it is slower: works while it is going and afterwards."""
    # here and not above: only the command that is called pays for what it imports
    from commands.report.report import as_json, as_text, examine, write_page
    from engine.ledger.runfolder import RunFolders

    source = ("files", name) if name is not None else (database, collection)
    folders = RunFolders.of(hot_dir, hot_dir, *source, done_field)
    examined = examine(folders, gpu_hour_price=gpu_hour_price, n_gpus=gpus)
    if html is not None:
        write_page(html, examined)
        say(f"wrote {html}")
    if json_:
        print_result(to_json(as_json(examined.diagnosis)))
    elif html is None:
        print_result(as_text(examined.diagnosis, folders.hot))
