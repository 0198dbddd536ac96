"""A library with NVML's interface whose GPUs are read from the JSON file that FAKE_NVML names.

A GPU is an object with `pids` and any of the fields below; a field that is null raises as the library does where a
GPU cannot say. A test compares the names and numbers here with those of the real binding.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NVML_TEMPERATURE_GPU = 0
NVML_CLOCK_SM = 1
nvmlClocksThrottleReasonSwPowerCap = 0x4
nvmlClocksThrottleReasonHwSlowdown = 0x8
nvmlClocksThrottleReasonSwThermalSlowdown = 0x20
nvmlClocksThrottleReasonHwThermalSlowdown = 0x40
nvmlClocksThrottleReasonHwPowerBrakeSlowdown = 0x80
NVML_ERROR_NOT_SUPPORTED = 3
NVML_ERROR_DRIVER_NOT_LOADED = 9

_SOUND: dict[str, Any] = {
    "name": "NVIDIA Fake 24GB",
    "utilization": 97,
    "used": 6 << 30,
    "total": 24 << 30,
    "power_mw": 310_000,
    "limit_mw": 350_000,
    "clock_mhz": 1980,
    "temperature": 71,
    "reasons": 0,
    "pids": [],
}


class NVMLError(Exception):
    """What every function raises when it has no answer."""


def _gpus() -> list[dict[str, Any]]:
    file = Path(os.environ.get("FAKE_NVML", ""))
    if not file.is_file():
        raise NVMLError(NVML_ERROR_DRIVER_NOT_LOADED)
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return [{**_SOUND, **gpu} for gpu in found]


def _field(handle: int, name: str) -> Any:
    value = _gpus()[handle][name]
    if value is None:
        raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
    return value


def nvmlInit() -> None:
    _gpus()


def nvmlDeviceGetCount() -> int:
    return len(_gpus())


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    return index


def nvmlDeviceGetUUID(handle: int) -> str:
    return f"GPU-{handle:08d}"


def nvmlDeviceGetName(handle: int) -> str:
    return str(_field(handle, "name"))


def nvmlDeviceGetUtilizationRates(handle: int) -> SimpleNamespace:
    return SimpleNamespace(gpu=_field(handle, "utilization"), memory=50)


def nvmlDeviceGetMemoryInfo(handle: int) -> SimpleNamespace:
    return SimpleNamespace(used=_field(handle, "used"), total=_field(handle, "total"), free=0)


def nvmlDeviceGetPowerUsage(handle: int) -> int:
    return int(_field(handle, "power_mw"))


def nvmlDeviceGetEnforcedPowerLimit(handle: int) -> int:
    return int(_field(handle, "limit_mw"))


def nvmlDeviceGetClockInfo(handle: int, kind: int) -> int:
    assert kind == NVML_CLOCK_SM
    return int(_field(handle, "clock_mhz"))


def nvmlDeviceGetTemperature(handle: int, sensor: int) -> int:
    assert sensor == NVML_TEMPERATURE_GPU
    return int(_field(handle, "temperature"))


def nvmlDeviceGetCurrentClocksThrottleReasons(handle: int) -> int:
    return int(_field(handle, "reasons"))


def nvmlDeviceGetComputeRunningProcesses(handle: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=1 << 30) for pid in _field(handle, "pids")]
