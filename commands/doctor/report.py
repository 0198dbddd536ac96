"""The doctor's findings, for a program and for a person."""

from __future__ import annotations

from typing import Any

from engine.gpus.nvml import GpuSample, why_not_in_sight
from engine.gpus.words import in_words
from gpu_clients.servers.doctor import Fleet


def as_dict(fleet: Fleet, gpus: tuple[GpuSample, ...] = ()) -> dict[str, Any]:
    """The findings for a program."""
    return {
        "servers": [
            {
                "url": server.url,
                "reachable": server.reachable,
                "trouble": server.trouble,
                "facts": server.facts.as_dict() if server.facts else None,
                "dialect": server.facts.dialect if server.facts else None,
                "warnings": list(server.warnings),
            }
            for server in fleet.servers
        ],
        "fingerprint": fleet.fingerprint.as_dict(),
        "batch_size": fleet.batch_size,
        "max_concurrency": fleet.max_concurrency,
        "pads": fleet.pads,
        "gpus": [gpu.as_dict() for gpu in gpus],
        "warnings": list(fleet.warnings),
    }


def as_text(fleet: Fleet, gpus: tuple[GpuSample, ...] = ()) -> str:
    """The findings for a person."""
    lines = []
    for server in fleet.servers:
        facts = server.facts
        if facts is None:
            lines.append(f"{server.url}  down: {server.trouble}")
            continue
        identity = (facts.kind, facts.version, facts.model_id, facts.dtype, facts.pooling)
        lines.append("  ".join([server.url, *(part for part in identity if part)]))
        limits = [
            f"{name} <= {limit:,}"
            for name, limit in (
                ("texts per request", facts.max_client_batch_size),
                ("texts in flight", facts.max_concurrent_requests),
                ("tokens per text", facts.max_input_length),
                ("tokens per GPU batch", facts.max_batch_tokens),
            )
            if limit is not None
        ]
        if facts.default_prompt:
            lines.append(f"  puts {facts.default_prompt!r} before every text by itself")
        lines += [
            f"  GPU {gpu.index} ({gpu.name}): {in_words(gpu.as_dict())}" for gpu in gpus if gpu.server == server.url
        ]
        lines.append("  " + ", ".join([*limits, f"vectors as {facts.form or 'JSON numbers'}"]))
    lines.append(
        f"one vector space of {fleet.dim} dimensions; batch size {fleet.batch_size}, at most {fleet.max_concurrency} "
        "requests in flight per server"
    )
    lines.append(_PADDING[fleet.pads])
    lines += [f"warning: {warning}" for warning in (*fleet.warnings, *gpu_warnings(gpus))]
    return "\n".join(lines)


def gpu_warnings(gpus: tuple[GpuSample, ...]) -> list[str]:
    """What the GPUs themselves say against a run, one sentence each."""
    found = [
        f"GPU {gpu.index} of {gpu.server} runs slower than it could ({', '.join(gpu.throttled)}): look at its cooling "
        "and its power limit"
        for gpu in gpus
        if gpu.server is not None and gpu.throttled
    ]
    found += [
        f"{len(gpu.pids)} processes compute on GPU {gpu.index} of {gpu.server}: they share its time and memory"
        for gpu in gpus
        if gpu.server is not None and len(gpu.pids) > 1
    ]
    blind = why_not_in_sight()
    return [*found, blind] if blind is not None else found


_PADDING = {
    True: "GPU batches are padded (measured): requests of like length pay, and are on",
    False: "GPU batches are not padded (measured): requests of like length would gain nothing, and are off",
    None: "whether GPU batches are padded cannot be told from outside: requests of like length are on",
}
