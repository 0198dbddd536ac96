"""`engine run`: preflight, composition of the stages, the run, the summary."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.dataset import DataSet, settle
from commands.marking import ShardMarker
from commands.source import Patience, inspect_source
from commands.stages import StageComposer, plan_rings
from commands.tuned import fleet_changed
from engine.config import RunConfig, to_toml
from engine.errors import ConfigError, EngineError, Exit, ServersUnavailable, SinkError
from engine.ledger import durable
from engine.ledger.commits import MAX_UNMARKED_ROWS
from engine.ledger.log import Ledger, RunState
from engine.ledger.quarantine import Quarantine
from engine.ledger.runfolder import RESERVE_BYTES, RunFolders, RunLock
from engine.memory.shared_rings import RingSizes
from engine.supervision.open_files import files_of_run, require_open_files
from engine.supervision.run_plan import RunPlan
from engine.supervision.signals import SignalInbox
from engine.supervision.supervisor import Supervisor
from engine.telemetry.logs import redact
from engine.telemetry.progress import LineProgress, duration
from engine.telemetry.reporting import Observer
from engine.telemetry.summary import RunClock, summary
from engine.telemetry.tally import Tally
from gpu_clients.servers.doctor import Fleet, examine
from gpu_clients.settings import ClientSettings
from readers.mongo.marker import Marker

_log = logging.getLogger("engine.run")

START_GRACE_S = 10.0
"""How long a start waits for MongoDB or a first server; an outage later may last --max-outage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSecrets:
    """What may not stand in a configuration file, a log or a process's arguments."""

    mongo_uri: str
    api_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a run ended.

    Attributes:
        summary: What it did, also when it failed: what was committed by then counts.
        sentence: Why it ended early, or None.
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
    metrics_port: int | None = None,
    tuned: Path | None = None,
) -> RunResult:
    """Run to the end; see the contract of `engine run`. A run that cannot start or go on has a summary too.

    Args:
        metrics_port: Port of 127.0.0.1 for Prometheus, or None.
        tuned: File that the operating point came from, to warn when it was found on other servers.
    """
    try:
        supervisor = None
        with ExitStack() as stack:
            supervisor = _prepare(config, secrets, show_progress, metrics_port, tuned, stack)
            if supervisor is None:
                return _nothing_to_do(config)
            return RunResult(summary=supervisor.run(), sentence=supervisor.stop_sentence)
    except EngineError as error:
        code = error.exit_code
        return RunResult(summary=supervisor.summary(code) if supervisor else _empty_summary(config, code), error=error)


def _prepare(
    config: RunConfig,
    secrets: RunSecrets,
    show_progress: bool,
    metrics_port: int | None,
    tuned: Path | None,
    stack: ExitStack,
) -> Supervisor | None:
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
    source = inspect_source(config.source, secrets.mongo_uri, wait_s=wait_s)
    if source.empty:
        return None
    clients = client_settings(config, secrets)
    require_open_files(_open_files(config))
    fleet = examine_patiently(clients, wait_s=wait_s, with_padding=config.servers.bucketing == "auto")
    for phrase in fleet_changed(tuned, fleet) if tuned is not None else ():
        _log.warning("the operating point of %s was found on other servers: %s", tuned, phrase)
    with _own_files(folders):
        stack.callback(durable.Reserve(folders.reserve, RESERVE_BYTES).release)
        ledger = Ledger(folders.ledger, RunState())
        stack.callback(ledger.close)
        data_set = settle(
            ledger,
            config,
            fingerprint=fleet.fingerprint,
            id_type=source.id_type,
            columns=source.columns,
            canary=fleet.canary,
        )
        durable.replace_file(folders.config, redact(to_toml("run", config.options())).encode())
        quarantine = Quarantine(folders.quarantine)
        stack.callback(quarantine.close)
    clients = dataclasses.replace(clients, id_type=data_set.schema.id_type)
    rings = plan_rings(config, fleet, data_set)
    composer = StageComposer(config, secrets.mongo_uri, clients, fleet, data_set, rings, ledger)
    durable.arm("supervisor")
    return Supervisor(
        plan=RunPlan(
            name=config.name,
            collection=config.namespace,
            prefix=data_set.prefix,
            rings=rings,
            stages=composer.stages,
            limit=config.limits.limit,
            max_time_s=config.limits.max_time_s,
            max_outage_s=config.limits.max_outage_s,
        ),
        folders=folders,
        lock_fd=lock.fd,
        ledger=ledger,
        shards=data_set.shards(folders),
        marker=_marker(config, secrets, data_set, stack),
        quarantine=quarantine,
        observers=_observers(show_progress, metrics_port, config, _limits(config, fleet, rings), stack),
        signals=SignalInbox(),
    )


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


def client_settings(config: RunConfig, secrets: RunSecrets) -> ClientSettings:
    """What every client is told, before the doctor has seen the servers.

    Raises:
        ConfigError: the keys do not match the servers.
    """
    servers, n_keys = config.servers, len(secrets.api_keys)
    if n_keys not in (0, 1, len(servers.urls)):
        raise ConfigError(f"{n_keys} API keys for {len(servers.urls)} servers: give one for all, or one for each URL")
    keys = secrets.api_keys * len(servers.urls) if n_keys == 1 else secrets.api_keys
    return ClientSettings(
        urls=servers.urls,
        server_kind=servers.kind,
        model=servers.model,
        batch_size=servers.batch_size,
        concurrency=servers.concurrency,
        start_concurrency=servers.start_concurrency,
        max_concurrency=servers.max_concurrency,
        target_p95_s=servers.target_p95_s,
        prompt=servers.prompt,
        dimensions=servers.dimensions,
        normalize=servers.normalize,
        truncate=servers.truncate,
        keep_text=config.sink.keep_text,
        api_keys=keys,
    )


