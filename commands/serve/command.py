"""`engine serve` on the command line: its options are those of `bench.standin`, which it hands on."""

import typer


def serve(context: typer.Context) -> None:
    """Stand-in embedding servers for trials and tests (`engine serve --help` lists the options)."""
    # here and not above: only the command that is called pays for what it imports
    from bench.standin.arguments import parse_arguments
    from bench.standin.process import serve as serve_ports

    serve_ports(parse_arguments(context.args, prog="engine serve"))
