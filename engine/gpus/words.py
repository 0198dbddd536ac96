"""The figures of a GPU in words, for people; imports nothing, for every command may want it."""

from __future__ import annotations

from typing import Any


def in_words(gpu: dict[str, Any]) -> str:
    """A GPU's figures of this moment, or of a run, on a few words: `97% busy, 6.0 of 24.0 GiB, 310 W, 71 C`."""
    parts = []
    if gpu["utilization"] is not None:
        parts.append(f"{gpu['utilization']:.0%} busy")
    if gpu["memory_used_bytes"] is not None and gpu["memory_total_bytes"]:
        parts.append(f"{gpu['memory_used_bytes'] / (1 << 30):.1f} of {gpu['memory_total_bytes'] / (1 << 30):.1f} GiB")
    if gpu.get("power_w") is not None:
        limit = f" of {gpu['power_limit_w']:.0f}" if gpu.get("power_limit_w") else ""
        parts.append(f"{gpu['power_w']:.0f}{limit} W")
    if gpu.get("energy_wh"):
        parts.append(f"{gpu['energy_wh']:.1f} Wh")
    if gpu["temperature_c"] is not None:
        parts.append(f"{gpu['temperature_c']} C")
    throttled = gpu["throttled"]
    if throttled:
        reasons = [f"{r} {share:.0%}" for r, share in throttled.items()] if isinstance(throttled, dict) else throttled
        parts.append("throttled: " + ", ".join(reasons))
    return ", ".join(parts) or "says nothing of itself"
