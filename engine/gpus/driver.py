"""Whether an NVIDIA driver is on this machine: a look at two files, which every run can afford."""

from __future__ import annotations

from pathlib import Path

DEVICE_FILES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""One of them is there where the driver is, the second under Windows."""


def driver_is_here() -> bool:
    """Whether a driver is; whether it answers, is another question."""
    return any(path.exists() for path in DEVICE_FILES)
