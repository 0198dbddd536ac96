"""The supervisor: owns ledger, signals and the one recovery path; moves a run from start to its exit code.

When a child dies before its generation has finished (`engine.supervision.lifecycle`) the generation is over: every
child is killed, rings and queues go, the recovery that every start takes runs, and the next generation starts, up to a
limit of restarts an hour. The same way goes what a server gave whose vectors turned out wrong
(`engine.supervision.proof`), which is no crash and counts as none.
"""

from __future__ import annotations

import logging
import selectors
import signal
import time
from contextlib import ExitStack
from typing import Any

from engine.errors import (
    EngineError,
    Exit,
    ServersUnavailable,
    WorkerDied,
)
from engine.ledger.commits import Commits, Ranges, Settling
from engine.ledger.log import Ledger, RunState
from engine.ledger.quarantine import Quarantine
from engine.ledger.recovery import Recovery
from engine.ledger.runfolder import RunFolders
from engine.memory.channels import Message
from engine.ports import DocumentMarker, Shards
from engine.records import ShardFacts
from engine.supervision.generation import Child, Generation
from engine.supervision.lifecycle import Lifecycle, Phase, Stop, stop_by_signal
from engine.supervision.pipeline import Crashed, Pipeline
from engine.supervision.proof import HourlyCounter, Proofs, RowsRefused
from engine.supervision.run_plan import RunPlan
from engine.supervision.run_totals import RunTotals
from engine.supervision.signals import SignalInbox, Terminated
from engine.telemetry.reporting import Observer

_log = logging.getLogger("engine.supervisor")

TICK_S = 0.25
STOP_GRACE_S = 120.0
FINISH_S = 2.0


class _GivenUp(Exception):
    """The person, or the clock, does not want to wait for the open shard."""


