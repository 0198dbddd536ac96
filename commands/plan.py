"""`engine plan`: what a run would take, from samples of the collection and the servers; nothing is written anywhere."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import forecast as fc
from bench.tuner.measure.probe import Probed, probe
from bench.tuner.report.tuned import Tuned, fleet_changes, read_tuned
from bench.tuner.search.findings import DEFAULT_CHARACTERS_PER_TOKEN
from bench.tuner.search.survey import TuneConfig
from bench.tuner.texts.corpus import WINDOW_TEXTS, Corpus
from bench.tuner.tuning import CHARACTERS_PER_TOKEN, Tuning, TuningPlan
from commands.run import RunSecrets, client_settings
from engine.config import RunConfig, check_range
from engine.errors import ServersUnavailable
from engine.memory.ids import IdType
from engine.telemetry.progress import duration
from gpu_clients.servers.doctor import Fleet, examine
from gpu_clients.settings import ClientSettings
from readers.batching.skip import QuarantineLog
from readers.mongo.connection import open_client, open_collection, ping
from readers.mongo.ids import decide_id_type, key_of_text
from readers.mongo.sample import QueueSample, sample_queue
from readers.mongo.work_queue import WorkQuery
from writers.shards.schema import ShardSchema

_log = logging.getLogger("engine.plan")

PROBE_TEXTS = 256
_VISIT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """What to forecast.

    Attributes:
        run: The run, as it would be started.
        tuned: The file of `engine bench`, or None to measure.
        gpu_hour_price: Price of one GPU for an hour, or None.
        api_price_per_mtok: Price of a million tokens of a hosted API, or None.
        gpus: GPUs that are paid for, or None for one a server.
        max_seconds: Time for measuring the rate.
    """

    run: RunConfig
    tuned: Path | None = None
    gpu_hour_price: float | None = None
    api_price_per_mtok: float | None = None
    gpus: int | None = None
    max_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("gpu_hour_price", "api_price_per_mtok"):
            if (price := getattr(self, name)) is not None:
                check_range(name, price, 0.0)
        if self.gpus is not None:
            check_range("gpus", self.gpus, 1)
        check_range("max_seconds", self.max_seconds, 1, 86_400)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What the collection and the servers show."""

    sample: QueueSample
    id_type: IdType
    fleet: Fleet | None
    corpus: Corpus
    probed: Probed | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rate:
    """Documents a second, and where that comes from."""

    docs_per_second: float
    source: str
    dim: int
    notes: tuple[str, ...] = ()


def plan(config: PlanConfig, secrets: RunSecrets) -> dict[str, Any]:
    """Forecast a run.

    Raises:
        ConfigError: options, collection or servers cannot be used.
        SourceError: MongoDB does not answer.
        ServersUnavailable: no server answers, and there is no tuned file to go by.
    """
    tuned = read_tuned(config.tuned) if config.tuned is not None else None
    sample, id_type = _sample(config.run, secrets.mongo_uri)
    if not sample.texts:
        return _nothing(config, sample)
    settings = client_settings(config.run, secrets)
    look = _look(config, settings, sample, id_type, has_rate=tuned is not None)
    if look.probed is not None and not len(look.probed.vectors):
        return _nothing(config, sample, look.probed.refused)
    rate = _tuned_rate(tuned, look.fleet) if tuned is not None else _measured_rate(config, settings, look)
    return _figures(config, look, rate, tuned)


def _sample(config: RunConfig, uri: str) -> tuple[QueueSample, IdType]:
    source = config.source
    with open_client(uri, name="engine-plan") as client:
        ping(client, uri)
        collection = open_collection(client, source.database, source.collection)
        query = WorkQuery.of(source.done_field, source.langs, source.filter, source.scan)
        quarantined = QuarantineLog(str(config.folders.quarantine), key_of_text).new_keys()
        sample = sample_queue(collection, query, source.text_field, WINDOW_TEXTS, quarantined=quarantined)
        return sample, decide_id_type(collection)


