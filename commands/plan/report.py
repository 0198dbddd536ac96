"""The forecast for a person."""

from __future__ import annotations

from typing import Any

from engine.telemetry.progress import duration


def as_text(figures: dict[str, Any]) -> str:
    """The forecast for a person."""
    share = "" if figures["part"] is None else f" in the share {figures['part']}"
    lines = [f"{figures['collection']}: {figures['documents']:,} documents to embed{share}"]
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
            f"{_size(size['cold_while_merging'])} while merging"
            + (f"; free {_size(free['cold'])}" if free["cold"] is not None else ""),
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
