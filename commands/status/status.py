"""The figures of a run from its folder alone, while it goes on and after a crash."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from engine.config import check_range, check_retweeted, recorded_option
from engine.errors import Exit
from engine.gpus.words import in_words
from engine.ledger.log import RunState
from engine.ledger.quarantine import each_entry
from engine.ledger.runfolder import RunFolders, lock_owner
from engine.telemetry.progress import duration
from engine.telemetry.status import read_status


def collect(
    folders: RunFolders, *, gpu_hour_price: float | None, n_gpus: int | None, retweeted: str | None = None
) -> dict[str, Any]:
    """The figures of a run, from its folder alone; nothing is locked or changed.

    Args:
        retweeted: Which queue is asked about (`engine.records.RETWEETED_VALUES`), None for that of the last run.
            What is left of another queue than the last run read is not known.

    Raises:
        ConfigError: there is no such run, or a price is no price.
        DamageError: the ledger is damaged.
    """
    folders.require_run()
    for name, value, least in (("gpu-hour-price", gpu_hour_price, 0.0), ("gpus", n_gpus, 1)):
        if value is not None:
            check_range(name, value, least)
    if retweeted is not None:
        check_retweeted(retweeted)
    read = recorded_option(folders.config, "retweeted") or "null"
    state = RunState.of(folders.ledger)
    unmarked = [] if (state.run or {}).get("source") else state.unmarked()  # files bear no marks
    live = read_status(folders.status)
    owner = lock_owner(folders.lock)
    running = owner is not None
    reasons = _reasons(folders, live, owner)
    rate = float(live["rate_of_minutes"]) if live and (running or state.stop is None) else _recent_rate(state)
    left = _left(live, state, running) if retweeted in (None, read) else None
    left_s = 0.0 if left == 0 else left / rate if left is not None and rate else None
    servers = n_gpus or len(live["clients"] if live and live["clients"] else []) or 4
    return {
        "run": folders.hot.name,
        "running": running,
        "pid": owner,
        "state": _state(state, live, running),
        "documents": {
            "committed": state.rows,
            "gone": state.gone,
            "marked_shards": len(state.marked),
            "unmarked_shards": len(unmarked),
            "in_open_shard": _open_rows(live) if running else 0,
            "left": left,
        },
        "retweeted": read,
        "part": (state.run or {}).get("part"),
        "rate": round(rate, 1),
        "seconds_left": round(left_s) if left_s is not None else None,
        "cost_left": round(left_s / 3600 * servers * gpu_hour_price, 2)
        if left_s is not None and gpu_hour_price is not None
        else None,
        "shards": len(state.commits),
        "bytes": sum(commit["bytes"] for commit in state.commits.values()),
        "epoch": state.epoch,
        "quarantine": {"documents": reasons.total(), "reasons": dict(reasons)},
        "nodes": live.get("nodes", []) if live else [],
        "gpus": live.get("gpus", []) if live and running else [],
        "fingerprint": state.run["fingerprint"] if state.run else None,
        "last_error": live.get("last_error") if live else None,
        "exit": state.stop["exit"] if state.stop else None,
        "updated_seconds_ago": round(time.time() - live["at"], 1) if live else None,
    }


def _state(state: RunState, live: dict[str, Any] | None, running: bool) -> str:
    if running:
        return str(live["phase"]) if live and live.get("exit") is None else "starting"
    if state.stop is None:
        return "crashed: run the same command again to continue"
    return f"ended with exit code {state.stop['exit']}"


def _reasons(folders: RunFolders, live: dict[str, Any] | None, owner: int | None) -> Counter[str]:
    """Why documents are in quarantine; a run that goes on has counted them, else all of the file is read."""
    if owner is not None and live is not None and live.get("pid") == owner and "quarantine" in live:
        return Counter(live["quarantine"])
    return Counter(entry["reason"] for entry in each_entry(folders.quarantine))


def _left(live: dict[str, Any] | None, state: RunState, running: bool) -> int | None:
    if state.stop is not None and state.stop["exit"] in (Exit.DONE, Exit.QUARANTINED):
        return 0
    if live is None or live.get("left_at_start") is None:
        return None
    lost = 0 if running or state.stop is not None else _open_rows(live)  # a crash gave the open shard up
    return max(0, int(live["left_at_start"]) - int(live["embedded_now"]) + lost)


def _open_rows(live: dict[str, Any] | None) -> int:
    return int(live["writer"].get("open_rows", 0)) if live else 0


def _recent_rate(state: RunState) -> float:
    """Rows a second between the start and the end of the last epoch, 0 when unknown."""
    if state.last_epoch_record is None or state.stop is None:
        return 0.0
    epoch = state.last_epoch_record["epoch"]
    rows = sum(commit["rows"] for commit in state.commits.values() if commit["epoch"] == epoch)
    seconds = float(state.stop["at"]) - float(state.last_epoch_record["at"])
    return rows / seconds if seconds > 0 else 0.0


def as_text(figures: dict[str, Any], hot: Path) -> str:
    """The figures for a person."""
    documents = figures["documents"]
    left = f"{documents['left']:,}" if documents["left"] is not None else "unknown"
    queue = "" if figures["retweeted"] == "null" else f" (the last run read --retweeted {figures['retweeted']})"
    if documents["left"]:
        left += f" at {figures['rate']:,.0f}/s: {duration(figures['seconds_left'])}"
    rows = [
        ("run", f"{figures['run']}  ({hot})"),
        ("state", figures["state"] + (f", process {figures['pid']}" if figures["running"] else "")),
        ("documents", f"{documents['committed']:,} committed, {documents['in_open_shard']:,} in the open shard"),
        ("left", left + queue),
        ("shards", f"{figures['shards']:,}, {figures['bytes']:,} bytes, {documents['unmarked_shards']} not yet marked"),
        ("quarantine", _quarantine_text(figures["quarantine"])),
    ]
    if figures["cost_left"] is not None:
        rows.insert(4, ("cost left", f"{figures['cost_left']:,.2f}"))
    if figures["part"] is not None:
        rows.insert(1, ("share", f"{figures['part']} of the queue"))
    if documents["gone"]:
        rows.append(("gone", f"{documents['gone']:,} were deleted while they were being embedded"))
    for node in figures["nodes"]:
        rows.append(
            (
                "node",
                f"{node['node']}: {node['state']}, {node['documents']:,} documents in {node['parts']:,} parts, "
                f"{node['restarts']} restarts" + (f" ({node['why']})" if "why" in node else ""),
            )
        )
    for gpu in figures["gpus"]:
        if gpu["server"] is not None:
            rows.append((f"GPU {gpu['index']}", f"{in_words(gpu)}  ({gpu['server']})"))
    if figures["last_error"]:
        rows.append(("last error", figures["last_error"]))
    return "\n".join(f"{name:<11} {value}" for name, value in rows)


def _quarantine_text(quarantine: dict[str, Any]) -> str:
    if not quarantine["documents"]:
        return "empty"
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(quarantine["reasons"].items()))
    return f"{quarantine['documents']:,} documents ({reasons})"
