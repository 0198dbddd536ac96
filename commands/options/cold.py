"""`--cold-dir` and what belongs to it: a folder of this machine, or a prefix on an object store."""

from __future__ import annotations

from pathlib import Path

import typer

from commands.options.paths import expanded_path
from engine.cold_url import ColdUrl, scheme_of


def cold_callback(value: str) -> str:
    """For typer: a path as `expanded_path` has it, a URL as it stands."""
    return value if scheme_of(value) is not None else str(expanded_path("--cold-dir", Path(value)))


def cold_place(cold_dir: str, endpoint: str | None, region: str | None, options: list[str] | None) -> Path | ColdUrl:
    """Where shards go, as the four options say it.

    Raises:
        ConfigError: a URL that cannot be one of a store; see `ColdUrl`.
        typer.BadParameter: an option that is not of the form KEY=VALUE, or one that only a store has.
    """
    if scheme_of(cold_dir) is None:
        given = {"--cold-endpoint": endpoint, "--cold-region": region, "--cold-option": options}
        if needless := [name for name, value in given.items() if value]:
            raise typer.BadParameter(f"{needless[0]} is of a URL as --cold-dir, and that is the folder {cold_dir}")
        return Path(cold_dir)
    pairs = []
    for option in options or ():
        name, equals, value = option.partition("=")
        if not equals:
            raise typer.BadParameter(f"--cold-option is {option!r}; expected KEY=VALUE")
        pairs.append((name.strip(), value))
    return ColdUrl(url=cold_dir, endpoint=endpoint, region=region, options=tuple(pairs))
