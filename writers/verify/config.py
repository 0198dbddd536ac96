"""What a verification is told, what it needs from others, and what it tells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engine.errors import ConfigError, Exit
from engine.ledger.runfolder import RunFolders
from engine.objects.url import ColdUrl
from engine.ports import IdList
from writers.cold.settings import READ_BUDGET_S, ColdSettings
from writers.merge.config import default_jobs
from writers.merge.ledger import LEDGER

MAX_LEVEL = 5
EXAMPLES = 10

KINDS = {
    "missing": "a file that a ledger names is not there",
    "extra": "a file lies among the data that no ledger names",
    "damaged": "a file is not what was written, or cannot be read",
    "mismatched": "a file's footer says something else than the ledger, or than the first file",
    "unsound": "rows without an id, or with a vector that is null, zero, not finite or not normed",
    "duplicate": "rows with an id that another row has too",
    "unmarked": "rows whose document is there and is not marked",
    "marked_without_row": "marked documents without a row",
    "drifted": "sampled rows whose document, embedded again, gives another vector",
}
"""Every kind of difference, and what it means; each counts what its sentence counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyConfig:
    """Settings of one verification.

    Attributes:
        level: 0 size and SHA-256 against the ledger, 1 footers, 2 page checksums, 3 rows, 4 against MongoDB, 5 a sample
            embedded again; each level includes those below.
        shards, run_ledger: Folder of the shards and the run's ledger, or None.
        run_lock: The run's lock, to see whether a run is going on, or None.
        consolidated: Folder with a merge's ledger, or None.
        merged_into: Folder of a merge that may have removed shards, checked or not; None when there is none.
        cold: The store that has the files which these folders would have, or None.
        folder: A plain folder of any Parquet files, instead of all these.
        jobs: Worker processes.
        temporary: Folder for temporaries (id keys, 24 bytes a row), or None for one in the system's.
        sample_rows, min_cosine, seed: For level 5.
        id_column, vector_column: Their names in foreign files, or None for the usual ones.
    """

    level: int = 3
    shards: Path | None = None
    run_ledger: Path | None = None
    run_lock: Path | None = None
    consolidated: Path | None = None
    merged_into: Path | None = None
    cold: ColdSettings | None = None
    folder: Path | None = None
    jobs: int = 0
    temporary: Path | None = None
    sample_rows: int = 256
    min_cosine: float = 0.999
    seed: int = 0
    id_column: str | None = None
    vector_column: str | None = None

    def __post_init__(self) -> None:
        if not self.jobs:
            object.__setattr__(self, "jobs", default_jobs())
        if not 0 <= self.level <= MAX_LEVEL:
            raise ConfigError(f"--level is {self.level}; allowed is 0 to {MAX_LEVEL}")
        if self.jobs < 1:
            raise ConfigError(f"--jobs is {self.jobs}; allowed is at least 1")
        if self.sample_rows < 1:
            raise ConfigError(f"--sample-rows is {self.sample_rows}; allowed is at least 1")
        if not -1.0 <= self.min_cosine <= 1.0:
            raise ConfigError(f"--min-cosine is {self.min_cosine:g}; allowed is -1 to 1")
        if self.folder is None and self.shards is None and self.consolidated is None:
            raise ConfigError("nothing to verify is named: name a collection or a folder")
        if self.folder is not None and not self.folder.is_dir():
            raise ConfigError(f"{self.folder} is not a folder: name the folder of the Parquet files")
        if self.run_ledger is None and self.level >= 4:
            raise ConfigError(f"--level {self.level} compares with MongoDB and needs a collection, not a folder")

    @classmethod
    def of_collection(
        cls,
        hot_dir: Path,
        cold_dir: Path | ColdUrl,
        database: str,
        collection: str,
        done_field: str,
        *,
        scope: str = "all",
        target: Path | None = None,
        **options: Any,
    ) -> VerifyConfig:
        """A verification of a data set: its `shards`, what was `consolidated` (into `target`), or `all` of it."""
        if scope not in ("all", "shards", "consolidated"):
            raise ConfigError(f"--scope is {scope!r}; allowed is all or shards or consolidated")
        folders = RunFolders.of(hot_dir, cold_dir, database, collection, done_field)
        if folders.url is not None and target is not None:
            raise ConfigError(
                "--target is a folder, and --cold-dir a URL: merged files are there too; leave --target out"
            )
        if options.get("level", 3) >= 4 and scope != "all":
            raise ConfigError("--level 4 and 5 look at the whole data set: leave --scope out")
        if options.get("temporary") is None:
            options["temporary"] = folders.hot
        consolidated = target or folders.consolidated
        return cls(
            shards=folders.shards if scope in ("all", "shards") else None,
            run_ledger=folders.ledger,
            run_lock=folders.lock,
            consolidated=consolidated if scope in ("all", "consolidated") else None,
            merged_into=consolidated,
            cold=cold_of(folders),
            **options,
        )

    @classmethod
    def of_folder(cls, folder: Path, **options: Any) -> VerifyConfig:
        """A verification of a folder: with its merge's ledger when it has one, else of its files alone."""
        if (folder / LEDGER).exists():
            return cls(consolidated=folder, **options)
        return cls(folder=folder, **options)


