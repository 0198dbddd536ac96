"""The summary of `engine run` for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.config import RunConfig
from engine.gpus.words import in_words
from engine.telemetry.progress import duration


def as_text(result: dict[str, Any], config: RunConfig) -> str:
    """The summary for a person."""
    latency = result["latency"]
    p50, p95 = latency["p50"], latency["p95"]
    cpu = result["cpu_us_per_document"]
    share = "" if config.source.part is None else f" (share {config.source.part})"
    lines = [
        f"{result['collection']}{share}: {result['embedded']:,} documents embedded in {duration(result['seconds'])} "
        f"({result['docs_per_second']:,.0f}/s, {result['tokens_per_second']:,.0f} tokens/s)",
        f"  read {result['read']:,} = embedded {result['embedded']:,} + quarantined {result['quarantined']:,} "
        f"+ gone {result['gone']:,}; {result['resumed']:,} were there before",
        f"  {result['shards']:,} shards, {result['bytes']:,} bytes in {config.folders.where}",
    ]
    if p50 is not None and p95 is not None:
        lines.append(
            f"  latency p50 {p50:.3f} s, p95 {p95:.3f} s; {result['requests']:,} requests, {result['retries']:,} "
            f"retries, {result['rejected_429']:,} answered 429"
        )
    if result["saved_by_dedup"]:
        share = result["saved_by_dedup"] / max(1, result["embedded"])
        lines.append(f"  {result['saved_by_dedup']:,} documents ({share:.1%}) shared another one's text and its vector")
    lines += [
        f"  node {node['node']}: {node['state']}, {node['documents']:,} documents in {node['parts']:,} parts, "
        f"{node['restarts']} restarts" + (f" ({node['why']})" if "why" in node else "")
        for node in result.get("nodes", ())
    ]
    lines += _of_servers(result["servers"])
    lines += [f"  GPU {gpu['index']} of {gpu['server']}: {in_words(gpu)}" for gpu in result["gpus"] if gpu["server"]]
    if result["truncated"]:
        lines.append(f"  {result['truncated']:,} texts were cut to fit")
    if result["beside_equals"]:
        lines.append(
            f"  up to {result['beside_equals']:,} documents are so long that their vectors may hang on texts of equal "
            "length beside them (docs/servers.md): prove them with `engine verify --level 5`"
        )
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
