"""Whether one driver holds a fleet: the lease machine itself, with modelled nodes, in virtual time.

    python -m bench.measure.leases
    python -m bench.measure.leases --nodes 500 --servers 4 --documents 1e9 --rate 100 --failure-every 600
    python -m bench.measure.leases --rate 20 --marks-per-s 50000

No sockets, no files: `engine.leases` decides as it does in a run, its records are framed as the ledger frames them, and
what takes time elsewhere is modelled: embedding, sealing, messages, marks, failures. Nodes are unlike, the estimates of
the cut are wrong as a sample's are, and a failure is by turns a kill that is noticed, a kill that is not, and a node
that is cut off, goes on, and comes back as a zombie. The driver is killed, too.

`lost_s` is the time behind an ideal fleet that has the same failures, embeds nothing twice and pauses never. Processor
time is that of this machine: `machine` of the lease machine, `ledger` of framing all records, COMMIT and MARKED too, as
shares of one core; fsyncs, the transport of messages and marks are not in it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from typing import Any

from bench.measure.load.lease_fleet import Fleet, FleetConfig
from bench.measure.pipeline import machine
from engine.leases.sizing import LeasePolicy

LEASE_RECORDS = ("TOKEN", "LEASE", "DONE", "REVOKED")


def simulate(config: FleetConfig, policy: LeasePolicy | None = None) -> dict[str, Any]:
    """The figures of one run."""
    began = time.thread_time()
    fleet = Fleet(config, policy)
    fleet.run()
    n_committed, n_doubled = fleet.committed.merge()
    seconds, ideal_s = fleet.clock.now, fleet.ideal.seconds
    assert ideal_s is not None  # nobody is faster than the ideal
    counts, n_bytes = fleet.counts, fleet.bytes
    ledger_bytes = sum(n_bytes.values())
    return {
        "seconds": round(seconds),
        "ideal_s": round(ideal_s),
        "lost_s": round(seconds - ideal_s, 1),
        "lost_percent": round(100 * (seconds / ideal_s - 1), 2),
        "documents_per_s": round(config.documents / seconds),
        "lost_documents": config.documents - n_committed,
        "doubled_documents": n_doubled,
        "embedded_again": counts["embedded again"],
        "failures": counts["failures"],
        "zombies": counts["zombies"],
        "refused": counts["refused"],
        "drivers_killed": counts["drivers killed"],
        "leases": counts["LEASE"],
        "revoked": counts["REVOKED"],
        "shards": counts["COMMIT"],
        "ledger": {
            "bytes": ledger_bytes,
            "bytes_of_leases": sum(n_bytes[kind] for kind in LEASE_RECORDS),
            "bytes_of_a_lease": round(n_bytes["LEASE"] / counts["LEASE"]),
            "fsyncs_per_s": round(sum(counts[kind] for kind in n_bytes) / seconds, 1),
            "read_again_s": round(fleet.rebuild_s, 2),
        },
        "messages_per_s": round(counts["messages"] / seconds, 1),
        "cpu_of_one_core": {
            "machine_percent": round(100 * fleet.machine_s / seconds, 3),
            "ledger_percent": round(100 * fleet.ledger_s / seconds, 3),
            "machine_us_a_message": round(1e6 * fleet.machine_s / counts["messages"], 1),
        },
        "simulation_cpu_s": round(time.thread_time() - began, 1),
    }


def main(arguments: list[str]) -> dict[str, Any]:
    """The figures for numbers of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(FleetConfig):
        kind = float if isinstance(field.default, float) else lambda text: int(float(text))
        parser.add_argument("--" + field.name.replace("_", "-"), type=kind, default=field.default)
    for field in dataclasses.fields(LeasePolicy):
        parser.add_argument("--" + field.name.replace("_", "-"), type=type(field.default), default=field.default)
    options = vars(parser.parse_args(arguments))
    config = FleetConfig(**{field.name: options[field.name] for field in dataclasses.fields(FleetConfig)})
    policy = LeasePolicy(**{field.name: options[field.name] for field in dataclasses.fields(LeasePolicy)})
    return {"config": options, "machine": machine(), **simulate(config, policy)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1:]), indent=2) + "\n")
