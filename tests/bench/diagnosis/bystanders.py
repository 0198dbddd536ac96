"""What others do on this machine meanwhile: a play that they have disturbed proves nothing."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import psutil

EVERY_S = 0.5


class Bystanders:
    """Processors used by processes that are neither this one nor its descendants, looked at in a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._own: dict[int, float] = {}
        self._own_s = 0.0
        self._thread = threading.Thread(target=self._work, name="bystanders", daemon=True)

    def lap(self) -> float:
        """Processors that others have used on average since the last lap."""
        with self._lock:
            self._look()
            all_s, now_s = _all_cpu_s(), time.monotonic()
            others = (all_s - self._all_s - self._own_s) / max(1e-3, now_s - self._since_s)
            self._all_s, self._since_s, self._own_s = all_s, now_s, 0.0
        return max(0.0, others)

    def _look(self) -> None:
        """Add what our own processes have used; the last half second of one that has ended counts as others'."""
        me = psutil.Process()
        now: dict[int, float] = {}
        for process in (me, *me.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            now[process.pid] = times.user + times.system
        self._own_s += sum(max(0.0, spent_s - self._own.get(pid, 0.0)) for pid, spent_s in now.items())
        self._own = now

    def _work(self) -> None:
        while not self._stopping.wait(EVERY_S):
            with self._lock:
                self._look()

    def __enter__(self) -> Bystanders:
        self._look()
        self._own_s = 0.0
        self._all_s, self._since_s = _all_cpu_s(), time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()


def _all_cpu_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)
