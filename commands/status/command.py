"""`engine status` on the command line."""

from functools import partial
from pathlib import Path
from typing import Annotated

from commands.options import declared as shared
from commands.options.cold import cold_place
from commands.options.config_file import config_option
from commands.options.declared import examples, option
from commands.options.source import named
from commands.options.values import retweeted_of
from commands.terminal.output import print_result, to_json

EPILOG = examples(
    "engine status --collection tweets --hot-dir /nvme/engine",
    "engine status --json --gpu-hour-price 0.30",
    "engine status --collection tweets --watch",
)


def status(
    config: Annotated[Path | None, config_option("status")] = None,
    database: shared.Database = "twitter_data",
    collection: shared.Collection = "tweets",
    source: shared.Source = None,
    name: shared.Name = None,
    done_field: shared.DoneField = "gemma_embedded_768",
    retweeted: Annotated[
        str | None, option("retweeted", "Which queue `left` is about: null, false or any [default: the last run's].")
    ] = None,
    hot_dir: shared.HotDir = Path("hot"),
    cold_dir: shared.ColdDir = "cold",
    cold_endpoint: shared.ColdEndpoint = None,
    cold_region: shared.ColdRegion = None,
    cold_option: shared.ColdOption = None,
    gpu_hour_price: shared.GpuHourPrice = None,
    gpus: shared.Gpus = None,
    watch: Annotated[
        bool,
        option(
            "watch",
            "Go on until the run ends or Ctrl-C; a line every few seconds without a terminal.",
            declared="--watch",
        ),
    ] = False,
    json_: shared.Json = False,
) -> None:
    """Say how far a run is: works while it is going and after a crash."""
    # here and not above: only the command that is called pays for what it imports
    from commands.status.status import as_text, collect
    from engine.ledger.runfolder import RunFolders

    cold = cold_place(cold_dir, cold_endpoint, cold_region, cold_option, source)
    folders = RunFolders.of(hot_dir, cold, *named(source, name, database, collection), done_field)
    queue = None if retweeted is None else retweeted_of(retweeted)
    look = partial(collect, folders, gpu_hour_price=gpu_hour_price, n_gpus=gpus, retweeted=queue)
    if watch:
        from commands.status.watch import watch as show_until_it_ends

        show_until_it_ends(look, lambda figures: as_text(figures, folders.hot), as_json=json_)
        return
    figures = look()
    print_result(to_json(figures) if json_ else as_text(figures, folders.hot))
