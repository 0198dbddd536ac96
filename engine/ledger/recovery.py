"""Recovery: the one path that every start takes, after a clean end, a crash, a power cut or a kill.

    epoch + 1 (fsync) -> delete unfinished files -> adopt or set aside shards the ledger does not know
    -> mark every shard that is committed but not marked -> only then may a reader start

That a reader never starts while a committed shard is unmarked is what keeps a document from being read twice (G2).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

from engine.errors import DamageError, LockHeld, MarksRefused, ProtocolError, SinkError
from engine.leases.book import LeaseBook, Orphan
from engine.leases.records import Token
from engine.ledger import durable
from engine.ledger.log import Ledger, Record, RunState, each_record
from engine.ledger.runfolder import IN_PROGRESS, RunFolders
from engine.ports import DocumentMarker, Shards
from engine.records import ShardFacts

_log = logging.getLogger("engine.recovery")
SET_ASIDE = ".set-aside"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryResult:
    """The result of a recovery: what it found and did.

    Attributes:
        epoch: The new epoch.
        deleted: Unfinished files that were deleted.
        adopted: Shards that were complete but not in the ledger.
        adopted_rows: Rows in them.
        set_aside: Files that could not be adopted; they were renamed, not deleted.
        remarked: Shards whose marks were set again.
    """

    epoch: int
    deleted: int
    adopted: int
    adopted_rows: int
    set_aside: int
    remarked: int


def commit_record(facts: ShardFacts) -> Record:
    """The COMMIT record of a shard."""
    fields = {name: getattr(facts, name) for name in facts.__slots__}
    if facts.positions is None:
        del fields["positions"]
    return {"type": "COMMIT", **fields}


class Recovery:
    """Brings folders, ledger and marks to a state from which a generation can start."""

    def __init__(
        self, folders: RunFolders, ledger: Ledger[RunState], shards: Shards, marker: DocumentMarker | None, prefix: str
    ) -> None:
        """
        Args:
            prefix: Start of the name of every file of this ledger.
            marker: None when documents are not marked (`--no-mark`).
        """
        self._folders = folders
        self._ledger = ledger
        self._shards = shards
        self._marker = marker
        self._prefix = prefix
        self._whole: list[str] = []

    def run(self) -> RecoveryResult:
        """Recover; see the module's first lines.

        Raises:
            SinkError: a folder cannot be read or written.
            EngineError: see the shards, the marker and the ledger.
        """
        try:
            return self._run()
        except OSError as error:
            where = error.filename or self._folders.shards
            raise SinkError(
                f"recovery cannot work on {where} ({error.strerror}): repair the device, "
                "then run the same command again"
            ) from error

    def _run(self) -> RecoveryResult:
        epoch = self._ledger.state.epoch + 1
        self._ledger.append({"type": "EPOCH", "epoch": epoch, "at": time.time()})
        durable.point("recovery.after_epoch")
        deleted = self._delete_unfinished()
        adopted, rows, set_aside = self._adopt_orphans()
        remarked = self._mark_unmarked()
        self._release_copies()
        found = RecoveryResult(
            epoch=epoch, deleted=deleted, adopted=adopted, adopted_rows=rows, set_aside=set_aside, remarked=remarked
        )
        if deleted or adopted or set_aside or remarked:
            _log.info(
                "recovered epoch=%d deleted=%d adopted=%d set_aside=%d remarked=%d",
                epoch,
                deleted,
                adopted,
                set_aside,
                remarked,
            )
        return found

    def _own_files(self, ending: str) -> list[str]:
        names = (path.name for path in self._folders.shards.iterdir())
        return sorted(name for name in names if name.startswith(self._prefix) and name.endswith(ending))

    def _delete_unfinished(self) -> int:
        """The lock is ours alone, so every unfinished file of this ledger is of an epoch that is over."""
        names = self._own_files(IN_PROGRESS)
        for name in names:
            durable.unlink(self._folders.shards / name)
        if names:
            durable.fsync_folder(self._folders.shards)
        return len(names)

    def _adopt_orphans(self) -> tuple[int, int, int]:
        known = self._ledger.state.commits
        adopted = rows = set_aside = 0
        elsewhere = self._shards.elsewhere(self._prefix)
        dropped = self._drop_orphans_of_nodes({*self._own_files(".parquet"), *elsewhere})
        self._whole = self._own_files(".parquet")
        for name in self._whole:
            if name.removesuffix(".parquet") in known:
                continue
            judgement = self._shards.inspect_orphan(name)
            if isinstance(judgement, str):
                self._set_aside(name, judgement)
                set_aside += 1
                continue
            durable.fsync_folder(self._folders.shards)  # its name may not have become durable before the crash
            self._shards.deposit(judgement)
            rows += self._adopt(judgement)
            adopted += 1
        for name in elsewhere:
            if name in dropped or name.removesuffix(".parquet") in known:
                continue
            judgement = self._shards.inspect_orphan(name)
            if isinstance(judgement, str):
                target = self._shards.set_aside(name)
                _log.warning("shard_set_aside file=%s reason=%r: its documents are embedded again", target, judgement)
                set_aside += 1
                continue
            rows += self._adopt(judgement)
            adopted += 1
        return adopted, rows, set_aside

    def _drop_orphans_of_nodes(self, names: set[str]) -> set[str]:
        """Remove whole shards of nodes whose documents may be, or may have been, embedded by another one since.

        Args:
            names: Of all whole shards, in the folder and elsewhere.

        Returns:
            Those that were removed.

        Raises:
            DamageError: the ledger does not know a token that it gave.
        """
        known = self._ledger.state.commits
        tokens = {
            name: token
            for name in sorted(names)
            if (token := Token.of_shard(name)) is not None and name.removesuffix(".parquet") not in known
        }
        dropped: set[str] = set()
        if not tokens:
            return dropped
        book = LeaseBook(is_marking=self._marker is not None)
        for record in each_record(self._ledger.path):
            book.apply(record)
        for name, token in tokens.items():
            judgement = book.judge_orphan(token)
            if judgement is Orphan.LEDGER_IS_OLDER:
                raise DamageError(
                    f"{name} in {self._folders.where} was written by a node that the ledger {self._ledger.path} does "
                    "not know: the ledger is older than the shard; restore its newest copy"
                )
            if judgement is Orphan.SET_ASIDE:
                _log.warning("shard_dropped file=%s: it was not committed, and its documents went to others", name)
                self._shards.remove(name)
                dropped.add(name)
        return dropped

    def _adopt(self, facts: ShardFacts) -> int:
        """Take a sound shard into the ledger; returns its rows."""
        durable.point("recovery.before_adopt")
        self._ledger.append(commit_record(facts))
        _log.info("shard_adopted shard=%s rows=%d", facts.shard, facts.rows)
        return facts.rows

    def _release_copies(self) -> None:
        """What a crash has left of copies that were kept until their documents were settled."""
        state = self._ledger.state
        settled = state.commits if self._marker is None else state.marked
        for name in self._whole:
            if name.removesuffix(".parquet") in settled:
                self._shards.release(name)

    def _set_aside(self, name: str, reason: str) -> None:
        path = self._folders.shards / name
        target = path.with_name(name + SET_ASIDE)
        _log.warning("shard_set_aside file=%s reason=%r: its documents are embedded again", target, reason)
        try:
            path.replace(target)
            durable.fsync_folder(path.parent)
        except OSError as error:
            raise SinkError(f"cannot set {path} aside ({error.strerror}): move it away") from error

    def _mark_unmarked(self) -> int:
        if self._marker is None:
            return 0
        unmarked = self._ledger.state.unmarked()
        refused = RefusedMarks()
        for commit in unmarked:
            self._shards.check_committed(commit["file"], commit["bytes"], commit["sha256"])
            with refused.gathered():
                record = mark_shard(self._shards, self._marker, commit, ours_before=True)
                self._ledger.append({**record, "epoch": self._ledger.state.epoch})
        refused.raise_all()
        return len(unmarked)


class RefusedMarks:
    """Marks that the collection refused, gathered so that one refusal keeps no other document from its mark."""

    def __init__(self) -> None:
        self._why = ""
        self._ids: list[str] = []

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Remember what is refused in here, and go on behind it."""
        try:
            yield
        except MarksRefused as error:
            self._why = self._why or error.why
            self._ids += error.ids

    def raise_all(self) -> None:
        """Raise MarksRefused for all of it, if there is any."""
        if self._ids:
            raise MarksRefused(self._why, self._ids)


