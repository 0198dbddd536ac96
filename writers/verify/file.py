"""One file under verification: what its bytes, its footer, its pages and its rows say.

Each level reads more: 0 the bytes (size, SHA-256), 1 the footer, 2 every page of every column against its checksum, 3
every row; level 3 reads the pages once for both. A file that fails one level is still looked at by level 2, so that the
report says where it is damaged; its rows do not count then.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import ConfigError, EngineError, SinkError
from engine.memory.channels import Message
from writers.files.hashed_file import HashedFile
from writers.parquet.access import FileAccess
from writers.parquet.inputs import BLOCK_BYTES, WHOLE_BYTES
from writers.parquet.merge_schema import Matcher, MergeSchema
from writers.parquet.opening import OUT_OF_RESOURCES, UNREADABLE, footer_of, open_parquet
from writers.parquet.rows import to_matrix, to_others
from writers.proof.digests import MASK, Matrix, RowHasher, id_keys, total
from writers.proof.id_spill import IdSpill, places
from writers.shards.schema import (
    KEY_ID_DIGEST,
    KEY_LEDGER,
    KEY_ROW_DIGEST,
    KEY_ROWS,
    KEY_SHARD,
    KEY_VERSION,
    combine_digests,
    id_digest,
)
from writers.verify.config import Findings
from writers.workers.current_file import working_on
from writers.workers.pool import Report

_REPORT_ROWS = 16384
_REPORT_FILES = 50
_SHOWN = 3
_NORM_TOLERANCE = {"float32": 1e-3, "float16": 1e-2}


class Expected(NamedTuple):
    """What a file should be.

    Attributes:
        path: Where it is.
        source: Its number among all files, for the places of its rows.
        bytes, sha256, rows, id_digest, row_digest: What a ledger says of it; -1 or empty when none does.
        ledger: The run's ledger that its footer should name, or empty.
    """

    path: str
    source: int
    bytes: int = -1
    sha256: str = ""
    rows: int = -1
    id_digest: str = ""
    row_digest: str = ""
    ledger: str = ""


def check_files(job: Message, report: Report) -> Message:
    """Task: check some files; returns findings and, for each file in order, its rows (0 for one that is not sound).

    Those that are named under `fatal` are not touched: they have ended a worker.
    """
    with Path(job["list"]).open("rb") as stream:
        stream.seek(int(job["place"][0]))
        files = [Expected(*item) for item in orjson.loads(stream.read(int(job["place"][1])))]
    level = int(job["level"])
    schema = MergeSchema.from_dict(job["schema"])
    findings = Findings()
    spill = None if job["spill"] is None else IdSpill(Path(job["spill"]), int(job["partitions"]))
    facts: dict[str, Any] = {"rows": [], "bytes": 0, "others_files": 0}
    hasher = RowHasher(schema.dim, schema.dtype.itemsize)
    files_at = FileAccess.from_dict(job["cold"])
    common = _Common(level, schema, Matcher(schema), hasher, bool(job["normed"]), job["fatal"], files_at)
    told = 0
    for item in files:
        checker = _FileChecker(item, common, findings)
        try:
            facts["rows"].append(checker.check(spill, report))
            facts["bytes"] += checker.size_bytes
            facts["others_files"] += checker.by_others
        finally:
            checker.close()
        if len(facts["rows"]) - told >= _REPORT_FILES or item is files[-1]:
            report({"files": len(facts["rows"]) - told})
            told = len(facts["rows"])
    if spill is not None:
        spill.flush()
    return {**facts, "findings": findings.as_dict()}


class _Common(NamedTuple):
    """What the checks of all files share."""

    level: int
    schema: MergeSchema
    matcher: Matcher
    hasher: RowHasher
    normed: bool
    fatal: dict[str, str]
    files: FileAccess


class _FileChecker:
    """Checks one file.

    Attributes:
        size_bytes: Its size.
        by_others: Whether another program wrote it: its pages may have no checksums.
    """

    def __init__(self, item: Expected, common: _Common, findings: Findings) -> None:
        self._item = item
        self._level, self._schema, self._matcher = common.level, common.schema, common.matcher
        self._common = common
        self._findings = findings
        self._file: HashedFile | None = None
        self._problems: dict[str, list[str]] = {}
        self.size_bytes = 0
        self.by_others = False

    def check(self, spill: IdSpill | None, report: Report) -> int:
        """Check it; returns its rows, 0 when it is not sound."""
        rows = self._check(spill, report)
        for kind, problems in self._problems.items():  # a file counts once, however many pages are damaged
            more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            self._findings.add(kind, f"{self._item.path} {'; '.join(problems[:_SHOWN])}{more}")
        return 0 if self._problems else rows

    def _check(self, spill: IdSpill | None, report: Report) -> int:
        if self._item.path in self._common.fatal:
            self._find("damaged", self._common.fatal[self._item.path])
            return 0
        working_on(self._item.path)
        try:
            self._file = self._common.files.hashed(self._item.path)
        except FileNotFoundError:
            self._find("missing", "is not there")
            return 0
        except OSError as error:
            self._find("damaged", f"cannot be opened ({error.strerror})")
            return 0
        self.size_bytes = self._file.size_bytes
        try:
            parquet = self._open() if self._level >= 1 else None
            if parquet is not None:
                self._check_footer(parquet)
            is_remote = self._common.files.is_remote(self._item.path)
            if not is_remote:
                self._check_bytes()
            rows = self._item.rows if parquet is None else int(parquet.metadata.num_rows)
            if parquet is not None and self._level >= 3 and not self._problems:
                self._check_rows(parquet, spill, report)
            else:
                if parquet is not None and self._level >= 2:
                    self._check_pages(parquet)
                report({"rows": max(0, rows)})
            if is_remote:
                self._check_bytes()  # last, for what was read by then is hashed already
            return max(0, rows)
        except UNREADABLE as error:
            if getattr(error, "errno", None) in OUT_OF_RESOURCES:
                raise SinkError(f"cannot read {self._item.path} ({error}): use fewer --jobs") from error
            self._find("damaged", f"cannot be read: {_first_line(error)}")
            return 0

    def close(self) -> None:
        """Close the file."""
        working_on("")
        if self._file is not None:
            self._file.close()

    def _find(self, kind: str, what: str) -> None:
        self._problems.setdefault(kind, []).append(what)

    def _check_bytes(self) -> None:
        """Level 0."""
        item, file = self._item, self._file
        assert file is not None  # it is open
        if item.bytes >= 0 and file.size_bytes != item.bytes:
            self._find("damaged", f"has {file.size_bytes} bytes, its ledger says {item.bytes}")
        elif item.sha256 and file.hexdigest() != item.sha256:
            self._find("damaged", "has another SHA-256 than its ledger says")

    def _open(self) -> pq.ParquetFile | None:
        try:
            if not self._common.files.is_remote(self._item.path):
                return open_parquet("it", pa.OSFile(self._item.path))
            assert self._file is not None  # it is open
            parquet = open_parquet("it", pa.PythonFile(self._file, mode="r"))
            self._file.hashing = True
            return parquet
        except ConfigError as error:
            self._find("mismatched", f"cannot be checked: {error}")
            return None
        except UNREADABLE as error:
            self._find("damaged", f"has no readable footer: {_first_line(error)}")
            return None

    def _check_footer(self, parquet: pq.ParquetFile) -> None:
        """Level 1."""
        item = self._item
        try:
            self._matcher.check(Path(item.path).name, parquet, footer_of(parquet))
        except ConfigError as error:
            self._find("mismatched", f"does not fit: {error}")
            return
        except (EngineError, *UNREADABLE) as error:
            self._find("damaged", f"has a damaged footer: {_first_line(error)}")
            return
        footer, rows = footer_of(parquet), parquet.metadata.num_rows
        self.by_others = KEY_VERSION not in footer
        said = {
            "rows": (str(rows), str(item.rows) if item.rows >= 0 else _text(footer, KEY_ROWS)),
            "name": (Path(item.path).stem, _text(footer, KEY_SHARD)),
            "id digest": (_text(footer, KEY_ID_DIGEST), item.id_digest),
            "row digest": (_text(footer, KEY_ROW_DIGEST), item.row_digest),
            "ledger": (_text(footer, KEY_LEDGER), item.ledger),
        }
        for what, (found, expected) in said.items():
            if found and expected and found != expected:
                self._find("mismatched", f"has {what} {found} where {expected} was expected")

    def _check_pages(self, parquet: pq.ParquetFile) -> None:
        """Level 2."""
        if damage := _damage(_portions(parquet, self._row_bytes())):
            self._locate(parquet, damage)

    def _locate(self, parquet: pq.ParquetFile, damage: str) -> None:
        """Say which column chunks cannot be read; when each can be alone, what was wrong with all together."""
        found = False
        for group in range(parquet.num_row_groups):
            for leaf in range(parquet.metadata.num_columns):
                path = parquet.schema.column(leaf).path
                if alone := _damage(_portions(parquet, self._row_bytes(), row_groups=[group], columns=[path])):
                    self._find("damaged", f"is damaged in row group {group}, column {path}: {alone}")
                    found = True
        if not found:
            self._find("damaged", f"cannot be decoded: {damage}")

    def _check_rows(self, parquet: pq.ParquetFile, spill: IdSpill | None, report: Report) -> None:
        """Level 3."""
        rows = _RowChecker(self._common)
        told = 0
        try:
            for others, matrix in self._batches(parquet):
                rows.take(others, matrix)
                if spill is not None:
                    spill.add(
                        id_keys(others.column(0)), places(self._item.source, rows.rows - len(matrix), len(matrix))
                    )
                if rows.rows - told >= _REPORT_ROWS:
                    report({"rows": rows.rows - told})
                    told = rows.rows
        except ConfigError as error:
            self._find("unsound", f"holds rows that cannot be: {error}")
            return
        except UNREADABLE as error:
            self._locate(parquet, _first_line(error))
            return
        report({"rows": rows.rows - told})
        for what, row in rows.unsound.items():
            self._findings.add("unsound", f"{self._item.path} row {row[0]} {what}", row[1])
        footer = footer_of(parquet)
        id_digest = self._item.id_digest or _text(footer, KEY_ID_DIGEST)
        row_digest = self._item.row_digest or _text(footer, KEY_ROW_DIGEST)
        if id_digest and id_digest != rows.id_digest:
            self._find("damaged", f"holds other ids than were written (digest {rows.id_digest}, not {id_digest})")
        if row_digest and row_digest != rows.row_digest:
            self._find("damaged", f"holds other rows than were written (digest {rows.row_digest}, not {row_digest})")

    def _batches(self, parquet: pq.ParquetFile) -> Iterator[tuple[pa.Table, Matrix]]:
        schema, name = self._schema, Path(self._item.path).name
        first_row = 0
        for batch in _portions(parquet, self._row_bytes(), whole=self.size_bytes <= WHOLE_BYTES):
            matrix = to_matrix(name, batch.column(schema.vector_source), schema, first_row)
            yield to_others(name, batch, schema), matrix
            first_row += batch.num_rows
        if first_row != parquet.metadata.num_rows:
            self._find("damaged", f"holds {first_row} rows, its footer says {parquet.metadata.num_rows}")

    def _row_bytes(self) -> int:
        return self._schema.dim * self._schema.dtype.itemsize


def _portions(
    parquet: pq.ParquetFile, row_bytes: int, *, whole: bool = False, **some: Any
) -> Iterator[pa.RecordBatch | pa.Table]:
    """The rows of a file, or of `some` row groups and columns, a few at a time; at once if `whole` and they are few."""
    if whole and parquet.metadata.num_rows * row_bytes <= WHOLE_BYTES:
        yield parquet.read(use_threads=False)  # costs half of what portions cost
        return
    yield from parquet.iter_batches(max(1, BLOCK_BYTES // row_bytes), use_threads=False, **some)


def _damage(portions: Iterator[Any]) -> str:
    """What is wrong with them, or nothing."""
    try:
        for _ in portions:
            pass
    except UNREADABLE as error:
        if getattr(error, "errno", None) in OUT_OF_RESOURCES:
            raise
        return _first_line(error)
    return ""


class _RowChecker:
    """Sums and soundness of rows.

    Attributes:
        rows: Rows taken so far.
        unsound: What is wrong with a vector -> (first row, how many).
    """

    def __init__(self, common: _Common) -> None:
        self.rows = 0
        self.unsound: dict[str, tuple[int, int]] = {}
        self._digest = 0
        self._id_digests: list[str] = []
        self._hasher = common.hasher
        self._tolerance = _NORM_TOLERANCE[common.schema.vector_type] if common.normed else None

    @property
    def id_digest(self) -> str:
        """`writers.shards.schema.id_digest` of all rows."""
        return combine_digests(self._id_digests)

    @property
    def row_digest(self) -> str:
        """Sum of `writers.proof.digests` of all rows."""
        return f"{self._digest:016x}"

    def take(self, others: pa.Table, matrix: Matrix) -> None:
        """Check some rows."""
        self._digest = (self._digest + total(self._hasher.row_hashes(others, matrix))) & MASK
        self._id_digests = [combine_digests([*self._id_digests, id_digest(others.column(0))])]
        wide = matrix.astype(np.float32, copy=False)
        squares = np.einsum("ij,ij->i", wide, wide)  # not finite when any number of the row is not
        finite = np.isfinite(squares)
        if not finite.all():
            finite = np.isfinite(wide).all(axis=1)  # a large but finite vector may overflow its square
            self._note("holds a number that is not finite", ~finite)
        self._note("is a zero vector", squares == 0)
        if self._tolerance is not None:
            off = np.abs(np.sqrt(squares, where=finite, out=np.ones_like(squares)) - 1) > self._tolerance
            self._note("does not have length 1", off & finite & (squares != 0))
        self.rows += len(matrix)

    def _note(self, what: str, wrong: Any) -> None:
        at = np.flatnonzero(wrong)
        if len(at):
            first, count = self.unsound.get(what, (self.rows + int(at[0]), 0))
            self.unsound[what] = (first, count + len(at))


def _text(footer: dict[bytes, bytes], key: bytes) -> str:
    return footer.get(key, b"").decode(errors="replace")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
