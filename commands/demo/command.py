"""`engine demo` on the command line."""

from pathlib import Path
from typing import Annotated

import typer

from commands.options import declared as shared
from commands.options.declared import examples, option, path_option
from commands.terminal.output import say, set_up_logs

EPILOG = examples(
    "engine demo", "engine demo --source files", "engine demo --folder demo --question 'rain on my wedding day'"
)


def demo(
    folder: Annotated[
        Path | None, path_option("folder", "New folder that keeps the result [default: temporary].")
    ] = None,
    source: Annotated[
        str, typer.Option("--source", help="mongodb, or files: a folder of JSONL and no database.")
    ] = "mongodb",
    mongod: shared.Mongod = None,
    question: Annotated[str | None, option("question", "A text whose nearest tweets are shown.")] = None,
) -> None:
    """Show the whole job on this machine: MongoDB, four servers with a small real model, run, merge, verify, search."""
    # here and not above: only the command that is called pays for what it imports
    from bench.parts.fetched import make_available

    set_up_logs(verbose=False)
    make_available(say, with_mongod=mongod is None and source == "mongodb")
    from commands.demo.demo import DemoConfig  # its servers need parts
    from commands.demo.demo import demo as run_demo

    raise typer.Exit(run_demo(DemoConfig(folder=folder, mongod=mongod, question=question, source=source)))
