"""The forecast as a dictionary: documents, tokens, hours, cost, bytes and files, and what to know of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench import forecast as fc
from bench.tuner.report.tuned import Tuned
from bench.tuner.search.findings import DEFAULT_CHARACTERS_PER_TOKEN
from commands.plan.config import PlanConfig
from commands.plan.rate import Rate
from commands.plan.samples import PROBE_TEXTS, Samples, limit_tokens
from commands.terminal.phrases import by_reason
from engine.objects.url import ColdUrl
from readers.mongo.sample import QueueSample
from writers.settings import HOT_SHARDS
from writers.shards.schema import ShardSchema


def figures_of(config: PlanConfig, samples: Samples, rate: Rate, tuned: Tuned | None) -> dict[str, Any]:
    """The forecast: what `engine plan --json` prints."""
    run, sample, probed = config.run, samples.queue, samples.probed
    tokens = _tokens(samples, tuned)
    usable_share = len(sample.texts) / sample.n_drawn
    queue = sample.size
    documents = round(queue.n_rows * usable_share) if queue is not None else 1_000_000
    schema = ShardSchema(
        id_type=samples.id_type,
        columns=(),
        dim=rate.dim,
        vector_type=run.sink.vector_type,
        truncated=run.sink.truncated_column,
    )
    has_vectors = probed is not None and len(probed.vectors) >= 2
    vectors = probed.vectors if probed is not None and has_vectors else fc.plain_vectors(PROBE_TEXTS, rate.dim)
    gpus = config.gpus or (len(samples.fleet.servers) if samples.fleet else len(tuned.servers) if tuned else 1)
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
    cold = run.sink.cold_dir
    free = {
        "hot": fc.free_bytes(run.sink.hot_dir),
        "cold": None if isinstance(cold, ColdUrl) else fc.free_bytes(cold),  # a store has no end
    }
    # shards lie on hot until a store has them and their documents are marked
    hot_bytes = found.hot_bytes + (0 if free["cold"] is not None else (HOT_SHARDS + 1) * run.sink.shard_bytes)
    return {
        "collection": run.namespace,
        "part": None if run.source.part is None else str(run.source.part),
        "queue": {
            "documents": queue.n_rows if queue is not None else None,
            "exact": queue.is_exact if queue is not None else False,
            "usable_share": round(usable_share, 6),
            "sampled": sample.n_drawn,
        },
        "documents": documents,
        "unusable": {**sample.refused, **(probed.refused if probed is not None else {})},
        "in_quarantine": sample.n_quarantined,
        "without_text": documents_without_text(sample),
        "characters": _lengths(fc.Lengths.of(samples.corpus.lengths)),
        "tokens": {
            **_lengths(tokens.lengths),
            "counted": tokens.counted,
            "mean_embedded": round(tokens.mean_embedded, 2),
            "truncated_share": tokens.truncated_share,
            "limit": limit_tokens(samples.fleet),
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
            "hot": hot_bytes,
        },
        "files": {"shards": found.shards, "after_merge": found.files},
        "free": free,
        "fits": (free["cold"] is None or free["cold"] >= found.cold_bytes) and (free["hot"] or 0) >= hot_bytes,
        "notes": [*rate.notes, *_notes(samples, tokens, has_vectors=has_vectors)],
    }


def documents_without_text(sample: QueueSample) -> int | None:
    """Documents of the queue that have no text, counted, or from their share of the sample; None when not known."""
    if sample.n_without_text is not None:
        return sample.n_without_text
    if sample.size is None or not sample.n_drawn:
        return None
    refused = sum(sample.refused.get(reason, 0) for reason in ("missing", "not_text", "empty"))
    return round(sample.size.n_rows * refused / sample.n_drawn)


def _tokens(samples: Samples, tuned: Tuned | None) -> fc.TokenEstimate:
    lengths = samples.corpus.lengths
    counted = None
    if samples.probed is not None and samples.probed.tokens is not None:
        places = np.linspace(0, len(lengths), len(samples.probed.tokens), endpoint=False).astype(int)
        counted = list(zip(map(int, lengths[places]), samples.probed.tokens, strict=True))
    ratio = float(lengths.mean()) / tuned.tokens_per_document if tuned is not None else DEFAULT_CHARACTERS_PER_TOKEN
    return fc.estimate_tokens(lengths, counted, ratio, limit_tokens(samples.fleet))


def _notes(samples: Samples, tokens: fc.TokenEstimate, *, has_vectors: bool) -> list[str]:
    queue, probed = samples.queue, samples.probed
    found = []
    if queue.no_index is not None:
        found.append(queue.no_index)
    if queue.size is None:
        found.append("the work queue could not be counted cheaply: the figures are for 1,000,000 documents")
    elif not queue.size.is_exact:
        found.append("the size of the work queue is an estimate from a random sample of the collection")
    without = documents_without_text(queue)
    if without:
        how = "" if queue.n_without_text is not None else "about "
        found.append(f"{how}{without:,} documents of the work queue have no text: a run keeps them in quarantine")
    if queue.refused:
        found.append(
            f"{queue.n_unusable / queue.n_drawn:.2%} of the documents have no usable text "
            f"({by_reason(queue.refused)}) and would go into quarantine"
        )
    if queue.n_quarantined:
        found.append(
            f"{queue.n_quarantined / queue.n_drawn:.2%} of the documents are in quarantine already: a run "
            "passes over them"
        )
    if probed is not None and probed.refused:
        found.append(
            f"the servers refuse some of the texts that were tried ({by_reason(probed.refused)}): such documents "
            "would go into quarantine, too"
        )
    if not tokens.counted:
        found.append("no tokenizer counted: tokens follow from characters")
    if not has_vectors:
        found.append("no server gave vectors: bytes are those of random ones")
    return found


def _lengths(lengths: fc.Lengths) -> dict[str, Any]:
    return {"mean": round(lengths.mean, 1), **lengths.percentiles}
