"""A run from its start to its summary: preflight, data set, stages, supervisor."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from commands.composition.cold import names_there, try_cold
from commands.composition.data_set import DataSet, begin_or_continue
from commands.composition.servers import client_settings, examine_patiently
from commands.composition.stages import StageComposer, plan_rings, slot_id_type
from commands.options.secrets import RunSecrets
from commands.run.limits import limits, open_files
from commands.run.observers import observers
from commands.terminal.output import say
from engine.config import RunConfig, to_toml
from engine.errors import EngineError, Exit, SinkError
from engine.exposition.address import Address
from engine.ledger import durable, preflight
from engine.ledger.log import Ledger, RunState
from engine.ledger.quarantine import Quarantine
from engine.ledger.runfolder import RESERVE_BYTES, RunFolders, RunLock
from engine.memory.ids import IdType
from engine.memory.shared_rings import RingSizes
from engine.ray_address import RayAddress
from engine.records import Fingerprint
from engine.supervision.open_files import require_open_files
from engine.supervision.run_plan import RunPlan, StagePlan
from engine.supervision.signals import SignalInbox, Terminated
from engine.supervision.supervisor import Supervisor
from engine.telemetry.logs import redact
from engine.telemetry.summary import RunClock, summary
from engine.telemetry.tally import Tally
from gpu_clients.servers.doctor import Fleet
from gpu_clients.servers.probe import LongTexts

if TYPE_CHECKING:
    from commands.composition.files.inspection import Files
    from commands.composition.marking import ShardMarker
    from writers.cold.settings import ColdSettings

_log = logging.getLogger("engine.run")

START_GRACE_S = 10.0
"""How long a start waits for MongoDB or a first server; an outage later may last --max-outage."""


class OwnServers(Protocol):
    """Servers that a run starts itself (`bench.fleet`)."""

    def start(self, tell: Callable[[str], None] | None) -> object:
        """Start them, and wait until all are healthy; `tell` is told in words how it goes on."""

    def stop(self) -> None:
        """End them; harmless when they were not started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a run ended.

    Attributes:
        summary: What it did, also when it failed: what was committed by then counts.
        sentence: Why it ended early, or why it found nothing to do, or None.
        error: What it failed with, or None; its exit code is the summary's.
    """

    summary: dict[str, Any]
    sentence: str | None = None
    error: EngineError | None = None


def run(
    config: RunConfig,
    secrets: RunSecrets,
    *,
    show_progress: bool,
    http: Address | None = None,
    tuned: Path | None = None,
    own_servers: OwnServers | None = None,
) -> RunResult:
    """Run to the end; see the contract of `engine run`. A run that cannot start or go on has a summary too.

    Args:
        http: Where to serve page, metrics and status while it goes on, or None.
        tuned: File that the operating point came from, to warn when it was found on other servers.
        own_servers: Servers to start once it is clear that there is work for them, and to end with the run.
    """
    result = None
    try:
        with ExitStack() as stack:
            result = _result(config, lambda: _prepare(config, secrets, show_progress, http, tuned, own_servers, stack))
    except (KeyboardInterrupt, Terminated):
        if result is None:
            raise
        # it came while servers, nodes and connections were being let go, and has made that shorter
    return result


def _result(config: RunConfig, prepare: Callable[[], _Prepared | None]) -> RunResult:
    """What a run comes to, also one that cannot start or go on; what it uses is still held when this returns."""
    supervisor = None
    try:
        prepared = prepare()
        if prepared is None:
            return _nothing_to_do(config)
        supervisor = prepared.supervisor
        done = supervisor.run()
        return RunResult(
            summary=done, sentence=supervisor.stop_sentence or (None if done["read"] else prepared.why_idle)
        )
    except EngineError as error:
        code = error.exit_code
        return RunResult(summary=supervisor.summary(code) if supervisor else _empty_summary(config, code), error=error)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A run that can start, and why it will find nothing to do (see `Source.why_idle`)."""

    supervisor: Supervisor
    why_idle: str | None


