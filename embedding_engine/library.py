"""What the commands do, as functions: same configuration objects, same guarantees, errors instead of exit codes.

Each raises an `EngineError` whose `exit_code` is the one that the command would have ended with.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from commands.bench.bench import BenchConfig, BenchResult, find_operating_point
from commands.composition.partners import CollectionName, Partners
from commands.options.secrets import RunSecrets, ServerSecrets, keep_uri_secret
from commands.plan.config import PlanConfig
from commands.plan.plan import forecast_run
from commands.run.http_address import http_address
from commands.run.run import RunResult
from commands.run.run import run as run_to_the_end
from commands.terminal.output import set_up_logs
from commands.terminal.progress_line import ProgressLine
from engine.config import RunConfig, ServersConfig, SourceConfig
from engine.errors import Exit
from engine.telemetry.logs import keep_secret
from writers.merge.config import MergeConfig, MergeReport
from writers.merge.merge import merge as merge_files
from writers.verify.config import VerifyConfig, VerifyReport
from writers.verify.verify import verify as verify_files

DEFAULT_URI = "mongodb://localhost:27017"


class Interrupted(KeyboardInterrupt):
    """A run that stopped cleanly on Ctrl-C: what it embedded is committed, the same call continues.

    Attributes:
        result: What it did until then.
    """

    def __init__(self, result: RunResult) -> None:
        super().__init__(result.sentence or "stopped by SIGINT")
        self.result = result


def run(
    config: RunConfig | None = None,
    *,
    mongo_uri: str | None = None,
    secrets: ServerSecrets | None = None,
    progress: bool = True,
    metrics_port: int | None = None,
    http: str | None = None,
) -> RunResult:
    """Embed what is not yet embedded, as `engine run` does; the same call continues.

    Called in the main thread it takes Ctrl-C as the command does: once for a clean stop, twice for a quick one. In
    another thread signals are the program's own business.

    Args:
        config: Source, servers, folders, limits; None has every default of the command.
        mongo_uri: MongoDB; None takes `ENGINE_MONGO_URI` or the local one.
        secrets: Keys and headers for the servers.
        progress: Say on standard error how it goes: a panel on a terminal, lines elsewhere (a notebook). A program
            that has set up the logger `engine` itself gets its lines there.
        metrics_port: The same as `http="127.0.0.1:PORT"`.
        http: `HOST:PORT` to serve page, metrics and status at, or None.

    Returns:
        The summary, with the numbers that `engine run --json` prints, and the sentence why it ended early, if it did.
        Documents in quarantine and a limit that left work are in its exit code, not errors.

    Raises:
        EngineError: it cannot start or go on; see `exit_code`.
        Interrupted: Ctrl-C stopped it, cleanly.
    """
    config = config or RunConfig()
    address = http_address(http, metrics_port)
    panel = progress and sys.stderr.isatty()
    with _lines(progress, only_warnings=panel):
        result = run_to_the_end(config, _secrets(mongo_uri, secrets), show_progress=panel, http=address)
    if result.error is not None:
        raise result.error
    if result.summary["exit"] == Exit.SIGINT:
        raise Interrupted(result)
    return result


def merge(config: MergeConfig, *, progress: bool = True) -> MergeReport:
    """Consolidate shards into few large files, each proved before it counts, as `engine merge` does.

    Args:
        config: For a collection's shards see `MergeConfig.of_collection`.
        progress: Say on standard error how it goes.

    Raises:
        EngineError: inputs that do not fit together, damage, a full device; see `exit_code`.
    """
    with _lines(progress), ProgressLine(quiet=not progress) as line:
        return merge_files(config, line)


def verify(
    config: VerifyConfig,
    *,
    source: SourceConfig | None = None,
    servers: ServersConfig | None = None,
    mongo_uri: str | None = None,
    secrets: ServerSecrets | None = None,
    progress: bool = True,
) -> VerifyReport:
    """Prove a data set, as `engine verify` does; differences are in the report, not errors.

    Args:
        config: What to look at and how closely; see `VerifyConfig.of_collection` and `of_folder`.
        source: The collection or the files, for levels 4 and 5.
        servers: The embedding servers, for level 5.
        mongo_uri: MongoDB; None takes `ENGINE_MONGO_URI` or the local one.
        secrets: Keys and headers for the servers.
        progress: Say on standard error how it goes.

    Raises:
        EngineError: nothing to verify is there, or MongoDB or the servers do not answer.
    """
    source = source or SourceConfig()
    with _lines(progress), ProgressLine(quiet=not progress) as line, Partners() as partners:
        known = _secrets(mongo_uri, secrets)
        if config.level >= 4 and source.files is not None:
            partners.read_files(config, source)
        elif config.level >= 4:
            name = CollectionName(source.database, source.collection, source.done_field, source.text_field)
            partners.connect(config, known.mongo_uri, name)
        if config.level >= 5:
            partners.embed_with(config, (servers or ServersConfig()).urls, known.servers)
        return verify_files(config, line, documents=partners.documents, embedder=partners.embedder)


def plan(
    config: PlanConfig | None = None, *, mongo_uri: str | None = None, secrets: ServerSecrets | None = None
) -> dict[str, Any]:
    """Forecast hours, cost, bytes and files of a run, as `engine plan --json` does; nothing is written.

    Raises:
        EngineError: the collection or the servers cannot be used.
    """
    return forecast_run(config or PlanConfig(run=RunConfig()), _secrets(mongo_uri, secrets))


def bench(config: BenchConfig, *, mongo_uri: str | None = None, secrets: ServerSecrets | None = None) -> BenchResult:
    """Find batch size and concurrency for running servers, as `engine bench` does, and write them down.

    Raises:
        EngineError: texts or servers cannot be used.
    """
    return find_operating_point(config, _secrets(mongo_uri, secrets))


def _secrets(mongo_uri: str | None, servers: ServerSecrets | None) -> RunSecrets:
    """What may be in no log line: it is known to the log from here on."""
    uri = mongo_uri or os.environ.get("ENGINE_MONGO_URI") or DEFAULT_URI
    keep_uri_secret(uri)
    servers = servers or ServerSecrets()
    for value in (*servers.api_keys, *(value for _, value in servers.headers)):
        keep_secret(value)
    return RunSecrets(mongo_uri=uri, servers=servers)


@contextlib.contextmanager
def _lines(wanted: bool, *, only_warnings: bool = False) -> Iterator[None]:
    """Lines of progress on standard error for the length of a call, unless the program logs them itself."""
    logger = logging.getLogger("engine")
    if not wanted or logger.handlers:
        yield
        return
    level, propagate = logger.level, logger.propagate
    set_up_logs(verbose=False, quiet=only_warnings)
    try:
        yield
    finally:
        logger.handlers.clear()
        logger.setLevel(level)
        logger.propagate = propagate
