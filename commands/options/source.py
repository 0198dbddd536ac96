"""`--source`, `--name` and `--database`, `--collection`: which data set a command is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from commands.options.paths import expanded_path
from engine.errors import ConfigError
from engine.objects.url import StoreUrl, scheme_of


def named(source: str | None, name: str | None, database: str, collection: str) -> tuple[str, str]:
    """What stands for database and collection in the names of folders.

    Args:
        source: A folder, glob or URL of files, or None for MongoDB.
        name: What the data set of files is called, None for its folder's name.
    """
    from engine.config import FILES_DATABASE  # noqa: PLC0415 - help needs no configuration
    from readers.files.place import Place  # noqa: PLC0415

    if source is None and name is None:
        return database, collection
    if name is None:
        assert source is not None  # one of both is there
        name = Place.of(files_of(source)).name
    return FILES_DATABASE, name


def files_of(source: str) -> str:
    """The folder or glob, with `~` expanded, or the URL.

    Raises:
        ConfigError: no path.
    """
    if not source.strip():
        raise ConfigError("--source is empty; name a folder, a glob, a file or a URL")
    if scheme_of(source) is not None:
        return source
    return str(expanded_path("--source", Path(source)))


def source_options(
    source: str | None, name: str | None, database: str, collection: str, store: StoreUrl | None = None
) -> dict[str, Any]:
    """Those arguments of `engine.config.SourceConfig` that say what is read.

    Args:
        store: How the store of a URL is spoken to (`source_store`).

    Raises:
        ConfigError: `--name` without `--source`.
    """
    if source is None:
        if name is not None:
            raise ConfigError("--name is the name of a data set of files, but no --source is given: name the files")
        return {"database": database, "collection": collection}
    database, collection = named(source, name, database, collection)
    files = files_of(source)
    return {"files": files, "store": store, "database": database, "collection": collection, "mark": False}
