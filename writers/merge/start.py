"""What a merge looks at before it starts its workers; imports nothing that takes long."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from engine.errors import ConfigError
from engine.ledger.log import RunState, read_records
from writers.merge.config import MergeConfig
from writers.merge.ledger import LEDGER


def read_run_state(path: Path) -> RunState:
    """What a run's ledger says now; the run may go on writing, and a torn tail is simply not there yet.

    Raises:
        ConfigError: there is no ledger.
        DamageError: it is damaged in the middle.
    """
    if not path.exists():
        raise ConfigError(
            f"there is no ledger {path}: name the --hot-dir, --collection and --done-field of the run, "
            "or a plain folder (`engine merge --source`, `engine verify --folder`)"
        )
    state = RunState()
    for record in read_records(path)[0]:
        state.apply(record)
    if state.run is None:
        raise ConfigError(f"the ledger {path} has not begun: start `engine run` first")
    return state


def check_source(config: MergeConfig) -> None:
    """Make sure that there is something to merge from.

    A folder may be empty once it has been merged: what `--delete-sources` leaves, until new files come.

    Raises:
        ConfigError: no ledger, no folder, or one that has never held a file.
        DamageError: the ledger is damaged.
    """
    if config.run_ledger is not None:
        read_run_state(config.run_ledger)
    elif not config.source.is_dir():
        raise ConfigError(f"--source {config.source} is not a folder: name the folder of the Parquet files")
    elif not (config.target / LEDGER).exists() and not _holds_parquet(config):
        raise ConfigError(f"--source {config.source} holds no *.parquet file: name the folder of the Parquet files")


def _holds_parquet(config: MergeConfig) -> bool:
    try:
        return next(parquet_files(config.source, config.target.resolve()), None) is not None
    except OSError:
        return True  # who lists them all says what is wrong


def parquet_files(source: Path, skipped: Path) -> Iterator[tuple[bytes, int, int]]:
    """Name, size and time of last writing (ns) of each Parquet file below a folder, in any order.

    Raises:
        OSError: a folder cannot be listed.
    """
    folders = [b""]
    root = os.fsencode(source)
    top = os.stat(root)
    seen = {(top.st_dev, top.st_ino)}  # a symbolic link may lead back up
    while folders:
        below = folders.pop()
        with os.scandir(os.path.join(root, below)) as entries:
            for entry in entries:
                if entry.name[:1] in (b".", b"_"):
                    continue
                name = os.path.join(below, entry.name)
                if entry.is_dir():
                    stat = entry.stat()
                    known = (stat.st_dev, stat.st_ino) in seen
                    if not known and Path(os.fsdecode(entry.path)).resolve() != skipped:
                        seen.add((stat.st_dev, stat.st_ino))
                        folders.append(name)
                elif entry.name.endswith(b".parquet"):
                    stat = entry.stat()
                    yield name, stat.st_size, stat.st_mtime_ns