def examine_patiently(settings: ClientSettings, *, wait_s: float, with_padding: bool = False) -> Fleet:
    """Examine the servers; when none answers, look again for a while: they may just be starting.

    Args:
        wait_s: For how long.
        with_padding: Whether to measure if the servers pad, too.

    Raises:
        ConfigError: see `gpu_clients.servers.doctor.examine`.
        ServersUnavailable: none answered in time.
    """
    patience = Patience(wait_s)
    while True:
        try:
            fleet = examine(settings, with_padding=with_padding)
        except ServersUnavailable as error:
            if patience.is_over():
                raise
            patience.tell("servers", error)
            time.sleep(min(1.0, patience.left_s))
            continue
        for warning in fleet.warnings:
            _log.warning("%s", warning)
        if fleet.pads is False:
            _log.info("the servers do not pad (measured): documents are read as they come, not sorted by length")
        return fleet


def _marker(config: RunConfig, secrets: RunSecrets, data_set: DataSet, stack: ExitStack) -> ShardMarker | None:
    if not config.source.mark:
        return None
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


def _open_files(config: RunConfig) -> int:
    """Descriptors that one process of this run may need."""
    servers = config.servers
    return files_of_run(n_servers=len(servers.urls), in_flight=servers.concurrency or servers.max_concurrency)


def _limits(config: RunConfig, fleet: Fleet, rings: RingSizes) -> str:
    """The fixed limits of this run (G5): memory, work in flight, files that are not committed yet."""
    shard_mib = config.sink.shard_bytes >> 20
    return (
        f"limits shared_memory={rings.size_bytes >> 20} MiB "
        f"(documents {rings.n_documents} x {rings.document_bytes >> 10} KiB, "
        f"vectors {rings.n_vectors} x {rings.layout.slot_bytes >> 10} KiB) "
        f"servers={len(config.servers.urls)} batch_size={fleet.batch_size} "
        f"in_flight_per_server<={config.servers.concurrency or config.servers.max_concurrency} "
        f"open_shard<={shard_mib} MiB or {config.sink.shard_seconds:g} s temporaries<={2 * shard_mib} MiB "
        f"unmarked_rows<={MAX_UNMARKED_ROWS} open_files<={_open_files(config)} each process"
    )


def _observers(
    show_progress: bool, metrics_port: int | None, config: RunConfig, limits: str, stack: ExitStack
) -> list[Observer]:
    observers: list[Observer] = []
    if show_progress:
        from rich.console import Console  # noqa: PLC0415 - only a terminal pays for rich

        from engine.telemetry.panel import TerminalProgress  # noqa: PLC0415

        panel = TerminalProgress(Console(stderr=True), limits)
        stack.callback(panel.close)
        observers.append(panel)
    else:
        _log.info("%s", limits)
        observers.append(LineProgress())
    if metrics_port is not None:
        from engine.telemetry.exporter import MetricsExporter  # noqa: PLC0415 - only who asks for metrics pays for it

        exporter = MetricsExporter(metrics_port, config.name)
        stack.callback(exporter.close)
        observers.append(exporter)
    return observers


def as_text(result: dict[str, Any], config: RunConfig) -> str:
    """The summary for a person."""
    latency = result["latency"]
    p50, p95 = latency["p50"], latency["p95"]
    cpu = result["cpu_us_per_document"]
    lines = [
        f"{result['collection']}: {result['embedded']:,} documents embedded in {duration(result['seconds'])} "
        f"({result['docs_per_second']:,.0f}/s, {result['tokens_per_second']:,.0f} tokens/s)",
        f"  read {result['read']:,} = embedded {result['embedded']:,} + quarantined {result['quarantined']:,} "
        f"+ gone {result['gone']:,}; {result['resumed']:,} were there before",
        f"  {result['shards']:,} shards, {result['bytes']:,} bytes in {config.folders.shards}",
    ]
    if p50 is not None and p95 is not None:
        lines.append(
            f"  latency p50 {p50:.3f} s, p95 {p95:.3f} s; {result['requests']:,} requests, {result['retries']:,} "
            f"retries, {result['rejected_429']:,} answered 429"
        )
    if result["saved_by_dedup"]:
        share = result["saved_by_dedup"] / max(1, result["embedded"])
        lines.append(f"  {result['saved_by_dedup']:,} documents ({share:.1%}) shared another one's text and its vector")
    lines += _of_servers(result["servers"])
    if result["truncated"]:
        lines.append(f"  {result['truncated']:,} texts were cut to fit")
    if result["quarantined"]:
        lines.append(f"  quarantine: {config.folders.quarantine}")
    if result["embedded"]:
        lines.append("  CPU per document: " + ", ".join(f"{role} {value:.1f} us" for role, value in cpu.items()))
        lines.append(f"  bottleneck: {result['bottleneck']}")
    return "\n".join(lines)


def _of_servers(servers: list[dict[str, Any]]) -> Iterator[str]:
    """What a person should know of single servers."""
    for server in servers:
        if server["doubtful"]:
            yield (
                f"  {server['url']} went away: {server['doubtful']:,} documents came from it after its last right "
                "canary; prove them with `engine verify --level 5`"
            )
        if server["state"] != "ok":
            yield f"  {server['url']} is out of service; {server['documents']:,} documents came from it"
