"""The forecast when there is nothing to embed, and why there is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from commands.plan.config import PlanConfig
from commands.plan.figures import documents_without_text
from commands.terminal.phrases import by_reason
from readers.mongo.sample import QueueSample


def nothing_to_embed(
    config: PlanConfig,
    sample: QueueSample,
    *,
    why_none: str | None = None,
    refused: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The forecast when there is nothing to embed.

    Args:
        why_none: Why the queue is empty although nothing was ever marked, None when it is not or something was.
        refused: Texts that the servers refuse, by reason, when it is their refusal that leaves nothing.
    """
    return {
        "collection": config.run.namespace,
        "part": None if config.run.source.part is None else str(config.run.source.part),
        "queue": {
            "documents": sample.size.n_rows if sample.size is not None else 0,
            "exact": True,
            "usable_share": 0.0,
            "sampled": sample.n_drawn,
        },
        "documents": 0,
        "unusable": {**sample.refused, **(refused or {})},
        "in_quarantine": sample.n_quarantined,
        "without_text": documents_without_text(sample),
        "notes": [
            f"nothing to embed in the work queue of {config.run.namespace}: {_why_nothing(sample, why_none, refused)}"
        ],
    }


def _why_nothing(sample: QueueSample, why_none: str | None, refused: Mapping[str, int] | None) -> str:
    if not sample.n_documents:
        return "the collection is empty or does not exist; check --database and --collection"
    if not sample.n_drawn:
        return why_none or "it is empty"
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
