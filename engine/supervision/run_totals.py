"""The totals of a run over all its generations: published while it goes on, in the ledger and a summary at its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError, Exit, ProtocolError
from engine.gpus.driver import driver_is_here
from engine.ledger import durable
from engine.ledger.log import Ledger, RunState
from engine.ledger.quarantine import Quarantine
from engine.ledger.runfolder import RunFolders
from engine.memory.channels import Message
from engine.supervision.generation import Stages, StageT
from engine.supervision.lifecycle import Lifecycle
from engine.supervision.run_plan import RunPlan
from engine.telemetry.reporting import Observer, Reporter, StageFigures
from engine.telemetry.summary import own_cpu_s, summary
from engine.telemetry.tally import ROLE_GROUPS, Tally

if TYPE_CHECKING:
    from engine.gpus.watch import GpuWatch

_log = logging.getLogger("engine.supervisor")


class RunTotals:
    """The totals of a run over all its generations, and where they are told.

    Attributes:
        tally: The counts; whoever commits, marks or recovers adds to them.
        last_error: What went wrong last, None while nothing has.
        bottleneck: What set the pace of the generation that was over last, in words.
        nodes: What each node of a cluster came to so far; None without nodes.
    """

    def __init__(
        self,
        plan: RunPlan,
        folders: RunFolders,
        ledger: Ledger[RunState],
        quarantine: Quarantine,
        observers: list[Observer],
    ) -> None:
        self._plan = plan
        self._reserve = folders.reserve
        self._ledger = ledger
        self._quarantine = quarantine
        self._gpus = _watch_gpus() if driver_is_here() else None
        self._reporter = Reporter(folders.status, observers, self._gpus)
        self.bottleneck = "nothing to judge by: no generation ran"
        self.tally = Tally(resumed=ledger.state.rows - ledger.state.gone)
        self.last_error: str | None = None
        self.nodes: Callable[[], list[dict[str, Any]]] | None = None
        self._unmarked_rows = 0

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return self._reporter.clock.seconds

    def add_generation(self, generation: Stages[StageT], *, committed_rows: int, crashed: bool, stopped: bool) -> None:
        """Add what a generation has told, now that it is over; its children still live.

        Args:
            committed_rows, crashed, stopped: See `Tally.add_generation`.
        """
        figures = generation.figures()
        self.tally.add_generation(
            figures.reader,
            list(figures.clients.values()),
            committed_rows=committed_rows,
            crashed=crashed,
            stopped=stopped,
        )
        self.bottleneck = self._reporter.bottleneck(figures)

    def add_cpu(self, generation: Stages[StageT]) -> None:
        """Add the processor time of a generation whose children have ended."""
        for group in ROLE_GROUPS:
            self.tally.cpu_s[group] += generation.cpu_s(group)

    def note(self, event: str, **facts: Any) -> None:
        """Tell those who keep a journal of the run of an event."""
        self._reporter.note(event, **facts)

    def take(self, event: str, message: Message) -> None:
        """Take what a child has told that is of interest beyond its own counts."""
        if message.get("last_error"):
            self.last_error = message["last_error"]
        if event in ("server_out", "server_back"):
            self.note(event, **message)

    def failed(self, event: str, why: str) -> None:
        """Note that a generation is over before its time: a restart, or a refusal of what it had not committed."""
        self.last_error = why
        self.note(event, reason=why)

    def publish_when_due(
        self, generation: Stages[StageT], lifecycle: Lifecycle, *, committed_rows: int, unmarked_rows: int = 0
    ) -> None:
        """Publish the figures of this moment, about once a second.

        Args:
            committed_rows: Rows that this generation has committed.
            unmarked_rows: Of these, rows that wait for their marks.
        """
        if self._reporter.due():
            self._unmarked_rows = unmarked_rows
            self._publish(generation, lifecycle, committed_before=self.tally.committed_rows - committed_rows)

    def close(self, code: Exit, lifecycle: Lifecycle) -> None:
        """Record the end in the ledger and publish it; no generation lives any more."""
        self._record_stop(code)
        if self._gpus is not None:
            self._gpus.stop()
        self._publish(None, lifecycle, committed_before=self.tally.committed_rows, code=code)

    def _record_stop(self, code: Exit) -> None:
        """Append the STOP record; on a full device the reserve makes room for it."""
        record = {"type": "STOP", "exit": int(code), "at": time.time(), "rows": self._ledger.state.rows}
        try:
            self._quarantine.sync()
            self._ledger.append(record)
        except (EngineError, OSError):
            self._reserve.unlink(missing_ok=True)
            try:
                self._ledger.append(record)
            except EngineError as error:
                _log.error("stop_not_recorded error=%s", error)

    def _publish(
        self,
        generation: Stages[StageT] | None,
        lifecycle: Lifecycle,
        *,
        committed_before: int,
        code: Exit | None = None,
    ) -> None:
        state = self._ledger.state
        facts: dict[str, Any] = {
            "run": self._plan.name,
            "collection": self._plan.collection,
            "phase": lifecycle.phase.value,
            "pass": lifecycle.pass_number,
            "epoch": state.epoch,
            "generation": self.tally.generations,
            "resumed": self.tally.resumed,
            "committed": state.rows,
            "marked_shards": len(state.marked),
            "shards": len(state.commits),
            "quarantined": self._quarantine.count,
            "restarts": self.tally.restarts,
            "refusals": self.tally.refusals,
            "marked_rows": self.tally.marked_rows,
            "unmarked_rows": self._unmarked_rows,
            "mark_s": round(self.tally.marking.seconds, 4),
            "fsyncs": durable.fsyncs.count,
            "fsync_s": round(durable.fsyncs.seconds, 4),
            "cpu_s": round(own_cpu_s(), 4),
            "totals": self._totals_of_this_run(),
            "quarantine": dict(self._quarantine.reasons),
            "last_error": self.last_error,
            "exit": None if code is None else int(code),
        }
        if self.nodes is not None:
            facts["nodes"] = self.nodes()
        stages = StageFigures() if generation is None else generation.figures()
        self._reporter.publish(stages, facts, committed_before=committed_before)

    def _totals_of_this_run(self) -> dict[str, Any]:
        tally = self.tally
        return {
            "committed_rows": tally.committed_rows,
            "gone": tally.gone,
            "truncated": tally.truncated,
            "shards": tally.shards,
            "bytes": tally.bytes,
            "quarantined": dict(self._quarantine.added),
        }

    def check_sum(self) -> None:
        """Refuse an end at which a document is unaccounted for (G7).

        Raises:
            ProtocolError: read is not embedded + quarantined + gone.
        """
        if not self.tally.sum_agrees():
            raise ProtocolError(
                f"the sum does not agree: read {self.tally.read}, embedded {self.tally.embedded}, quarantined "
                f"{self.tally.quarantined}, gone {self.tally.gone}; run `engine verify --level 4`"
            )

    def summary(self, code: Exit) -> dict[str, Any]:
        """The summary, as `engine run --json` prints it; at any moment what was committed by then counts."""
        return summary(
            self.tally,
            self._reporter.clock,
            run=self._plan.name,
            collection=self._plan.collection,
            bottleneck=self._bottleneck_with_gpus(),
            exit_code=code,
            gpus=[gpu.as_dict() for gpu in self._gpus.totals()] if self._gpus is not None else [],
            nodes=None if self.nodes is None else self.nodes(),
        )

    def _bottleneck_with_gpus(self) -> str:
        """The bottleneck in words, and what the servers' GPUs say about it."""
        verdict = self._gpus.verdict() if self._gpus is not None and self.tally.embedded else ""
        return f"{self.bottleneck}; {verdict}" if verdict else self.bottleneck


def _watch_gpus() -> GpuWatch:
    from engine.gpus.watch import GpuWatch  # noqa: PLC0415 - only a machine with GPUs pays for it

    return GpuWatch()
