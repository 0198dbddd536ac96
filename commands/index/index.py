"""Creating, or only checking, the two indexes of the work queue on one or several collections."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from engine.config import check_done_field, check_retweeted
from engine.errors import ConfigError, Exit
from readers.mongo.connection import open_client, open_collection, ping
from readers.mongo.index import IndexReport, check_indexes, create_indexes


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """Which collections of which database, for which done field and which value of `retweeted`."""

    database: str
    collections: tuple[str, ...]
    done_field: str
    check: bool
    retweeted: str = "null"


def create_or_check(config: IndexConfig, uri: str) -> list[IndexReport]:
    """Create what is missing, or only look.

    Raises:
        EngineError: see `readers.mongo.index`.
    """
    check_done_field(config.done_field)
    check_retweeted(config.retweeted)
    if not config.collections:
        raise ConfigError("--collection is empty; name at least one collection")
    reports: list[IndexReport] = []
    with open_client(uri) as client:
        ping(client, uri)
        for name in config.collections:
            collection = open_collection(client, config.database, name)
            if config.check:
                reports += check_indexes(collection, config.done_field, retweeted=config.retweeted)
            else:
                reports += create_indexes(
                    collection,
                    config.done_field,
                    retweeted=config.retweeted,
                    on_progress=_tell(collection.full_name),
                )
    return reports


def _tell(collection: str) -> Any:
    terminal = sys.stderr.isatty()
    last = [-1]

    def progress(name: str, share: float) -> None:
        percent = int(share * 100)
        if percent == last[0] or (not terminal and percent // 10 == last[0] // 10 and percent < 100):
            return
        last[0] = percent
        end = "\r" if terminal and percent < 100 else "\n"
        print(f"{collection}: building {name} {percent:3d}%", end=end, file=sys.stderr, flush=True)

    return progress


def as_text(reports: list[IndexReport]) -> str:
    """The reports for a person."""
    width = max(len(report.name) for report in reports)
    return "\n".join(
        f"{report.collection}  {report.name:<{width}}  {report.state.value}"
        + (f": {report.detail}" if report.detail else "")
        for report in reports
    )


def exit_code(reports: list[IndexReport]) -> Exit:
    """0 when every index can be used."""
    return Exit.DONE if all(report.usable for report in reports) else Exit.USAGE