def _look(
    config: PlanConfig, settings: ClientSettings, sample: QueueSample, id_type: IdType, *, has_rate: bool
) -> _Look:
    fleet: Fleet | None = None
    probed = None
    try:
        fleet = examine(settings)
    except ServersUnavailable as error:
        if not has_rate:
            raise
        _log.warning("%s; the forecast goes by --tuned alone", error)
    limit = _limit_tokens(fleet)
    most = limit * CHARACTERS_PER_TOKEN if limit is not None and settings.truncate else None
    corpus = Corpus(list(sample.texts), prompt=settings.prompt, max_characters=most)
    if fleet is not None:
        for warning in fleet.warnings:
            _log.warning("%s", warning)
        probed = probe(fleet, settings, corpus.sample(PROBE_TEXTS))
    return _Look(sample=sample, id_type=id_type, fleet=fleet, corpus=corpus, probed=probed)


def _limit_tokens(fleet: Fleet | None) -> int | None:
    facts = [server.facts for server in fleet.servers if server.facts is not None] if fleet is not None else []
    return min((item.max_input_length for item in facts if item.max_input_length is not None), default=None)


def _tuned_rate(tuned: Tuned, fleet: Fleet | None) -> _Rate:
    notes = fleet_changes(tuned, fleet) if fleet is not None else []
    return _Rate(
        docs_per_second=tuned.docs_per_second,
        source=f"measured by `engine bench` at {tuned.written_at}",
        dim=tuned.fingerprint.dim,
        notes=tuple(f"the fleet has changed since the tuned file was written: {note}" for note in notes),
    )


def _measured_rate(config: PlanConfig, settings: ClientSettings, look: _Look) -> _Rate:
    """A short tuning with the run's batch size: the rate that a run with adaptive concurrency comes to."""
    assert look.fleet is not None
    servers = config.run.servers
    search = TuneConfig(
        target_p95_s=servers.target_p95_s, seconds=min(_VISIT_S, config.max_seconds / 8), max_seconds=config.max_seconds
    )
    tuning_plan = TuningPlan(
        batch_sizes=(servers.batch_size,),
        concurrency_max=servers.concurrency or servers.max_concurrency,
        tune=search,
    )
    with Tuning(look.fleet, settings, list(look.sample.texts), tuning_plan) as tuning:
        findings = tuning.run().findings
    best = findings.chosen or findings.nearest()
    assert best is not None, "a search without any point that works raises"
    notes = []
    if findings.chosen is None:
        notes.append(f"no point holds p95 <= {servers.target_p95_s:g} s; the rate is that of the nearest one")
    return _Rate(
        docs_per_second=best.rate.per_s,
        source=(
            f"measured for {findings.seconds:.0f} s: batch size {best.point.batch_size} x concurrency "
            f"{best.point.concurrency} per server, {best.rate.spread}"
        ),
        dim=look.fleet.dim,
        notes=tuple(notes),
    )