class Supervisor:
    """The supervisor of one run, from recovery to the summary."""

    def __init__(
        self,
        *,
        plan: RunPlan,
        folders: RunFolders,
        lock_fd: int,
        ledger: Ledger[RunState],
        shards: Shards,
        marker: DocumentMarker | None,
        quarantine: Quarantine,
        observers: list[Observer],
        signals: SignalInbox,
    ) -> None:
        self._plan = plan
        self._folders = folders
        self._shards = shards
        self._marker = marker
        self._lock_fd = lock_fd
        self._ledger = ledger
        self._quarantine = quarantine
        self._signals = signals
        self._recovery = Recovery(folders, ledger, shards, marker, plan.prefix)
        self._totals = RunTotals(plan, folders, ledger, quarantine, observers)
        self._tally = self._totals.tally
        self._commits: Commits[Any] = Commits(
            ledger, shards, marker, quarantine, self._tally, self._shard_settled, self._tell_reader
        )
        self._proofs = Proofs()
        self._restarts = HourlyCounter()
        self._stop: Stop | None = None
        self._generation: Generation | None = None
        self._lifecycle = Lifecycle(is_marking=marker is not None)
        self._settling = Settling(self._tell_reader)

    # -- the run ------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Run to the end and return the summary; its `exit` is the exit code.

        Raises:
            EngineError: the run cannot go on; what was durable stays so.
        """
        with ExitStack() as stack:
            try:
                if self._recover_at_start():
                    stack.enter_context(self._signals)
                    self._run_generations()
            except EngineError as error:
                self._record_failure(error)
                self._totals.close(error.exit_code, self._lifecycle)
                raise
            return self._conclude()

    def _recover_at_start(self) -> bool:
        """Recover from whatever was before; False when a signal ended it."""
        before = self._ledger.state.rows
        is_whole = self._recover()
        self._tally.resumed += self._ledger.state.rows - before
        return is_whole

    def _recover(self) -> bool:
        """Take the one recovery path; False when a signal cut it off, which is safe at any moment.

        Marks may have to wait for MongoDB here, so a signal raises instead of waiting for a loop to look at it.
        """
        try:
            with self._signals.lifted():
                self._recovery.run()
        except KeyboardInterrupt:
            self._stop = stop_by_signal(signal.SIGINT)
        except Terminated as terminated:
            self._stop = stop_by_signal(terminated.number)
        else:
            return True
        return False

    def _run_generations(self) -> None:
        try:
            while True:
                try:
                    self._run_generation()
                    break
                except Crashed as crash:
                    if not self._after_crash(str(crash)):
                        break
                except RowsRefused as refused:
                    if not self._after_refusal(str(refused)):
                        break
                except _GivenUp as given_up:  # everything committed stays; marks are completed by the next start
                    _log.warning(
                        "giving_up reason=%r: the open shard is dropped and embedded again by the next run",
                        str(given_up),
                    )
                    break
        except EngineError as error:
            self._record_failure(error)
            raise
        finally:
            self._end_generation(kill=True)
            self._end_marking()

    def _record_failure(self, error: EngineError) -> None:
        self._totals.last_error = str(error)
        self._stop = Stop(error.exit_code, str(error))

    def _conclude(self) -> dict[str, Any]:
        code = self._exit_code()
        result = self.summary(code)
        if self._stop is not None:
            self._totals.last_error = self._stop.sentence
        self._totals.close(code, self._lifecycle)
        if self._stop is None:
            self._totals.check_sum()
        return result

    def summary(self, code: Exit) -> dict[str, Any]:
        """What the run has done, also after `run` has raised: what was committed by then counts."""
        return self._totals.summary(code)

    def _exit_code(self) -> Exit:
        if self._stop is not None:
            return self._stop.code
        if self._lifecycle.work_left:
            return Exit.LIMIT
        if self._tally.quarantined:
            return Exit.QUARANTINED
        return Exit.DONE

    @property
    def stop_sentence(self) -> str | None:
        """Why the run ended before its work was done, for the person who started it."""
        return self._stop.sentence if self._stop else None

    # -- one generation -----------------------------------------------------------------------------------------

    def _run_generation(self) -> None:
        remaining = None if self._plan.limit is None else max(0, self._plan.limit - self._tally.read)
        assert self._plan.stages is not None and self._plan.rings is not None  # none are only for nodes
        epoch = self._ledger.state.epoch
        self._tally.generations += 1
        self._lifecycle.begin(limit=remaining)
        self._commits.begin()
        self._settling = Settling(self._tell_reader)
        stages = self._plan.stages(epoch, remaining)
        commands = self._proofs.begin()
        try:
            generation = Generation(self._tally.generations, epoch, self._plan.rings, stages, [self._lock_fd], commands)
        except OSError as error:
            raise WorkerDied(
                f"cannot start the child processes ({error.strerror}): raise the limits of open files and processes "
                "(ulimit -n, ulimit -u) or free memory, then run the same command again"
            ) from error
        self._generation = generation
        pipeline = Pipeline(generation, self._lifecycle, self._proofs, self)
        with selectors.DefaultSelector() as selector:
            selector.register(self._signals.fd, selectors.EVENT_READ)
            if self._commits.wake_fd is not None:
                selector.register(self._commits.wake_fd, selectors.EVENT_READ)
            for child in generation.children.values():
                selector.register(child.channel.fd, selectors.EVENT_READ, child)
            while self._lifecycle.phase is not Phase.FINISHED:
                for key, _ in selector.select(TICK_S):
                    if isinstance(key.data, Child) and _receive(pipeline, key.data):
                        selector.unregister(key.fd)
                self._handle_signals()
                self._collect_marks()
                self._lifecycle.advance(generation, self._stop, marks_are_over=self._commits.is_over)
                self._tick(pipeline)
        self._end_generation(kill=False)

    def quarantined(self, message: Message) -> None:
        """See `engine.supervision.pipeline.Events`."""
        self._quarantine.add(message["entries"])

    def settled(self, ranges: Ranges) -> None:
        """See `engine.supervision.pipeline.Events`."""
        self._settling.settle(ranges)

    def _shard_settled(self, receipt: Any) -> None:
        """What a shard was committed with comes back (`Commits`): here, the numbers of its batches."""
        self._settling.settle(receipt)

    def sealed(self, facts: ShardFacts, ranges: Ranges) -> None:
        """See `engine.supervision.pipeline.Events`."""
        self._commits.commit(facts, ranges)

    def stop(self, stop: Stop) -> None:
        """See `engine.supervision.pipeline.Events`."""
        self._request_stop(stop)

    def told(self, event: str, message: Message) -> None:
        """See `engine.supervision.pipeline.Events`."""
        self._totals.take(event, message)

    def _collect_marks(self) -> None:
        if (away := self._commits.collect()) is not None:
            self._request_stop(Stop(Exit.MONGODB, f"{away}; the unmarked shards are marked by the next start"))

    def _tell_reader(self, command: Message) -> None:
        if self._generation is not None:
            self._generation.command("reader", **command)

    # -- stopping -----------------------------------------------------------------------------------------------

    def _handle_signals(self) -> None:
        for number in self._signals.collect():
            if self._stop is None or not self._stop.is_by_signal:
                _log.warning(
                    "stopping signal=%s: draining, sealing and marking; again to give up the open shard", number.name
                )
                self._request_stop(stop_by_signal(number), override=True)
            else:
                raise _GivenUp(f"{number.name} again")

    def _request_stop(self, stop: Stop, *, override: bool = False) -> None:
        """Stop reading, let the clients finish what is in flight, seal, commit, mark."""
        if self._stop is not None and not override:
            return
        self._stop = stop
        self._totals.note("stop", reason=stop.sentence)
        self._stop_reading()

    def _stop_reading(self) -> None:
        if self._generation is not None:
            self._lifecycle.stop(self._generation)

    # -- the clock ----------------------------------------------------------------------------------------------

    def _tick(self, pipeline: Pipeline[Child]) -> None:
        self._stop_in_time()
        pipeline.watch()
        self._stop_in_an_outage(pipeline)
        committed, unmarked = self._commits.committed_rows, self._commits.unmarked_rows
        self._totals.publish_when_due(
            pipeline.generation, self._lifecycle, committed_rows=committed, unmarked_rows=unmarked
        )

    def _stop_in_time(self) -> None:
        """See that the run ends after --max-time, and that a stop does not take for ever."""
        now = time.monotonic()
        limit_s = self._plan.max_time_s
        if limit_s is not None and self._totals.seconds >= limit_s and self._lifecycle.has_rows_to_come:
            sentence = f"stopped after --max-time {limit_s:g} seconds; {self._lifecycle.what_is_left}"
            self._request_stop(Stop(Exit.LIMIT, sentence))
        if (
            self._stop is not None
            and self._lifecycle.phase is Phase.STOPPING
            and now - self._stop.since_s > STOP_GRACE_S
        ):
            raise _GivenUp(f"draining took longer than {STOP_GRACE_S:g} seconds")

    def _stop_in_an_outage(self, pipeline: Pipeline[Child]) -> None:
        if pipeline.outage_s >= self._plan.max_outage_s and self._stop is None:
            sentence = (
                f"no embedding server was healthy for {self._plan.max_outage_s:g} seconds "
                f"({self._totals.last_error or 'no answer'}); what was embedded is committed; "
                "start a server, then run the same command again"
            )
            self._request_stop(Stop(ServersUnavailable.exit_code, sentence))

    # -- ends ---------------------------------------------------------------------------------------------------

    def _after_crash(self, why: str) -> bool:
        """A generation died: begin anew, unless that has happened too often; False when no other is to start."""
        _log.error("generation_ended number=%d reason=%r: recovering from the ledger", self._tally.generations, why)
        self._totals.failed("restart", why)
        self._give_up_generation()
        self._tally.restarts += 1
        n_restarts = self._restarts.add()
        if n_restarts > self._plan.max_restarts:
            raise WorkerDied(
                f"{why}; {n_restarts} restarts within an hour are too many: what is committed is safe, "
                "mend the cause and run the same command again"
            )
        return self._begin_anew()

    def _after_refusal(self, why: str) -> bool:
        """What is not committed is refused: begin anew; False when no other generation is to start."""
        _log.warning("generation_refused number=%d reason=%r", self._tally.generations, why)
        self._totals.failed("refusal", why)
        self._give_up_generation()
        self._tally.refusals += 1
        return self._begin_anew()

    def _give_up_generation(self) -> None:
        """End a generation whose open shard and rings are given up: all that has to survive it is in the ledger."""
        self._end_generation(kill=True, crashed=True)
        self._end_marking()

    def _begin_anew(self) -> bool:
        """Recover as every start does; False when no other generation is to start."""
        before, gone_before = self._ledger.state.rows, self._ledger.state.gone
        is_whole = self._recover()
        adopted = self._ledger.state.rows - before
        self._tally.committed_rows += adopted
        self._tally.read += adopted
        self._tally.gone += self._ledger.state.gone - gone_before
        return is_whole and self._stop is None  # a run that is being stopped has nothing left to start for

    def _end_generation(self, *, kill: bool, crashed: bool = False) -> None:
        """End every child and account for what they did: what is settled, nothing else."""
        generation, self._generation = self._generation, None
        if generation is None:
            return
        try:
            self._totals.add_generation(
                generation,
                committed_rows=self._commits.committed_rows,
                crashed=crashed,
                stopped=self._stop is not None,
            )
        finally:
            if not kill:
                generation.finish(FINISH_S)
            else:
                generation.kill()
        self._totals.add_cpu(generation)

    def _end_marking(self) -> None:
        """Wait for the marks of the shard at hand; while the run is being stopped one more signal ends the wait."""
        self._commits.end(is_enough=lambda: self._stop is not None and bool(self._signals.collect()))


def _receive(pipeline: Pipeline[Child], child: Child) -> bool:
    """Receive a child's messages; True when it has ended and may be forgotten."""
    messages, ended = child.channel.poll()
    child.heard_at_s = time.monotonic()
    for message in messages:
        pipeline.take(child, message)
    if not ended:
        return False
    child.reap(block=True)
    pipeline.child_ended(child)
    return True
