"""The command line `engine`: which commands there are, and what all of them have. Each stands in `commands/`."""

import sys
from typing import Annotated

import typer

from commands.bench.command import app as bench
from commands.demo import command as demo
from commands.doctor import command as doctor
from commands.index import command as index
from commands.merge import command as merge
from commands.plan import command as plan
from commands.quarantine.command import app as quarantine
from commands.report import command as report
from commands.run import command as run
from commands.search import command as search
from commands.serve import command as serve
from commands.serve.standins import ServeCommand
from commands.status import command as status
from commands.terminal.edge import run_app
from commands.verify import command as verify
from engine import __version__

app = typer.Typer(
    name="engine",
    help="Embed hundreds of millions of MongoDB documents through a fleet of embedding servers into Parquet: "
    "fast, resumable, without losing or doubling a single one.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"engine {__version__}")
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


app.command(epilog=run.EPILOG, context_settings={"allow_extra_args": True})(run.run)
app.command(epilog=status.EPILOG)(status.status)
app.command(epilog=report.EPILOG)(report.report)
app.command(epilog=index.EPILOG)(index.index)
app.command(epilog=doctor.EPILOG)(doctor.doctor)
app.command(epilog=demo.EPILOG)(demo.demo)
app.command(epilog=merge.EPILOG)(merge.merge)
app.command(epilog=verify.EPILOG)(verify.verify)
app.command(epilog=search.EPILOG)(search.search)
app.command(epilog=plan.EPILOG)(plan.plan)
app.command(
    cls=ServeCommand,
    epilog=serve.EPILOG,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)(serve.serve)
app.add_typer(quarantine, name="quarantine", no_args_is_help=True)
app.add_typer(bench, name="bench")


def main() -> None:
    """Entry point of `engine`."""
    sys.exit(int(run_app(app)))


if __name__ == "__main__":
    main()