def mark_shard(shards: Shards, marker: DocumentMarker, commit: Record, *, ours_before: bool) -> Record:
    """Mark exactly the documents of one committed shard, read from its file, and settle the sum (G4, G7).

    Returns:
        The MARKED record, not yet in the ledger.

    Raises:
        LockHeld: documents were marked that no attempt of ours can have marked: another run works on them.
        MarksRefused: the collection refuses some marks; all others are set.
        ProtocolError: the sum is off.
    """
    matched = already = gone = foreign = 0
    refused = RefusedMarks()
    durable.point("mark.before")
    for ids in shards.ids(commit["file"]):
        with refused.gathered():
            outcome = marker.mark(ids, ours_before=ours_before)
            durable.point("mark.mid")
            matched += outcome.matched
            already += outcome.already
            gone += outcome.gone
            foreign += outcome.foreign
    refused.raise_all()
    durable.point("mark.after")
    if foreign:
        raise LockHeld(
            f"{foreign} documents of shard {commit['shard']} were marked by somebody else while they were being "
            "embedded: another run works on the same collection; stop one of them"
        )
    if matched + already + gone != commit["rows"]:
        raise ProtocolError(
            f"shard {commit['shard']}: {matched} marked + {already} already + {gone} gone is not {commit['rows']} rows"
        )
    return {"type": "MARKED", "shard": commit["shard"], "matched": matched, "already": already, "gone": gone}