def _figures(config: PlanConfig, look: _Look, rate: _Rate, tuned: Tuned | None) -> dict[str, Any]:
    run, sample = config.run, look.sample
    tokens = _tokens(look, tuned)
    usable_share = len(sample.texts) / sample.n_drawn
    queue = sample.size
    documents = round(queue.n_rows * usable_share) if queue is not None else 1_000_000
    schema = ShardSchema(
        id_type=look.id_type,
        columns=(),
        dim=rate.dim,
        vector_type=run.sink.vector_type,
        truncated=run.sink.truncated_column,
    )
    has_vectors = look.probed is not None and len(look.probed.vectors) >= 2
    vectors = (
        look.probed.vectors if look.probed is not None and has_vectors else fc.plain_vectors(PROBE_TEXTS, rate.dim)
    )
    gpus = config.gpus or (len(look.fleet.servers) if look.fleet else len(tuned.servers) if tuned else 1)
    work = fc.Workload(
        documents=documents,
        docs_per_second=rate.docs_per_second,
        tokens_per_document=tokens.mean_embedded,
        bytes_per_row=fc.bytes_per_row(schema, vectors),
        shard_bytes=run.sink.shard_bytes,
        shard_seconds=run.sink.shard_seconds,
        gpus=gpus,
    )
    found = fc.forecast(work, gpu_hour_price=config.gpu_hour_price, api_price_per_mtok=config.api_price_per_mtok)
    free = {"hot": fc.free_bytes(run.sink.hot_dir), "cold": fc.free_bytes(run.sink.cold_dir)}
    return {
        "collection": run.namespace,
        "queue": {
            "documents": queue.n_rows if queue is not None else None,
            "exact": queue.is_exact if queue is not None else False,
            "usable_share": round(usable_share, 6),
            "sampled": sample.n_drawn,
        },
        "documents": documents,
        "unusable": {**sample.refused, **(look.probed.refused if look.probed is not None else {})},
        "in_quarantine": sample.n_quarantined,
        "characters": _lengths(fc.Lengths.of(look.corpus.lengths)),
        "tokens": {
            **_lengths(tokens.lengths),
            "counted": tokens.counted,
            "mean_embedded": round(tokens.mean_embedded, 2),
            "truncated_share": tokens.truncated_share,
            "limit": _limit_tokens(look.fleet),
            "total": found.tokens,
        },
        "rate": {"docs_per_second": round(rate.docs_per_second, 1), "source": rate.source},
        "hours": found.hours,
        "cost": {
            "gpus": gpus,
            "gpu_hours": found.hours * gpus,
            "gpu": found.gpu_cost,
            "api": found.api_cost,
        },
        "bytes": {
            "per_row": round(work.bytes_per_row, 1),
            "dim": rate.dim,
            "cold": found.cold_bytes,
            "cold_while_merging": 2 * found.cold_bytes,
            "hot": found.hot_bytes,
        },
        "files": {"shards": found.shards, "after_merge": found.files},
        "free": free,
        "fits": free["cold"] >= found.cold_bytes and free["hot"] >= found.hot_bytes,
        "notes": [*rate.notes, *_notes(look, tokens, has_vectors=has_vectors)],
    }


def _tokens(look: _Look, tuned: Tuned | None) -> fc.TokenEstimate:
    lengths = look.corpus.lengths
    counted = None
    if look.probed is not None and look.probed.tokens is not None:
        places = np.linspace(0, len(lengths), len(look.probed.tokens), endpoint=False).astype(int)
        counted = list(zip(map(int, lengths[places]), look.probed.tokens, strict=True))
    ratio = float(lengths.mean()) / tuned.tokens_per_document if tuned is not None else DEFAULT_CHARACTERS_PER_TOKEN
    return fc.estimate_tokens(lengths, counted, ratio, _limit_tokens(look.fleet))


def _notes(look: _Look, tokens: fc.TokenEstimate, *, has_vectors: bool) -> list[str]:
    found = []
    if look.sample.no_index is not None:
        found.append(look.sample.no_index)
    if look.sample.size is None:
        found.append("the work queue could not be counted cheaply: the figures are for 1,000,000 documents")
    elif not look.sample.size.is_exact:
        found.append("the size of the work queue is an estimate from a random sample of the collection")
    if look.sample.refused:
        found.append(
            f"{look.sample.n_unusable / look.sample.n_drawn:.2%} of the documents have no usable text "
            f"({by_reason(look.sample.refused)}) and would go into quarantine"
        )
    if look.sample.n_quarantined:
        found.append(
            f"{look.sample.n_quarantined / look.sample.n_drawn:.2%} of the documents are in quarantine already: a run "
            "passes over them"
        )
    if look.probed is not None and look.probed.refused:
        found.append(
            f"the servers refuse some of the texts that were tried ({by_reason(look.probed.refused)}): such documents "
            "would go into quarantine, too"
        )
    if not tokens.counted:
        found.append("no tokenizer counted: tokens follow from characters")
    if not has_vectors:
        found.append("no server gave vectors: bytes are those of random ones")
    return found


def _lengths(lengths: fc.Lengths) -> dict[str, Any]:
    return {"mean": round(lengths.mean, 1), **lengths.percentiles}


