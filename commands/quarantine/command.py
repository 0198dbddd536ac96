"""`engine quarantine list` and `engine quarantine retry` on the command line."""

from pathlib import Path
from typing import Annotated

import typer

from commands.options import declared as shared
from commands.options.config_file import config_option
from commands.options.declared import examples, option
from commands.options.source import named
from commands.options.values import listed
from commands.terminal.output import list_as_json, print_parts, print_result, to_json

app = typer.Typer(help="Documents that could not be embedded: list them, or let them be tried again.")
Reasons = Annotated[str | None, option("reason", "Only these reasons, comma-separated.")]


@app.command("list", epilog=examples("engine quarantine list --collection tweets --reason too_long"))
def list_entries(
    config: Annotated[Path | None, config_option("quarantine")] = None,
    database: shared.Database = "twitter_data",
    collection: shared.Collection = "tweets",
    source: shared.Source = None,
    name: shared.Name = None,
    done_field: shared.DoneField = "gemma_embedded_768",
    hot_dir: shared.HotDir = Path("hot"),
    reason: Reasons = None,
    json_: shared.Json = False,
) -> None:
    """List documents in quarantine."""
    # here and not above: only the command that is called pays for what it imports
    from commands.quarantine.quarantine import as_text, entries_with
    from engine.ledger.runfolder import RunFolders

    folders = RunFolders.of(hot_dir, Path(), *named(source, name, database, collection), done_field)
    entries = entries_with(folders, listed(reason))
    print_parts(list_as_json(entries) if json_ else as_text(entries))


@app.command("retry", epilog=examples("engine quarantine retry --reason backend && engine run"))
def retry_entries(
    config: Annotated[Path | None, config_option("quarantine")] = None,
    database: shared.Database = "twitter_data",
    collection: shared.Collection = "tweets",
    source: shared.Source = None,
    name: shared.Name = None,
    done_field: shared.DoneField = "gemma_embedded_768",
    hot_dir: shared.HotDir = Path("hot"),
    reason: Reasons = None,
    id_: Annotated[str | None, option("id", "Only these ids as the list shows them, comma-separated.")] = None,
    json_: shared.Json = False,
) -> None:
    """Take documents out of quarantine, so that the next run tries them again."""
    # here and not above: only the command that is called pays for what it imports
    from commands.quarantine.quarantine import retry
    from engine.ledger.runfolder import RunFolders

    count = retry(
        RunFolders.of(hot_dir, Path(), *named(source, name, database, collection), done_field),
        listed(reason),
        listed(id_),
    )
    released = f"{count:,} documents will be tried again by the next run"
    print_result(to_json({"released": count}) if json_ else released)