def _prepare(
    config: RunConfig,
    secrets: RunSecrets,
    show_progress: bool,
    http: Address | None,
    tuned: Path | None,
    own_servers: OwnServers | None,
    stack: ExitStack,
) -> _Prepared | None:
    """Everything up to the point where processes start; None when the collection is empty.

    Raises:
        EngineError: the run cannot start; its exit code says which.
    """
    folders = config.folders
    wait_s = min(START_GRACE_S, config.limits.max_outage_s)
    folders.make()
    with _own_files(folders):
        lock = RunLock(folders.lock)
    stack.callback(lock.release)
    preflight.check_ledger_folder(folders.hot, folders.lock, RESERVE_BYTES + preflight.MIN_FREE_BYTES, config.name)
    cold = try_cold(config)
    source = _inspect(config, secrets, wait_s)
    if source is None:
        return None
    clients = client_settings(config, secrets)
    require_open_files(open_files(config))
    if own_servers is not None:
        stack.callback(own_servers.stop)
        own_servers.start(say if show_progress else None)
    if config.ray is not None:
        return _prepare_nodes(config, secrets, config.ray, source, cold, lock, show_progress, http, stack)
    fleet = examine_patiently(
        clients, wait_s=wait_s, with_padding=config.servers.bucketing == "auto", long_texts=LongTexts.BRIEFLY
    )
    if tuned is not None:
        _warn_of_another_fleet(tuned, fleet)
    with _own_files(folders):
        ledger = _open_ledger(folders, stack)
        data_set, quarantine = _open_data_set(config, ledger, fleet, source, cold, stack)
    clients = dataclasses.replace(clients, id_type=slot_id_type(config, data_set))
    rings = plan_rings(config, fleet, data_set)
    composer = StageComposer(
        config, secrets.mongo_uri, clients, fleet, data_set, rings, ledger, files=source.files, cold=cold
    )
    durable.arm("supervisor")
    if source.files is not None:
        source.files.record(ledger)
    supervisor = Supervisor(
        plan=_plan(config, data_set, rings, composer.stages),
        folders=folders,
        lock_fd=lock.fd,
        ledger=ledger,
        shards=data_set.shards(folders, cold),
        marker=_marker(config, secrets, data_set, stack),
        quarantine=quarantine,
        observers=observers(config, limits(config, fleet, rings), stack, show_progress=show_progress, http=http),
        signals=SignalInbox(),
    )
    return _Prepared(supervisor, source.why_idle)


def _prepare_nodes(
    config: RunConfig,
    secrets: RunSecrets,
    ray: RayAddress,
    source: _Source,
    cold: ColdSettings | None,
    lock: RunLock,
    show_progress: bool,
    http: Address | None,
    stack: ExitStack,
) -> _Prepared:
    """The same for a run on the nodes of a cluster, behind the look at the source."""
    from commands.cluster.driver import Driver  # noqa: PLC0415 - only who asks for nodes pays for it

    folders = config.folders
    driver = Driver(config, secrets, ray, source.files, cold, stack)
    with _own_files(folders):
        ledger = _open_ledger(folders, stack)
        data_set, quarantine = _open_data_set(config, ledger, driver.examine(ledger.state), source, cold, stack)
    durable.arm("supervisor")
    if source.files is not None:
        source.files.record(ledger)
    supervisor = driver.supervisor(
        plan=_plan(config, data_set),
        folders=folders,
        lock_fd=lock.fd,
        ledger=ledger,
        shards=data_set.shards(folders, cold),
        marker=_marker(config, secrets, data_set, stack),
        quarantine=quarantine,
        observers=observers(config, driver.limits, stack, show_progress=show_progress, http=http),
        signals=SignalInbox(),
    )
    return _Prepared(supervisor, source.why_idle)


class _VectorSpace(Protocol):
    """What the servers give: those of this machine (`Fleet`), or those of all nodes."""

    @property
    def fingerprint(self) -> Fingerprint:
        """What they say of their vectors."""

    @property
    def canary(self) -> str:
        """Their vectors of the canary texts."""

    @property
    def canary_brief(self) -> str:
        """The same in brief."""


def _open_ledger(folders: RunFolders, stack: ExitStack) -> Ledger[RunState]:
    """The ledger, and space set aside so that a full disk does not keep a run from ending well."""
    stack.callback(durable.Reserve(folders.reserve, RESERVE_BYTES).release)
    ledger = Ledger(folders.ledger, RunState())
    stack.callback(ledger.close)
    return ledger


