"""The doctor's findings, for a program and for a person."""

from __future__ import annotations

from typing import Any

from engine.gpus.nvml import GpuSample, why_not_in_sight
from engine.gpus.words import in_words
from gpu_clients.servers.doctor import Fleet, ServerReport
from gpu_clients.vectors.decode import AnswerForm


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
                "form": _form(server) if server.facts else None,
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
        "advice": advice(fleet),
    }


def as_text(fleet: Fleet, gpus: tuple[GpuSample, ...] = ()) -> str:
    """The findings for a person."""
    lines = []
    for server in fleet.servers:
        facts = server.facts
        if facts is None:
            lines.append(f"{server.url}  down: {server.trouble}")
            continue
        identity = (facts.software or facts.kind, facts.version, facts.model_id, facts.dtype, facts.pooling)
        lines.append("  ".join([server.url, *(part for part in identity if part)]))
        limits = [
            f"{name} <= {limit:,}"
            for name, limit in (
                ("texts per request", facts.max_client_batch_size),
                ("texts in flight", facts.max_concurrent_requests),
                ("tokens per text", facts.max_input_length),
                ("tokens per GPU batch", facts.max_batch_tokens),
                ("texts per GPU batch", facts.max_batch_requests),
            )
            if limit is not None
        ]
        if facts.default_prompt:
            lines.append(f"  puts {facts.default_prompt!r} before every text by itself")
        lines += [
            f"  GPU {gpu.index} ({gpu.name}): {in_words(gpu.as_dict())}" for gpu in gpus if gpu.server == server.url
        ]
        lines.append("  " + ", ".join([*limits, f"vectors as {_form(server)}"]))
    lines.append(
        f"one vector space of {fleet.dim} dimensions; batch size {fleet.batch_size}, at most {fleet.max_concurrency} "
        "requests in flight per server"
    )
    lines.append(_PADDING[fleet.pads])
    lines += [f"warning: {warning}" for warning in (*fleet.warnings, *gpu_warnings(gpus))]
    lines += [f"advice: {sentence}" for sentence in advice(fleet)]
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


def advice(fleet: Fleet) -> list[str]:
    """What would make these servers faster, as far as it is known without trying."""
    sentences = []
    examinations = [(server.url, server.examination) for server in fleet.servers if server.examination is not None]
    if any(e.facts.kind == "tei" and "gemma" in e.facts.model_id.lower() for _, e in examinations):
        sentences.append(
            "TEI runs Gemma models in float32, padded and without flash attention; vLLM serves them in bfloat16 with "
            "it, which may be much faster on a GPU: compare rates and vectors with "
            "`engine bench --tei-urls URLS-OF-TEI --against URLS-OF-VLLM`"
        )
    for url, examination in examinations:
        cost = examination.frontend
        if cost is not None and cost.is_the_limit:
            sentences.append(
                f"{url}: its HTTP side takes {cost.http_s * 1e6:,.0f} us for a text, the model "
                f"{cost.model_s * 1e6:,.0f} us for a sentence: start vLLM with --api-server-count 4 or so, or more "
                "servers"
            )
    return sentences


def _form(server: ServerReport) -> str:
    """How a run with these options will get its vectors."""
    route = server.examination.route if server.examination else None
    return "JSON numbers" if route is None or route.form in _JSON_NUMBERS else route.form.value


_JSON_NUMBERS = (AnswerForm.OPENAI_FLOATS, AnswerForm.NATIVE_FLOATS)
_PADDING = {
    True: "GPU batches are padded (measured): requests of like length pay, and are on",
    False: "GPU batches are not padded (measured): requests of like length would gain nothing, and are off",
    None: "whether GPU batches are padded cannot be told from outside: requests of like length are on",
}
