"""Which server runs on which GPU: from the server's port to the process that listens, and its family.

A server's GPU work may be done by the process that listens (text-embeddings-inference), by a child of it or by a
brother (vLLM). A process inside a container is found when its port is listened to by a process in sight.
"""

from __future__ import annotations

import contextlib
import dataclasses
import urllib.parse
from collections.abc import Sequence

from engine.gpus.nvml import GpuSample, sample_gpus

_HERE = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "")


def gpu_samples(urls: Sequence[str] = ()) -> tuple[GpuSample, ...]:
    """Every GPU of this machine at this moment; empty where none is in sight, and then nothing is imported.

    Args:
        urls: Servers that may run on them; a sample names the one whose process computes there.
    """
    return with_servers(sample_gpus(), urls)


def with_servers(samples: tuple[GpuSample, ...], urls: Sequence[str]) -> tuple[GpuSample, ...]:
    """The samples, each with the server whose process computes on that GPU."""
    if not samples or not any(sample.pids for sample in samples):
        return samples
    families = _families(urls)
    named = []
    for sample in samples:
        owners = [url for url, generations in families.items() if _is_of(generations, sample, samples)]
        named.append(dataclasses.replace(sample, server=owners[0]) if owners else sample)
    return tuple(named)


def _is_of(generations: list[set[int]], sample: GpuSample, samples: tuple[GpuSample, ...]) -> bool:
    """Whether the narrowest family of a server that is on any GPU is on this one."""
    for family in generations:
        if any(family & set(other.pids) for other in samples):
            return bool(family & set(sample.pids))
    return False


def _families(urls: Sequence[str]) -> dict[str, list[set[int]]]:
    """Of each server that listens here: process and descendants, then its parent's, ... each with all descendants."""
    import psutil  # noqa: PLC0415 - only a machine with GPUs pays for it

    ports = {port: url for url in urls if (port := _port_here(url)) is not None}
    listening: dict[str, int] = {}
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.pid and connection.laddr:
                url = ports.get(connection.laddr.port)
                if url is not None:
                    listening[url] = connection.pid
    ours = {psutil.Process().pid, *(parent.pid for parent in psutil.Process().parents())}
    found: dict[str, list[set[int]]] = {}
    for url, pid in listening.items():
        with contextlib.suppress(psutil.Error):
            process: psutil.Process | None = psutil.Process(pid)
            generations: list[set[int]] = []
            found[url] = generations  # what was seen counts, though an ancestor may end while it is looked at
            # a common ancestor of ours and the server's is a shell or init: whatever runs is of its family
            while process is not None and process.pid > 1 and process.pid not in ours:
                generations.append({process.pid, *(child.pid for child in process.children(recursive=True))})
                process = process.parent()
    return found


def _port_here(url: str) -> int | None:
    """The port of a server on this machine, None for one elsewhere."""
    parts = urllib.parse.urlsplit(url)
    if (parts.hostname or "") not in _HERE:
        return None
    return parts.port or (443 if parts.scheme == "https" else 80)
