"""Kills or fails a merge at its N-th durable call, for every N; tells what was left and what a second start makes.

A process of its own that never starts a thread, so that it can fork a child for each attempt: a fork takes a few
milliseconds where an interpreter takes half a second. Usage: `TEMPLATE WORK ACTION SORT DELETE`; prints one JSON
object for each N, and ends after the first N that the merge never came to.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import writers.merge.merge
import writers.merge.outputs.group
import writers.merge.planning.plan
import writers.merge.run
import writers.merge.sorting.sort
from engine.errors import EngineError
from engine.ledger import durable
from tests.writers.dataset import COLLECTION, DATABASE, DONE_FIELD
from tests.writers.inline_pool import InlinePool
from writers.merge.config import MergeConfig
from writers.merge.ledger import read_merge_state


def config(root: Path, sort: str, delete: bool) -> MergeConfig:
    """Small files, so that there are several."""
    return MergeConfig.of_collection(
        root / "hot",
        root / "cold",
        DATABASE,
        COLLECTION,
        DONE_FIELD,
        jobs=1,
        file_bytes=1 << 16,
        row_group_bytes=1 << 16,
        sort=sort,
        delete_sources=delete,
    )


def attempt(settings: MergeConfig, failpoints: str) -> int:
    """Merge in a child; its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        os.environ[durable.FAILPOINTS_ENV] = failpoints
        setattr(writers.merge.merge, "Pool", InlinePool)  # noqa: B010 - a plain assignment is no business of mypy's
        try:
            writers.merge.merge.merge(settings)
        except EngineError as error:
            os._exit(error.exit_code)
        except BaseException as error:  # noqa: BLE001 - the last line of the child
            print(repr(error), file=sys.stderr)
            os._exit(99)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    return os.waitstatus_to_exitcode(status)


def ids_in(files: list[Path]) -> list[int]:
    """All ids of some files."""
    return [value for path in files for value in pq.read_table(path, columns=["_id"], use_threads=False)[0].to_pylist()]


def look(settings: MergeConfig) -> dict[str, Any]:
    """What is there: ids in recorded outputs and in sources, files."""
    state = read_merge_state(settings.target)
    recorded = [settings.target / record["file"] for record in state.outputs()] if state else []
    sources = sorted(settings.source.glob("*.parquet"))
    hot = settings.temporary
    assert hot is not None
    return {
        "recorded_ids": ids_in(recorded),
        "source_ids": ids_in(sources),
        "target": sorted(path.name for path in settings.target.iterdir()) if settings.target.exists() else [],
        "temporary": sorted(path.name for path in hot.iterdir() if path.name not in ("ledger", "lock")),
    }


def main() -> None:
    """See the module's first lines."""
    template, work, action, sort, delete = sys.argv[1:6]
    number = 0
    while True:
        number += 1
        root = Path(work) / "case"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(template, root)
        settings = config(root, sort, delete == "delete")
        code = attempt(settings, f"durable#{number}={action}")
        after_fault = look(settings)
        again = attempt(settings, "") if code else 0
        end = look(settings)
        ids, digest = rows_in(settings.target)
        facts = {"n": number, "code": code, "fault": after_fault, "again": again, "end": end}
        print(json.dumps({**facts, "ids": ids, "vectors": digest}))
        sys.stdout.flush()
        if code == 0:
            return


def rows_in(folder: Path) -> tuple[list[int], str]:
    """Ids of all outputs in order, and the SHA-256 of their vectors in the same order."""
    ids: list[int] = []
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path, use_threads=False)
        ids += table["_id"].to_pylist()
        digest.update(table["embedding"].combine_chunks().flatten().to_numpy().tobytes())
    return ids, digest.hexdigest()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main()
