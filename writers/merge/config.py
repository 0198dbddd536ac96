"""What a merge is told, and what it tells."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine import __version__
from engine.errors import ConfigError
from engine.ledger.runfolder import RunFolders
from engine.objects.url import ColdUrl
from writers.cold.settings import READ_BUDGET_S, ColdSettings
from writers.merge.ledger import TEMPORARY

MIN_FILE_BYTES = 1 << 16
MIN_ROW_GROUP_BYTES = 1 << 16
MIN_SORT_BYTES = 1 << 20
MAX_OBJECT_BYTES = 4 << 30


def default_jobs() -> int:
    """One worker for each core this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeConfig:
    """Settings of one merge.

    Attributes:
        source: Folder of the inputs.
        target: Folder of the outputs, which also holds the merge's ledger and lock.
        run_ledger: The run's ledger, which says what is committed; None for a plain folder of foreign files.
        file_bytes: No output is planned larger than that.
        row_group_bytes: Bytes of a row group before compression.
        sort: `none` keeps the order of the inputs, `_id` sorts all outputs of a merge by id.
        on_duplicate: `error` stops, `latest` keeps the row of the latest input (by commit, or by file time and name).
        delete_sources: Remove inputs once the output that holds their rows is recorded.
        jobs: Worker processes.
        temporary: Folder for temporaries (id keys; when sorting all rows once, uncompressed), or None for one below
            the target.
        sort_bytes: Memory for vectors that each worker sorts at once.
        id_column, vector_column: Their names in foreign files, or None for the usual ones.
        version: Version of the engine, for the footers.
        cold: The store that has the inputs and gets the outputs; `source` and `target` are then folders on hot, where
            outputs lie on their way. None when these folders are where files stay.
    """

    source: Path
    target: Path
    run_ledger: Path | None = None
    file_bytes: int = 1 << 30
    row_group_bytes: int = 64 << 20
    sort: str = "none"
    on_duplicate: str = "error"
    delete_sources: bool = False
    jobs: int = 0
    temporary: Path | None = None
    sort_bytes: int = 160 << 20
    id_column: str | None = None
    vector_column: str | None = None
    version: str = __version__
    cold: ColdSettings | None = None

    def __post_init__(self) -> None:
        if not self.jobs:
            object.__setattr__(self, "jobs", default_jobs())
        _at_least("file-bytes", self.file_bytes, MIN_FILE_BYTES)
        _at_least("row-group-bytes", self.row_group_bytes, MIN_ROW_GROUP_BYTES)
        _at_least("jobs", self.jobs, 1)
        _at_least("sort-bytes", self.sort_bytes, MIN_SORT_BYTES)
        _one_of("sort", self.sort, ("none", "_id"))
        _one_of("on-duplicate", self.on_duplicate, ("error", "latest"))
        if self.cold is not None and self.file_bytes > MAX_OBJECT_BYTES:
            raise ConfigError(
                f"--file-bytes is {self.file_bytes}; with a URL as --cold-dir allowed is at most {MAX_OBJECT_BYTES}: a "
                "file is stored by one request, and stores take 5 GiB in one"
            )
        if self.source.resolve() == self.target.resolve():
            raise ConfigError(f"--source and --target are the same folder {self.source}: name another --target")

    @classmethod
    def of_collection(
        cls, hot_dir: Path, cold_dir: Path | ColdUrl, database: str, collection: str, done_field: str, **options: Any
    ) -> MergeConfig:
        """A merge of the committed shards of a data set; `options` are further attributes."""
        folders = RunFolders.of(hot_dir, cold_dir, database, collection, done_field)
        if folders.url is not None:
            if options.get("target") is not None:
                raise ConfigError(
                    "--target is a folder, and --cold-dir a URL: its outputs go there; leave --target out"
                )
            options["cold"] = ColdSettings(
                url=folders.url,
                prefix=folders.namespace,
                budget_s=READ_BUDGET_S,
                largest_bytes=2 * int(options.get("file_bytes", 1 << 30)),
            )
        if options.get("target") is None:
            options["target"] = folders.consolidated
        if options.get("temporary") is None:
            options["temporary"] = folders.hot
        return cls(source=folders.shards, run_ledger=folders.ledger, **options)

    @property
    def cold_dict(self) -> dict[str, Any] | None:
        """The store, for a job of a worker."""
        return None if self.cold is None else self.cold.as_dict()

    @property
    def temporary_folder(self) -> Path:
        """Where temporaries go: a folder of this merge's own, so that it may be emptied."""
        if self.temporary is None:
            return self.target / TEMPORARY
        own = hashlib.sha256(os.fsencode(self.target.resolve())).hexdigest()[:8]
        return self.temporary / f"engine-merge-{own}"


def _at_least(name: str, value: int, low: int) -> None:
    if value < low:
        raise ConfigError(f"--{name} is {value}; allowed is at least {low}")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"--{name} is {value!r}; allowed is {' or '.join(allowed)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What a merge did.

    Attributes:
        target: Where the outputs are.
        inputs: FileAccess merged now.
        rows: Rows in the outputs made now.
        files: Outputs made now.
        bytes: Their size.
        resumed_files: Outputs of the same plan that an earlier, broken merge had finished.
        already_merged: Inputs that earlier merges had finished with.
        duplicates_dropped: Rows left out because a later input holds their id.
        sources_removed: Inputs removed now.
        sources_kept: Inputs that could not be removed yet, because their documents are not marked or the file has
            changed, or that stand in a folder whose name holds a column of theirs; the next merge with
            `--delete-sources` tries again.
        folder_keys: Columns that only the names of folders (`key=value`) hold; the outputs do not have them.
        seconds: Wall-clock time.
    """

    target: str
    inputs: int
    rows: int
    files: int
    bytes: int
    resumed_files: int
    already_merged: int
    duplicates_dropped: int
    sources_removed: int
    sources_kept: int
    folder_keys: list[str]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        figures = asdict(self)
        figures["rows_per_second"] = round(self.rows / self.seconds, 1) if self.seconds else 0.0
        figures["bytes_per_row"] = round(self.bytes / self.rows, 1) if self.rows else 0.0
        return figures
