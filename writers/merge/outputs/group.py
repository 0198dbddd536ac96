"""One output of a merge: from its inputs to a complete, checked, fsynced file that has no final name yet.

    open NAME.inprogress -> rows of every input, hashed as they are decoded; each input's SHA-256 against the ledger
    -> close, re-open, compare, fsync (writers/merge/outputs/output.py)

Naming it and recording it is the coordinator's business (writers/merge/merge.py); a worker can be killed at any moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from engine.errors import DamageError, EngineError
from engine.memory.channels import Message
from writers.merge.ledger import PlannedInput, read_group
from writers.merge.outputs.output import Output, Sums
from writers.merge.planning.drops import dropped_rows
from writers.parquet.access import FileAccess
from writers.parquet.inputs import WHOLE_BYTES, Block, Input
from writers.parquet.merge_schema import Matcher, MergeSchema
from writers.parquet.opening import check_committed
from writers.proof.digests import MASK
from writers.shards.schema import (
    KEY_CANARY,
    KEY_EPOCH,
    KEY_FINGERPRINT,
    KEY_ID_TYPE,
    KEY_LINEAGE,
    KEY_MERGE,
    KEY_SHARD,
    KEY_VERSION,
    combine_digests,
)
from writers.workers.pool import Report

_REPORT_ROWS = 8192


def merge_group(job: Message, report: Report) -> Message:
    """Task: write one output from the inputs of one group, in their order."""
    schema = MergeSchema.from_dict(job["schema"])
    inputs = read_group(Path(job["plan"]), *job["place"])
    reader = GroupReader(job, inputs, schema)

    def seal(output: Output) -> Message:
        facts = output.seal(merge_footer(job["footer"], schema, lineage(reader.sha256s, inputs)), reader.row_digest)
        reader.check_sums(output.sums)
        return facts

    return write_output(job, schema, reader.blocks(), seal, report, sorted_by_id=False)


def write_output(
    job: Message,
    schema: MergeSchema,
    blocks: Iterator[Block],
    seal: Callable[[Output], Message],
    report: Report,
    *,
    sorted_by_id: bool,
) -> Message:
    """Write rows to the output that a job names; whatever goes wrong, nothing is left of it.

    Args:
        job: Of a worker.
        schema: Of the rows.
        blocks: All rows, in order.
        seal: Closes and proves the output; returns the facts for the MERGED record.
        report: Gets the rows as they are written.
        sorted_by_id: Whether the rows come sorted.
    """
    row_group_bytes = int(job["row_group_bytes"])
    output = Output(Path(job["output"]), schema, row_group_bytes=row_group_bytes, sorted_by_id=sorted_by_id)
    try:
        told = 0
        for block in blocks:
            output.append(block)
            if output.rows - told >= _REPORT_ROWS:
                report({"rows": output.rows - told})
                told = output.rows
        facts = seal(output)
        report({"rows": output.rows - told})
        return facts
    except BaseException:
        output.abort()
        raise


class GroupReader:
    """The rows of a group's inputs, without those that are left out, and the proof that the inputs are the right ones.

    Attributes:
        sha256s: SHA-256 of each input that has been read whole.
        row_digest: Sum of the digests in the inputs' footers; empty unless all have one and no row was left out.
    """

    def __init__(self, job: Message, inputs: list[PlannedInput], schema: MergeSchema) -> None:
        self._folder, self._access = Path(job["source"]), FileAccess.from_dict(job["cold"])
        self._inputs = inputs
        self._first = int(job["first"])
        self._drops = None if job["drops"] is None else Path(job["drops"])
        self._matcher = Matcher(schema)
        self._small = memoryview(bytearray(WHOLE_BYTES))  # for one file after the other
        self._dropped = 0
        self._digests: list[str] = []
        self._id_digests: list[str] = []
        self.sha256s: list[str] = []

    @property
    def row_digest(self) -> str:
        """See above."""
        if self._dropped or not all(self._digests):
            return ""
        return f"{sum(int(digest, 16) for digest in self._digests) & MASK:016x}"

    def blocks(self) -> Iterator[Block]:
        """All rows that stay, input after input.

        Raises:
            DamageError: an input is missing, damaged, or not what the ledger says.
            ConfigError: an input that does not fit.
        """
        for number, item in enumerate(self._inputs, self._first):
            try:
                yield from self._of_input(number, item)
            except EngineError as error:
                path = self._access.path(self._folder, item.name)
                check_committed(self._access, path, item.name, item.sha256, error)

    def _of_input(self, number: int, item: PlannedInput) -> Iterator[Block]:
        drops = None if self._drops is None else dropped_rows(self._drops, number)
        path = self._access.path(self._folder, item.name)
        with Input(path, item.name, self._matcher, self._small, self._access, checksums=not item.sha256) as opened:
            if (opened.rows, opened.size_bytes) != (item.rows, item.bytes):
                raise DamageError(
                    f"{item.name} has {opened.rows} rows in {opened.size_bytes} bytes, but had {item.rows} in "
                    f"{item.bytes} when the merge was planned: restore it"
                )
            if item.mtime_ns not in (0, opened.mtime_ns):
                raise DamageError(
                    f"{item.name} was written again after the merge was planned: give new content a new name, "
                    "restore this file with its time of modification, or merge into an empty --target"
                )
            if drops is None or not len(drops):
                yield from opened.blocks()
            else:
                self._dropped += len(drops)
                yield from _without(opened.blocks(), drops)
            sha256 = opened.sha256()
            self._digests.append(opened.row_digest)
            self._id_digests.append(item.id_digest or opened.id_digest)
        if item.sha256 and sha256 != item.sha256:
            raise DamageError(
                f"{item.name} is not what was committed (another SHA-256): restore it from a copy; nothing was removed"
            )
        self.sha256s.append(sha256)

    def check_sums(self, sums: Sums) -> None:
        """Compare the output with what ledger or footers say of its sources, from the moment they were written.

        Raises:
            DamageError: rows or ids differ.
        """
        rows = sum(item.rows for item in self._inputs) - self._dropped
        if sums.rows != rows:
            raise DamageError(f"an output has {sums.rows} rows, its inputs have {rows}: report this")
        digests = self._id_digests
        if all(digests) and not self._dropped and combine_digests(digests) != sums.id_digest:
            raise DamageError(
                f"the files from {self._inputs[0].name} to {self._inputs[-1].name} hold other ids than the ledger or "
                "their footers say: find the damaged one with `engine verify --level 3`; nothing was removed"
            )


def _without(blocks: Iterator[Block], drops: Any) -> Iterator[Block]:
    """Leave out rows by their number in the file."""
    first_row = 0
    for block in blocks:
        n_rows = len(block.vectors)
        low, high = np.searchsorted(drops, [first_row, first_row + n_rows])
        if low == high:
            yield block
        else:
            keep = np.ones(n_rows, dtype=bool)
            keep[drops[low:high] - first_row] = False
            if keep.any():
                yield Block(block.others.filter(pa.array(keep)), block.vectors[keep])
        first_row += n_rows


def lineage(sha256s: list[str], inputs: list[PlannedInput]) -> dict[str, Any]:
    """Which files an output was made of, for its footer."""
    return {
        "inputs": len(inputs),
        "files": [[item.name, sha256] for item, sha256 in zip(inputs, sha256s, strict=True)],
    }


def merge_footer(said: dict[str, Any], schema: MergeSchema, lines: dict[str, Any]) -> dict[bytes, bytes]:
    """The footer of an output, without what depends on its rows."""
    footer = {
        KEY_VERSION: str(said["version"]).encode(),
        KEY_EPOCH: str(said["epoch"]).encode(),
        KEY_SHARD: str(said["name"]).encode(),
        KEY_ID_TYPE: schema.id_type.value.encode(),
        KEY_MERGE: orjson.dumps({name: said[name] for name in ("merge", "plan", "output", "sort")}),
        KEY_LINEAGE: orjson.dumps(lines),
    }
    if schema.fingerprint is not None:
        footer[KEY_FINGERPRINT] = orjson.dumps(schema.fingerprint)
    if schema.canaries:
        footer[KEY_CANARY] = schema.canaries[0].encode()
    return footer
