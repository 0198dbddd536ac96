"""The limit of open files of a process: raised to what a run needs, or refused before a server gets the blame."""

from __future__ import annotations

import resource

from engine.errors import EngineError

SPARE = 84
"""Descriptors of a process beside those that grow with the work: rings, queues, modules, MongoDB's connections, and the
34 connections of their own by which a client looks at its server before a shard is named."""
PER_CHILD = 8
"""Descriptors that the supervisor holds for each of its children, while one is started."""


def files_of_run(*, n_servers: int, in_flight: int) -> int:
    """Descriptors that the hungriest process of a run may need: a client, or the supervisor of very many.

    Args:
        n_servers: Servers, each with a client process of its own.
        in_flight: Requests that a client may have in flight; each has a connection.
    """
    return SPARE + max(in_flight, PER_CHILD * n_servers)


def allow_open_files(needed: int) -> int:
    """Raise this process's limit, and that of its children to come, to what is needed; the limit that holds now.

    It never gets lower, and no higher than the hard limit, which only an administrator can raise.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return needed
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


def require_open_files(needed: int) -> None:
    """Raise the limit as `allow_open_files` does, and refuse to go on with less than what is needed.

    Raises:
        EngineError: the hard limit is lower.
    """
    if (allowed := allow_open_files(needed)) < needed:
        raise EngineError(
            f"this process may open {allowed} files and needs up to {needed}: raise the limit (ulimit -Hn, "
            "LimitNOFILE of a service), or lower --concurrency or --max-concurrency"
        )
