"""Finding the operating point of running servers: texts, the search, and the files that are written of it."""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.tuner.measure.probe import probe
from bench.tuner.measure.visit import Visit
from bench.tuner.report import report
from bench.tuner.report.page import Table, page, write_page
from bench.tuner.report.plot import require_plotting, write_curve
from bench.tuner.report.tuned import Tuned, TunedServer, servers_of, write_tuned
from bench.tuner.texts.files import MAX_TEXTS, read_texts
from bench.tuner.tuning import Outcome, Tuning, TuningPlan
from commands.bench import against
from commands.bench.against import Comparison, agreement_between, secrets_of_both
from commands.composition.servers import client_settings
from commands.options.secrets import RunSecrets
from commands.terminal.phrases import by_reason
from engine import __version__
from engine.config import RunConfig
from engine.errors import ConfigError, Exit, ServersUnavailable, SinkError
from engine.supervision.open_files import SPARE, allow_open_files
from engine.supervision.signals import Terminated
from gpu_clients.servers.doctor import Fleet, examine
from gpu_clients.settings import ClientSettings
from readers.mongo.connection import open_client, open_collection, ping
from readers.mongo.sample import QueueSample, sample_queue
from readers.mongo.work_queue import WorkQuery
from readers.preflight.empty_queue import why_empty

_log = logging.getLogger("engine.bench")

_REFUSED_TEXTS = 32
_MOST_IN_FLIGHT = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig:
    """What to tune, and where to write it.

    Attributes:
        run: Source and servers, as a run has them.
        plan: The search.
        texts: File with texts, or None to sample the collection.
        out: The file for `engine run --tuned`.
        plot: The picture of the curve, or None.
        html: The page, or None.
        against: URLs of a second fleet to compare with, or none.
    """

    run: RunConfig
    plan: TuningPlan
    texts: Path | None
    out: Path
    plot: Path | None
    html: Path | None = None
    against: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """How a tuning ended.

    Attributes:
        outcome: What was found.
        exit_code: The command's.
        written: Files that were written.
        sentence: Why it ended early, or None.
        comparison: With the second fleet, if there is one.
    """

    outcome: Outcome
    exit_code: Exit
    written: tuple[Path, ...] = ()
    sentence: str | None = None
    comparison: Comparison | None = None


def find_operating_point(config: BenchConfig, secrets: RunSecrets) -> BenchResult:
    """Find the operating point and write it down; an interruption yields what is known so far.

    Raises:
        ConfigError: options, texts or servers cannot be used.
        SourceError: MongoDB does not answer.
        ServersUnavailable: no server answers.
        SinkError: a file cannot be written.
    """
    settings, texts = prepare(config, secrets)
    fleet = _examined(settings)
    rival = _rival(config, secrets) if config.against else None
    result = _tune(config, fleet, settings, texts)
    if rival is not None and result.exit_code is Exit.DONE:
        result = _compared(config, (fleet, settings), rival, result, texts)
    return write_down(config, result)


def prepare(config: BenchConfig, secrets: RunSecrets) -> tuple[ClientSettings, list[str]]:
    """What needs no server: how servers will be asked, and the texts; refuses what could not be written in the end.

    Raises:
        ConfigError, SourceError: see `find_operating_point`.
    """
    _require_folder("--out", config.out)
    if config.plot is not None:
        _require_folder("--plot", config.plot)
        require_plotting()
    if config.html is not None:
        _require_folder("--html", config.html)
    mine, _ = secrets_of_both(secrets.servers, len(config.run.servers.urls), len(config.against))
    settings = client_settings(config.run, dataclasses.replace(secrets, servers=mine))
    if config.texts is not None:
        texts = read_texts(config.texts, config.plan.tune.seed)
    else:
        texts = list(_sample(config.run, secrets.mongo_uri, MAX_TEXTS).texts)
    allow_open_files(SPARE + len(settings.urls) * (config.plan.concurrency_max or _MOST_IN_FLIGHT))
    return settings, texts


