"""What a merge looks at before it starts its workers; imports nothing that takes long."""

from __future__ import annotations

from pathlib import Path

from engine.errors import ConfigError
from engine.ledger import RunState, read_records
from writers.merge_config import MergeConfig


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

    Raises:
        ConfigError: no ledger, or no folder.
        DamageError: the ledger is damaged.
    """
    if config.run_ledger is not None:
        read_run_state(config.run_ledger)
    elif not config.source.is_dir():
        raise ConfigError(f"--source {config.source} is not a folder: name the folder of the Parquet files")
