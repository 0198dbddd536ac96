"""The fixed limits of a run (G5), printed at its start: memory, files, work in flight."""

from __future__ import annotations

from engine.config import RunConfig
from engine.ledger.commits import MAX_UNMARKED_ROWS
from engine.memory.shared_rings import RingSizes
from engine.supervision.open_files import files_of_run
from gpu_clients.servers.doctor import Fleet
from writers.settings import HOT_SHARDS


def open_files(config: RunConfig) -> int:
    """Descriptors that one process of this run may need."""
    servers = config.servers
    return files_of_run(n_servers=len(servers.urls), in_flight=servers.concurrency or servers.max_concurrency)


def limits(config: RunConfig, fleet: Fleet, rings: RingSizes) -> str:
    """The line of the log that says them: memory, work in flight, files that are not committed yet."""
    shard_mib = config.sink.shard_bytes >> 20
    temporaries = f"{2 * shard_mib} MiB"
    if config.folders.url is not None:
        temporaries += f" hot_copies<={HOT_SHARDS * shard_mib} MiB and a shard more"
    return (
        f"limits shared_memory={rings.size_bytes >> 20} MiB "
        f"(documents {rings.n_documents} x {rings.document_bytes >> 10} KiB, "
        f"vectors {rings.n_vectors} x {rings.layout.slot_bytes >> 10} KiB) "
        f"servers={len(config.servers.urls)} batch_size={fleet.batch_size} "
        f"in_flight_per_server<={config.servers.concurrency or config.servers.max_concurrency} "
        f"open_shard<={shard_mib} MiB or {config.sink.shard_seconds:g} s temporaries<={temporaries} "
        f"unmarked_rows<={MAX_UNMARKED_ROWS} open_files<={open_files(config)} each process"
    )