def write_down(
    config: BenchConfig, result: BenchResult, server: TunedServer | None = None, tables: Sequence[Table] = ()
) -> BenchResult:
    """The result of a search that came to its end, with its files; one that did not is left as it is.

    Args:
        server: How the servers were started, when that was looked for.
        tables: What else the page shall show.

    Raises:
        SinkError: a file cannot be written.
    """
    if result.exit_code is not Exit.DONE:
        return result
    written = (*_write_plot(config.plot, result.outcome), *_write_page(config.html, result, tables))
    if result.outcome.findings.chosen is None:
        return dataclasses.replace(result, exit_code=Exit.NO_OPERATING_POINT, written=written)
    return dataclasses.replace(result, written=(*written, *_write_tuned(config.out, result.outcome, server)))


def _examined(settings: ClientSettings) -> Fleet:
    """The doctor's word on a fleet; what it warns of is logged."""
    fleet = examine(settings)
    for warning in fleet.warnings:
        _log.warning("%s", warning)
    return fleet


def _rival(config: BenchConfig, secrets: RunSecrets) -> tuple[Fleet, ClientSettings]:
    """The fleet to compare with, examined before time is spent on either."""
    servers = dataclasses.replace(config.run.servers, urls=config.against)
    _, theirs = secrets_of_both(secrets.servers, len(config.run.servers.urls), len(config.against))
    settings = client_settings(
        dataclasses.replace(config.run, servers=servers), dataclasses.replace(secrets, servers=theirs)
    )
    return _examined(settings), settings


def _compared(
    config: BenchConfig,
    first: tuple[Fleet, ClientSettings],
    rival: tuple[Fleet, ClientSettings],
    result: BenchResult,
    texts: list[str],
) -> BenchResult:
    """The result with the second fleet beside it, tuned with the same texts."""
    other = _tune(config, *rival, texts)
    agreement = agreement_between(first, rival, result.outcome) if other.exit_code is Exit.DONE else None
    comparison = Comparison(outcome=other.outcome, agreement=agreement)
    return dataclasses.replace(result, comparison=comparison, exit_code=other.exit_code, sentence=other.sentence)


def _tune(config: BenchConfig, fleet: Fleet, settings: ClientSettings, texts: list[str]) -> BenchResult:
    """The search; what ends it early leaves what is known so far."""
    with Tuning(fleet, settings, texts, config.plan, listener=tell) as tuning:
        try:
            return BenchResult(outcome=tuning.run(), exit_code=Exit.DONE)
        except KeyboardInterrupt:
            return BenchResult(outcome=tuning.outcome(), exit_code=Exit.SIGINT, sentence="stopped by SIGINT")
        except Terminated as stop:
            sentence = f"stopped by {stop.number.name}"
            return BenchResult(outcome=tuning.outcome(), exit_code=Exit.SIGTERM, sentence=sentence)
        except ServersUnavailable as error:
            outcome = tuning.outcome()
            if not outcome.findings.within(None):
                _refuse_refused(fleet, settings, outcome)
                raise
            return BenchResult(outcome=outcome, exit_code=Exit.SERVERS, sentence=str(error))


def _refuse_refused(fleet: Fleet, settings: ClientSettings, outcome: Outcome) -> None:
    """When nothing could be measured: was it the texts?

    Raises:
        ConfigError: the servers are well and refuse every one of some texts.
    """
    try:
        probed = probe(fleet, settings, outcome.corpus.sample(_REFUSED_TEXTS))
    except ServersUnavailable:
        return
    if not len(probed.vectors):
        raise ConfigError(
            f"nothing can be measured: the servers refuse every text that was tried ({by_reason(probed.refused)}); "
            "`engine run` puts such documents into quarantine; name a file of other texts with --texts"
        )


def tell(part: str, visit: Visit) -> None:
    _log.info(
        "measured part=%s batch_size=%d concurrency=%d docs_per_second=%.1f p95_s=%.3f ended=%r took_s=%.1f",
        part,
        visit.point.batch_size,
        visit.point.concurrency,
        visit.rate.per_s,
        visit.p_s(0.95),
        visit.stop_reason.value,
        visit.total_s,
    )