def _open_data_set(
    config: RunConfig,
    ledger: Ledger[RunState],
    space: _VectorSpace,
    source: _Source,
    cold: ColdSettings | None,
    stack: ExitStack,
) -> tuple[DataSet, Quarantine]:
    """Begin or continue the data set, note how it is run, and open its quarantine."""
    folders = config.folders
    data_set = begin_or_continue(
        ledger,
        config,
        fingerprint=space.fingerprint,
        id_type=source.id_type,
        columns=source.columns,
        canary=space.canary,
        canary_brief=space.canary_brief,
        names=lambda: names_there(config, cold),
    )
    durable.replace_file(folders.config, redact(to_toml("run", config.options())).encode())
    quarantine = Quarantine(folders.quarantine, None if source.files is None else source.files.naming.name_of_text)
    stack.callback(quarantine.close)
    return data_set, quarantine


def _plan(
    config: RunConfig,
    data_set: DataSet,
    rings: RingSizes | None = None,
    stages: Callable[[int, int | None], list[StagePlan]] | None = None,
) -> RunPlan:
    """The plan of the run; without rings and stages when the processes run on nodes."""
    return RunPlan(
        name=config.name,
        collection=config.namespace,
        prefix=data_set.prefix,
        rings=rings,
        stages=stages,
        limit=config.limits.limit,
        max_time_s=config.limits.max_time_s,
        max_outage_s=config.limits.max_outage_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """What a run has to know of its source before it starts; see `Source` and `Files`."""

    id_type: IdType
    columns: tuple[tuple[str, str], ...]
    why_idle: str | None = None
    files: Files | None = None


def _inspect(config: RunConfig, secrets: RunSecrets, wait_s: float) -> _Source | None:
    """Look at the source; each kind imports what it needs. None for an empty collection."""
    if config.source.files is not None:
        from commands.composition.files.inspection import inspect_files  # noqa: PLC0415

        files = inspect_files(config)
        return _Source(id_type=files.id_type, columns=files.columns, files=files)
    from commands.composition.source import inspect_source  # noqa: PLC0415

    source = inspect_source(config.source, secrets.mongo_uri, wait_s=wait_s)
    if source.empty:
        return None
    return _Source(id_type=source.id_type, columns=source.columns, why_idle=source.why_idle)


def _warn_of_another_fleet(tuned: Path, fleet: Fleet) -> None:
    from commands.composition.tuned import fleet_changed  # noqa: PLC0415 - only a run with --tuned pays for the tuner

    for phrase in fleet_changed(tuned, fleet):
        _log.warning("the operating point of %s was found on other servers: %s", tuned, phrase)


@contextmanager
def _own_files(folders: RunFolders) -> Iterator[None]:
    """The edge at which trouble with the run folder's files becomes an error of the engine.

    Raises:
        SinkError: a file cannot be opened or written.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or folders.hot
        raise SinkError(
            f"cannot write {where} ({error.strerror}): make --hot-dir writable, or free space there"
        ) from error


def _marker(config: RunConfig, secrets: RunSecrets, data_set: DataSet, stack: ExitStack) -> ShardMarker | None:
    if not config.source.mark:
        return None
    from commands.composition.marking import ShardMarker  # noqa: PLC0415 - files are not marked
    from readers.mongo.marker import Marker  # noqa: PLC0415

    marker = ShardMarker(
        Marker(
            secrets.mongo_uri,
            config.source.database,
            config.source.collection,
            config.source.done_field,
            max_outage_s=config.limits.max_outage_s,
        ),
        data_set.schema.id_type,
    )
    stack.callback(marker.close)
    return marker


def _nothing_to_do(config: RunConfig) -> RunResult:
    sentence = f"the collection {config.namespace} is empty: nothing to embed"
    return RunResult(summary=_empty_summary(config, Exit.DONE), sentence=sentence)


def _empty_summary(config: RunConfig, code: Exit) -> dict[str, Any]:
    """The summary of a run that did not come to start its processes."""
    return summary(
        Tally(), RunClock(), run=config.name, collection=config.namespace, bottleneck="nothing ran", exit_code=code
    )