def cold_of(folders: RunFolders) -> ColdSettings | None:
    """The store of a data set, to read from; None when its cold is a folder."""
    if folders.url is None:
        return None
    return ColdSettings(url=folders.url, prefix=folders.namespace, budget_s=READ_BUDGET_S)


class Documents(Protocol):
    """The source, as levels 4 and 5 need it; ids are as the id column holds them (`engine.ports.IdList`).

    Attributes:
        has_marks: Whether its documents bear marks; of files it is the ledger that says which rows are done.
    """

    @property
    def has_marks(self) -> bool:
        """See above."""

    def marked_ids(self) -> Iterator[IdList]:
        """Ids of all marked documents, in portions, in any order; called again for examples."""

    def states(self, ids: IdList) -> list[str]:
        """For each id `marked`, `unmarked`, or `gone` when there is no such document."""

    def texts(self, ids: IdList) -> list[str | None]:
        """For each id the text that is embedded, or None when the document or its text is gone."""


class Embedder(Protocol):
    """Turns texts into vectors the way the run did."""

    def __call__(self, texts: list[str], /) -> npt.NDArray[np.float32]:
        """float32 (n_texts, dim)."""


@dataclass(slots=True)
class Findings:
    """Differences of every kind: how many, and the first examples."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, example: str, count: int = 1) -> None:
        """Count a difference."""
        self.counts[kind] = self.counts.get(kind, 0) + count
        shown = self.examples.setdefault(kind, [])
        if len(shown) < EXAMPLES:
            shown.append(example)

    def merge(self, other: dict[str, Any]) -> None:
        """Add what a worker found (`as_dict`)."""
        for kind, found in other.items():
            self.counts[kind] = self.counts.get(kind, 0) + int(found["count"])
            shown = self.examples.setdefault(kind, [])
            shown += found["examples"][: EXAMPLES - len(shown)]

    def as_dict(self) -> dict[str, Any]:
        """As it travels and as `--json` shows it."""
        return {kind: {"count": self.counts[kind], "examples": self.examples[kind]} for kind in self.counts}


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a verification found.

    Attributes:
        level: How far it went.
        files, rows, bytes: What was looked at.
        removed_shards: Shards that a merge removed after it had recorded its output; they are not missing.
        gone: Rows without a mark whose document has been deleted (level 4; no difference).
        cosine: Lowest and mean cosine of the sample (level 5), or None.
        findings: Differences by kind (`KINDS`): count and first examples.
        not_checked: What it did not look at, and why, a sentence each.
        seconds: Wall-clock time.
    """

    level: int
    files: int
    rows: int
    bytes: int
    removed_shards: int
    gone: int
    cosine: dict[str, float] | None
    findings: dict[str, Any]
    not_checked: list[str]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether there is no difference at all."""
        return not self.findings

    @property
    def exit_code(self) -> Exit:
        """0, or 4 on any difference."""
        return Exit.DONE if self.ok else Exit.VERIFICATION

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {"ok": self.ok, **asdict(self), "exit": int(self.exit_code)}
