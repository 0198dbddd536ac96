"""The help of `engine serve`: the options of the stand-in servers stand behind those of real ones."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class ServeCommand(TyperCommand):
    """A command whose help ends with the options of stand-ins, which it hands on."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, and the other program's help."""
        from bench.standin.arguments import help_text  # noqa: PLC0415 - only help pays for it

        super().format_epilog(ctx, formatter)
        formatter.write("\nStand-in servers (--backend canned, sim or minilm) take these options instead:\n\n")
        formatter.write(help_text())
