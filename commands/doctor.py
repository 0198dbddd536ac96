"""`engine doctor`: what every run asks of the servers before it starts, on its own."""

from __future__ import annotations

from typing import Any

from gpu_clients.doctor import Fleet


def as_dict(fleet: Fleet) -> dict[str, Any]:
    """The findings for a program."""
    return {
        "servers": [
            {
                "url": server.url,
                "reachable": server.reachable,
                "trouble": server.trouble,
                "facts": server.facts.as_dict() if server.facts else None,
                "warnings": list(server.warnings),
            }
            for server in fleet.servers
        ],
        "fingerprint": fleet.fingerprint.as_dict(),
        "batch_size": fleet.batch_size,
        "max_concurrency": fleet.max_concurrency,
        "warnings": list(fleet.warnings),
    }


def as_text(fleet: Fleet) -> str:
    """The findings for a person."""
    lines = []
    for server in fleet.servers:
        facts = server.facts
        if facts is None:
            lines.append(f"{server.url}  down: {server.trouble}")
            continue
        lines.append(
            f"{server.url}  {facts.kind} {facts.version or ''}  {facts.model_id}  {facts.dtype or ''}  "
            f"texts per request <= {facts.max_client_batch_size}, in flight <= {facts.max_concurrent_requests}, "
            f"tokens per text <= {facts.max_input_length}, vectors by {facts.form}"
        )
    lines.append(
        f"one vector space of {fleet.dim} dimensions; batch size {fleet.batch_size}, at most {fleet.max_concurrency} "
        "requests in flight per server"
    )
    lines += [f"warning: {warning}" for warning in fleet.warnings]
    return "\n".join(lines)
