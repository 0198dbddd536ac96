"""`--cold-dir` and its options: a folder of this machine, or a prefix on an object store; and those of sources."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from commands.options.paths import expanded_path
from engine.objects.url import ColdUrl, SourceUrl, scheme_of


def cold_callback(value: str) -> str:
    """For typer: a path as `expanded_path` has it, a URL as it stands."""
    return value if scheme_of(value) is not None else str(expanded_path("--cold-dir", Path(value)))


def cold_place(
    cold_dir: str, endpoint: str | None, region: str | None, options: list[str] | None, source: str | None = None
) -> Path | ColdUrl:
    """Where shards go, as the four options say it.

    Args:
        source: `--source`; when it is a URL, the options may be about its store alone.

    Raises:
        ConfigError: a URL that cannot be one of a store; see `StoreUrl`.
        typer.BadParameter: an option that is not of the form KEY=VALUE, or one that only a store has.
    """
    if scheme_of(cold_dir) is None:
        given = {"--cold-endpoint": endpoint, "--cold-region": region, "--cold-option": options}
        # the environment speaks to every command, also to those of a data set whose source alone is on a store
        needless = [name for name, value in given.items() if value and _variable(name) not in os.environ]
        if needless and (source is None or scheme_of(source) is None):
            raise typer.BadParameter(
                f"{needless[0]} is of a URL as --cold-dir or --source, and that is the folder {cold_dir}"
            )
        return Path(cold_dir)
    return ColdUrl(url=cold_dir, endpoint=endpoint, region=region, options=_pairs(options))


def _variable(option: str) -> str:
    return "ENGINE_" + option.removeprefix("--").upper().replace("-", "_")


def source_store(
    source: str | None,
    endpoint: str | None,
    region: str | None,
    options: list[str] | None,
    cold_dir: str | None = None,
) -> SourceUrl | None:
    """How the store of a URL as `--source` is spoken to; None when it is no URL.

    The options speak of both stores. When cold is on a store of another vendor they are about that one alone, and the
    environment says the rest.

    Raises:
        ConfigError: a URL that cannot be one of a store; see `StoreUrl`.
        typer.BadParameter: an option that is not of the form KEY=VALUE.
    """
    scheme = None if source is None else scheme_of(source)
    if source is None or scheme is None:
        return None
    from readers.files.place import Place  # noqa: PLC0415 - only files need it

    root = Place.of(source).root
    assert isinstance(root, SourceUrl)  # it has a scheme
    if cold_dir is not None and scheme_of(cold_dir) not in (None, scheme):
        return root
    return SourceUrl(url=root.url, endpoint=endpoint, region=region, options=_pairs(options))


def _pairs(options: list[str] | None) -> tuple[tuple[str, str], ...]:
    pairs = []
    for option in options or ():
        name, equals, value = option.partition("=")
        if not equals:
            raise typer.BadParameter(f"--cold-option is {option!r}; expected KEY=VALUE")
        pairs.append((name.strip(), value))
    return tuple(pairs)