def _sample(config: RunConfig, uri: str, n_texts: int) -> QueueSample:
    """Texts of the work queue at random, and how many documents it holds.

    Raises:
        ConfigError: wrong URI, no usable index, or no document with a text.
        SourceError: MongoDB does not answer.
    """
    source = config.source
    if source.files is not None:
        return _sample_files(config, n_texts)
    with open_client(uri, name="engine-sample") as client:
        ping(client, uri)
        collection = open_collection(client, source.database, source.collection)
        query = WorkQuery.of(source.done_field, source.langs, source.filter, source.scan, source.retweeted)
        found = sample_queue(collection, query, source.text_field, n_texts)
        why_none = None if found.n_drawn else why_empty(collection, query)
    if found.no_index is not None:
        _log.warning("%s", found.no_index)
    if not found.texts:
        why = (
            f"none of {found.n_drawn:,} documents can be embedded, `engine run` puts them into quarantine: "
            f"{by_reason(found.refused)}"
            if found.n_drawn
            else why_none or "it is empty"
        )
        raise ConfigError(
            f"the work queue of {config.namespace} has no texts ({why}): check --collection, --done-field and "
            "--text-field, or name a file with --texts"
        )
    return found


def _sample_files(config: RunConfig, n_texts: int) -> QueueSample:
    """Texts of files.

    Raises:
        ConfigError: no files, or none with a text.
    """
    from commands.composition.files.sampling import sample_texts  # noqa: PLC0415 - only files need it

    found, _ = sample_texts(config, n_texts)
    if not found.texts:
        raise ConfigError(
            f"{config.source.files} has no texts in the field {config.source.text_field} ({by_reason(found.refused)}): "
            "check --text-field"
        )
    return found


def _require_folder(option: str, path: Path) -> None:
    """Refuse a path that cannot be written before minutes are spent on what belongs there."""
    if not path.parent.is_dir():
        raise ConfigError(f"{option} {path}: the folder {path.parent} does not exist; create it")
    if path.is_dir():
        raise ConfigError(f"{option} {path} is a folder; name a file")


def _write_tuned(path: Path, outcome: Outcome, server: TunedServer | None) -> tuple[Path, ...]:
    findings = outcome.findings
    chosen = findings.chosen
    assert chosen is not None
    tuned = Tuned(
        batch_size=chosen.point.batch_size,
        concurrency=chosen.point.concurrency,
        max_concurrency=findings.ceiling,
        bucketing="on" if findings.bucketing else "off",
        target_p95_s=outcome.plan.tune.target_p95_s,
        docs_per_second=chosen.rate.per_s,
        tokens_per_second=findings.tokens_per_s(chosen),
        tokens_per_document=outcome.tokens_per_text,
        p95_s=chosen.p_s(0.95),
        fingerprint=outcome.fleet.fingerprint,
        servers=servers_of(outcome.fleet),
        written_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        engine_version=__version__,
        server=server,
    )
    try:
        write_tuned(path, tuned)
    except OSError as error:
        raise SinkError(f"--out {path} cannot be written ({error.strerror})") from error
    return (path,)


def _write_plot(path: Path | None, outcome: Outcome) -> tuple[Path, ...]:
    if path is None:
        return ()
    findings = outcome.findings
    try:
        write_curve(path, list(findings.records.values()), findings.chosen, outcome.plan.tune.target_p95_s)
    except OSError as error:
        raise SinkError(f"--plot {path} cannot be written ({error.strerror})") from error
    return (path,)


def _write_page(path: Path | None, result: BenchResult, tables: Sequence[Table]) -> tuple[Path, ...]:
    if path is None:
        return ()
    compared = result.comparison
    if compared is not None:
        tables = (*tables, against.as_table(result.outcome, compared))
    text = page(result.outcome, other=None if compared is None else compared.outcome, tables=tables)
    try:
        write_page(path, text)
    except OSError as error:
        raise SinkError(f"--html {path} cannot be written ({error.strerror})") from error
    return (path,)


def as_text(result: BenchResult) -> str:
    """Table, curve, verdict, and what was written."""
    compared = result.comparison
    lines = [report.as_text(result.outcome) if compared is None else against.as_text(result.outcome, compared)]
    lines += [f"Wrote {path}." for path in result.written]
    return "\n".join(lines)


def as_dict(result: BenchResult) -> dict[str, Any]:
    """The same for a program."""
    return {
        **report.as_dict(result.outcome),
        **({} if result.comparison is None else against.as_dict(result.outcome, result.comparison)),
        "written": [str(path) for path in result.written],
        "exit": int(result.exit_code),
    }
