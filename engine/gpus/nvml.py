"""What the GPUs of this machine do at the moment, as NVIDIA's management library (NVML) tells it.

The library's binding (`nvidia-ml-py`, the extra `gpu`) is imported only where a GPU's device file is there and the
binding is installed; everywhere else there are no GPUs in sight and nothing is imported.

Source: NVML API reference, "Device Queries" and "Clocks Event Reasons".
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from engine.gpus.driver import driver_is_here

_log = logging.getLogger("engine.gpus")

_THROTTLES = {
    "nvmlClocksThrottleReasonSwPowerCap": "power cap",
    "nvmlClocksThrottleReasonHwSlowdown": "hardware slowdown",
    "nvmlClocksThrottleReasonSwThermalSlowdown": "heat",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "heat (hardware)",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "power brake",
}
"""Reasons for which a GPU that has work runs slower than it could; to be idle, or set to fixed clocks, is none."""

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSample:
    """One GPU at one moment; None where the GPU or the driver does not say.

    Attributes:
        index: Its number, as `CUDA_VISIBLE_DEVICES` counts with `CUDA_DEVICE_ORDER=PCI_BUS_ID`.
        uuid: Its name for ever.
        name: Its model.
        utilization: Share of the last moments in which it worked, 0 to 1.
        memory_used_bytes, memory_total_bytes: Its memory.
        power_w, power_limit_w: Watts drawn, and allowed.
        clock_mhz: Of its multiprocessors.
        temperature_c: Degrees Celsius.
        throttled: Why it runs slower than it could, in words; empty when it does not.
        pids: Processes that compute on it.
        server: URL of the server that runs on it, None when none does or it is not known.
    """

    index: int
    uuid: str
    name: str
    utilization: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    clock_mhz: int | None = None
    temperature_c: int | None = None
    throttled: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    server: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The sample as JSON values, without the processes."""
        return {
            "index": self.index,
            "uuid": self.uuid,
            "name": self.name,
            "server": self.server,
            "utilization": self.utilization,
            "memory_used_bytes": self.memory_used_bytes,
            "memory_total_bytes": self.memory_total_bytes,
            "power_w": self.power_w,
            "power_limit_w": self.power_limit_w,
            "clock_mhz": self.clock_mhz,
            "temperature_c": self.temperature_c,
            "throttled": list(self.throttled),
        }


def in_sight() -> bool:
    """Whether GPUs of this machine can be seen at all: a driver, its binding, and at least one of them."""
    return bool(_devices())


def why_not_in_sight() -> str | None:
    """Why GPUs that seem to be here cannot be seen, in words; None when there are none, or they can be."""
    if not driver_is_here() or in_sight():
        return None
    if importlib.util.find_spec("pynvml") is None:
        return "this machine has NVIDIA GPUs; `pip install 'embedding-engine[gpu]'` shows what they do"
    return "this machine has NVIDIA GPUs, but their driver does not answer (see `nvidia-smi`)"


def sample_gpus() -> tuple[GpuSample, ...]:
    """Every GPU of this machine at this moment, without its server; empty where none is in sight.

    A call asks the driver, which takes some milliseconds a GPU, and may hang with a GPU that is failing.
    """
    nvml = _library()
    if nvml is None:
        return ()
    return tuple(_sample(nvml, index, handle) for index, handle in enumerate(_devices()))


def forget() -> None:
    """Look for GPUs anew at the next call (tests give themselves others)."""
    _library.cache_clear()
    _devices.cache_clear()


@functools.cache
def _library() -> ModuleType | None:
    """NVML's binding, initialised; None where it or the driver is missing."""
    if not driver_is_here() or importlib.util.find_spec("pynvml") is None:
        return None
    nvml = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        _log.debug("nvml_not_usable error=%s", error)
        return None
    return nvml


@functools.cache
def _devices() -> tuple[Any, ...]:
    """NVML's handle of every GPU."""
    nvml = _library()
    if nvml is None:
        return ()
    count = _asked(nvml, nvml.nvmlDeviceGetCount) or 0
    return tuple(nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count))


def _asked(nvml: ModuleType, question: Callable[..., _Value], *arguments: Any) -> _Value | None:
    """An answer of the library, None where this GPU or driver has none (it raises for each such question)."""
    try:
        return question(*arguments)
    except nvml.NVMLError:
        return None


def _sample(nvml: ModuleType, index: int, handle: Any) -> GpuSample:
    def ask(name: str, *arguments: Any) -> Any:
        return _asked(nvml, getattr(nvml, name), handle, *arguments)

    rates, memory = ask("nvmlDeviceGetUtilizationRates"), ask("nvmlDeviceGetMemoryInfo")
    power_mw, limit_mw = ask("nvmlDeviceGetPowerUsage"), ask("nvmlDeviceGetEnforcedPowerLimit")
    reasons = ask("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
    return GpuSample(
        index=index,
        uuid=_text(ask("nvmlDeviceGetUUID")) or f"GPU-{index}",
        name=_text(ask("nvmlDeviceGetName")) or "GPU",
        utilization=None if rates is None else rates.gpu / 100,
        memory_used_bytes=None if memory is None else int(memory.used),
        memory_total_bytes=None if memory is None else int(memory.total),
        power_w=None if power_mw is None else power_mw / 1000,
        power_limit_w=None if limit_mw is None else limit_mw / 1000,
        clock_mhz=ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        temperature_c=ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        throttled=tuple(words for name, words in _THROTTLES.items() if reasons & getattr(nvml, name)),
        pids=tuple(process.pid for process in ask("nvmlDeviceGetComputeRunningProcesses") or ()),
    )


def _text(value: str | bytes | None) -> str | None:
    """A name; older versions of the binding give bytes."""
    return value.decode() if isinstance(value, bytes) else value
