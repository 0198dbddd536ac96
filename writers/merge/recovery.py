"""What a start finds of a merge that was broken off, and puts right before anything else."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import ConfigError, DamageError
from engine.ledger import durable
from engine.ledger.runfolder import IN_PROGRESS
from writers.merge.config import MergeConfig
from writers.merge.ledger import MergeState, PlanState
from writers.parquet.access import FileAccess
from writers.shards import schema


def recover(config: MergeConfig, state: MergeState, access: FileAccess) -> None:
    """Delete unfinished files, and final names that no record stands behind; their sources are all there.

    Raises:
        DamageError: an output's name is taken by a file that is not of this merge; it is left alone.
    """
    delete_unfinished(config.target)
    if not access.is_local:
        _delete_copies(config.target)
    plan = state.open_plan()
    if plan is None:
        delete_temporaries(config)
        return
    assert state.merge is not None  # there is a plan
    left = []
    own = re.compile(rf"part-{plan.number:04d}-(\d+)\.parquet")
    for name in access.names(config.target):
        found = own.fullmatch(name)
        if found is None or int(found[1]) in plan.merged:
            continue
        path = access.path(config.target, name)
        if not _is_ours(access, path, str(state.merge["merge"]), plan.number, int(found[1])):
            raise name_is_taken(path)
        left.append(path)
    for path in left:
        if access.is_remote(path):
            access.delete(path)
        else:
            durable.unlink(Path(path))
    if left:
        durable.fsync_folder(config.target)


def _delete_copies(target: Path) -> None:
    """Delete outputs on their way to a store: it has them, or they are written again."""
    for path in target.glob("part-*.parquet"):
        durable.unlink(path)


def name_is_taken(path: Path | str) -> DamageError:
    """The error for a foreign file under an output's name."""
    return DamageError(
        f"{path} exists already and is not in the merge's ledger: another program wrote it; move it away, "
        "then run the same command again"
    )


def _is_ours(access: FileAccess, path: str, merge_id: str, plan: int, number: int) -> bool:
    try:
        said = orjson.loads((pq.read_metadata(access.source(path)).metadata or {})[schema.KEY_MERGE])
    except (OSError, pa.ArrowException, KeyError, orjson.JSONDecodeError):
        return False
    return bool((said["merge"], said["plan"], said["output"]) == (merge_id, plan, number))


def delete_unfinished(target: Path) -> None:
    """Delete files that have no final name."""
    for pattern in (f"*{IN_PROGRESS}", ".merge-*.tmp"):
        for path in target.glob(pattern):
            durable.unlink(path)


def delete_temporaries(config: MergeConfig) -> None:
    """Delete keys and sorted runs; no plan needs them any more."""
    folder = config.temporary_folder
    for below in (folder / "runs", folder / "scan"):
        if below.is_dir():
            for path in below.iterdir():
                path.unlink()
            below.rmdir()
    with contextlib.suppress(OSError):  # it was never there
        folder.rmdir()


def refuse_other_settings(config: MergeConfig, plan: PlanState) -> None:
    """An open plan is finished as it was begun.

    Raises:
        ConfigError: the command asks for something else.
    """
    record = plan.record
    asked = {"sort": config.sort, "on_duplicate": config.on_duplicate, "source": str(config.source.resolve())}
    other = [f"--{name.replace('_', '-')} was {record[name]}" for name in asked if asked[name] != record[name]]
    if other:
        raise ConfigError(
            f"an unfinished merge into {config.target} was begun with other settings ({', '.join(other)}): "
            "run it to its end with these first"
        )