def _nothing(config: PlanConfig, sample: QueueSample, refused: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The forecast when there is nothing to embed.

    Args:
        refused: Texts that the servers refuse, by reason, when it is their refusal that leaves nothing.
    """
    return {
        "collection": config.run.namespace,
        "queue": {
            "documents": sample.size.n_rows if sample.size is not None else 0,
            "exact": True,
            "usable_share": 0.0,
            "sampled": sample.n_drawn,
        },
        "documents": 0,
        "unusable": {**sample.refused, **(refused or {})},
        "in_quarantine": sample.n_quarantined,
        "notes": [f"nothing to embed in the work queue of {config.run.namespace}: {_why_nothing(sample, refused)}"],
    }


def _why_nothing(sample: QueueSample, refused: Mapping[str, int] | None) -> str:
    if not sample.n_documents:
        return "the collection is empty or does not exist; check --database and --collection"
    if not sample.n_drawn:
        return "it is empty"
    size = sample.size
    is_all = size is not None and size.is_exact and size.n_rows == sample.n_drawn
    whose = f"none of its {sample.n_drawn:,} documents" if is_all else f"none of {sample.n_drawn:,} that were looked at"
    reasons = Counter(sample.refused) + Counter(refused or {})
    parts = [by_reason(reasons)] if reasons else []
    if sample.n_quarantined:
        parts.append(f"{sample.n_quarantined:,} in quarantine already")
    advice = "`engine quarantine list` shows them"
    if reasons:
        advice = f"`engine run` puts them into quarantine, {advice}"
    else:
        advice += ", `engine quarantine retry` lets them be tried again"
    return f"{whose} can be embedded ({', '.join(parts)}): {advice}"


def by_reason(counts: Mapping[str, int]) -> str:
    """`3 empty, 1 missing`."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items()))


def as_text(figures: dict[str, Any]) -> str:
    """The forecast for a person."""
    lines = [f"{figures['collection']}: {figures['documents']:,} documents to embed"]
    if figures["documents"]:
        lines += [f"{name:<12} {value}" for name, value in _rows(figures)]
    return "\n".join(lines + [f"Note: {note}." for note in figures["notes"]])


def _rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    tokens, cost, size, files, free = (figures[name] for name in ("tokens", "cost", "bytes", "files", "free"))
    how = "counted" if tokens["counted"] else "estimated"
    cut = tokens["truncated_share"]
    rows = [
        ("characters", _spread(figures["characters"])),
        ("tokens", f"{_spread(tokens)} ({how}); {tokens['total']:,} in all"),
        ("cut", f"{cut:.2%} of the texts at {tokens['limit']:,} tokens" if cut is not None else "unknown limit"),
        ("rate", f"{figures['rate']['docs_per_second']:,.1f} documents/s ({figures['rate']['source']})"),
        ("time", f"{duration(figures['hours'] * 3600)} ({figures['hours']:.2f} h)"),
    ]
    prices = []
    if cost["gpu"] is not None:
        prices.append(f"{cost['gpu']:,.2f} for {cost['gpu_hours']:.1f} GPU hours ({cost['gpus']} GPUs)")
    if cost["api"] is not None:
        prices.append(f"{cost['api']:,.2f} at the hosted API")
    if cost["gpu"] and cost["api"] is not None:
        prices.append(f"the API costs {cost['api'] / cost['gpu']:.1f} times as much")
    if prices:
        rows.append(("cost", "; ".join(prices)))
    rows += [
        (
            "cold",
            f"{_size(size['cold'])} ({size['per_row']:,.0f} bytes a row of {size['dim']} dimensions), "
            f"{_size(size['cold_while_merging'])} while merging; free {_size(free['cold'])}",
        ),
        ("hot", f"{_size(size['hot'])}; free {_size(free['hot'])}"),
        ("files", f"{files['shards']:,} shards, {files['after_merge']:,} after merge"),
    ]
    if not figures["fits"]:
        rows.append(("warning", "it does not fit: free space, or name other --hot-dir and --cold-dir"))
    return rows


def _spread(lengths: dict[str, Any]) -> str:
    shares = ", ".join(f"{name} {lengths[name]:,}" for name in ("p50", "p90", "p95", "p99", "max"))
    return f"mean {lengths['mean']:,.0f}, {shares}"


def _size(n_bytes: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:,.0f} {unit}" if unit == "bytes" else f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:,.2f} TiB"
