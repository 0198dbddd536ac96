"""`merge`: from any number of shards to few files, proved equal, resumable at any moment (docs/protocols/merge.md).

    lock -> recover -> plan (scan, refuse, group; PLAN) -> a worker per output: write, check, fsync
    -> link to the final name -> fsync the folder -> MERGED (the commit point) -> remove the sources, if asked
    -> REMOVED -> DONE

The coordinator alone names files and writes the ledger; workers make files that have no final name. A run may go on
meanwhile: its ledger is read without a lock, and what it commits later is merged by the next merge.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from engine.errors import SinkError
from engine.ledger import durable, preflight
from engine.ledger.runfolder import RunLock
from writers.merge.config import MergeConfig, MergeReport
from writers.merge.ledger import LOCK
from writers.merge.start import check_source
from writers.workers.pool import Pool
from writers.workers.tracker import OnProgress, Tracker

ROLE = "merge"
WORKER_ROLE = "merge-worker"
_TASKS = ("writers.merge.planning.plan", "writers.merge.outputs.group")


def merge(config: MergeConfig, on_progress: OnProgress | None = None) -> MergeReport:
    """Merge what is not merged yet; calling it again continues, or picks up what is new.

    Args:
        config: What to merge, and how.
        on_progress: Told a few times a second where it stands.

    Raises:
        ConfigError, FingerprintMismatch: wrong settings, or inputs that do not fit together (exit 2).
        DamageError: an input is damaged, missing, or holds an id twice (exit 4).
        SinkError: an output device is full or failing (exit 5).
        LockHeld: another merge works on the same target (exit 11).
    """
    started = time.monotonic()
    check_source(config)  # a mistyped name must not leave an empty folder behind
    try:
        durable.make_folder(config.target)
        lock = RunLock(config.target / LOCK)
    except OSError as error:
        raise _refused(config.target, error) from error
    try:
        preflight.check_final_names(config.target, "merge")
        config = _with_store_tried(config)
        durable.arm(ROLE)
        with Pool(WORKER_ROLE, config.jobs, (lock.fd,), _TASKS) as pool:
            # Imported while the workers, which have just been started, import the same.
            from writers.merge.run import Merge  # noqa: PLC0415

            return Merge(config, pool, Tracker(on_progress), started).run()
    except OSError as error:
        raise _refused(config.target, error) from error
    finally:
        lock.release()


def _with_store_tried(config: MergeConfig) -> MergeConfig:
    """The settings, completed by what the preflight of the store has shown, when there is one.

    Raises:
        SinkError: the store cannot do what is needed.
    """
    if config.cold is None:
        return config
    from writers.cold.preflight import START_BUDGET_S, check_store  # noqa: PLC0415 - only a URL pays for the library

    by_e_tag = check_store(config.cold.open(), "merge", START_BUDGET_S)
    return dataclasses.replace(config, cold=dataclasses.replace(config.cold, by_e_tag=by_e_tag))


def _refused(folder: Path, error: OSError) -> SinkError:
    where = error.filename or folder
    return SinkError(
        f"cannot write {where} ({error.strerror or error}): free space, repair the device or its permissions, then run "
        "the same command again; finished files and all sources are untouched"
    )
