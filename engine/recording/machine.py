"""What the machine did meanwhile: processors, memory, pressure, free space, and who else was busy on it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from engine.telemetry.bottleneck import MachineCpu

_PROC = Path("/proc")
_PRESSURES = ("cpu", "io", "memory")
_TICKS = os.sysconf("SC_CLK_TCK")
BUSY = 0.85
"""Share of all cores from which on it is of interest who uses them."""
LOOK_EVERY_S = 15.0
_LEAST_CORES = 0.1


class Machine:
    """Levels of the machine between two looks; a figure that it does not give is left out."""

    def __init__(self, folders: dict[str, Path]) -> None:
        """
        Args:
            folders: Whose file systems to ask for free space, by name.
        """
        self._folders = folders
        self._cpu = MachineCpu.now()
        self._waited = _wait_ticks()
        self._stalled = _stalled_us()
        self._looked_s = time.monotonic()

    def look(self) -> dict[str, float]:
        """Levels since the last look."""
        now_s = time.monotonic()
        passed_s, self._looked_s = max(1e-3, now_s - self._looked_s), now_s
        found: dict[str, float] = {}
        busy, cpu = self._cpu.busy_share_since(), MachineCpu.now()
        waited = _wait_ticks()
        if busy is not None:
            found["machine.cpu_busy"] = busy
            found["machine.io_wait"] = (waited - self._waited) / max(1, cpu.total - self._cpu.total)
        self._cpu, self._waited = cpu, waited
        found["machine.load"] = os.getloadavg()[0]
        stalled = _stalled_us()
        for name, microseconds in stalled.items():
            share = (microseconds - self._stalled.get(name, microseconds)) / 1e6 / passed_s
            found[f"machine.pressure_{name}"] = min(1.0, share)
        self._stalled = stalled
        if (free := _available_bytes()) is not None:
            found["machine.memory_free"] = free
        for name, folder in self._folders.items():
            try:
                stats = os.statvfs(folder)
            except OSError:
                continue
            found[f"{name}.free"] = float(stats.f_bavail * stats.f_frsize)
        return found


class BusyProcesses:
    """Names who else uses the processors, when they are busy; our own processes are left out."""

    def __init__(self) -> None:
        self._before: dict[int, float] = {}
        self._looked_s = -LOOK_EVERY_S

    def look(self, busy_share: float) -> list[dict[str, object]] | None:
        """Those since the last look, the busiest first; None when it is not time, or there is nothing to compare."""
        now_s = time.monotonic()
        if busy_share < BUSY or now_s - self._looked_s < LOOK_EVERY_S:
            return None
        passed_s, self._looked_s = now_s - self._looked_s, now_s
        before, names, self._before = self._before, {}, {}
        own = os.getpid()
        for pid, name, parent, cpu_s in _each_process():
            self._before[pid] = cpu_s
            if own not in (pid, parent):
                names[pid] = name
        if not before or passed_s > 4 * LOOK_EVERY_S:
            return None
        cores = {pid: (self._before[pid] - before[pid]) / passed_s for pid in names if pid in before}
        busiest = sorted(cores, key=lambda pid: -cores[pid])[:4]
        return [
            {"pid": pid, "name": names[pid], "cores": round(cores[pid], 2)}
            for pid in busiest
            if cores[pid] >= _LEAST_CORES
        ]


def _each_process() -> list[tuple[int, str, int, float]]:
    """Process id, name, parent and CPU seconds of every process that may be looked at."""
    found = []
    for entry in os.listdir(_PROC) if _PROC.exists() else ():  # noqa: PTH208 - a hundred names, no Path for each
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                head, _, tail = file.read().rpartition(")")
        except OSError:
            continue
        words = tail.split()
        cpu_s = (int(words[11]) + int(words[12])) / _TICKS
        found.append((int(entry), head.partition("(")[2], int(words[1]), cpu_s))
    return found


def _wait_ticks() -> int:
    try:
        with open("/proc/stat", encoding="ascii") as lines:
            return int(lines.readline().split()[5])
    except (OSError, IndexError, ValueError):
        return 0


def _stalled_us() -> dict[str, int]:
    """Microseconds that some task has waited for a resource so far, by resource (Source: Linux, PSI)."""
    found = {}
    for name in _PRESSURES:
        try:
            with open(f"/proc/pressure/{name}", encoding="ascii") as lines:
                found[name] = int(lines.readline().rpartition("total=")[2])
        except (OSError, ValueError):
            continue
    return found


def _available_bytes() -> float | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return float(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
