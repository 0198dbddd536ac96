"""What one bad document costs: the requests of a collection with it, less those of the same collection without.

    python -m bench.measure.client_poison [--documents 100000] [--batch-size 32]

One text that every server answers with an error, whatever it is sent with, among texts that are fine. It is found by
halving, confirmed by a second server between two canaries, and put into quarantine; all others come out.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

from bench.measure.load.client_driver import ClientDriver, cores
from bench.parts import tweets
from bench.standin import GpuConfig, StandinConfig, StandinFleet
from gpu_clients.settings import ClientSettings

N_SERVERS = 4
_POISON = "p01s0n"
_KINDS = ("424", "500", "422", "413", "502")
_GPU = GpuConfig(tokens_per_s=400_000.0)


@dataclass(frozen=True, slots=True)
class RunCost:
    """What one run came to.

    Attributes:
        rows: Vectors that came out.
        quarantined: Documents in quarantine.
        requests: Embedding requests that the servers had, canaries included.
        outs: How often a server was taken out.
    """

    rows: int
    quarantined: int
    requests: int
    outs: int


def run(n_documents: int, batch_size: int, status: str | None) -> RunCost:
    """One pass over the documents; with a `status` the middle one fails with it for ever."""
    texts = [document["text"] for document in tweets.documents(n_documents, retweeted=False)]
    if status is not None:
        texts[n_documents // 2] += f" {_POISON}"
    batches = [texts[at : at + batch_size] for at in range(0, n_documents, batch_size)]
    faults = () if status is None else (f"poison:code={status},contains={_POISON}",)
    config = StandinConfig(
        backend="sim", ports=(0,) * N_SERVERS, max_client_batch_size=batch_size, gpu=_GPU, faults=faults
    )
    with StandinFleet(config) as fleet:
        # the first looks at each server are part of both runs, later ones would depend on how long they take
        settings = ClientSettings(urls=fleet.urls, batch_size=batch_size, canary_every_s=3600.0)
        with ClientDriver(settings, batches, n_slots=24 * N_SERVERS, once=True) as driver:
            interval = driver.run(seconds=300.0, rows=n_documents - (status is not None))
            driver.run(seconds=2.0)  # the last reports, and any request that is still out
            figures = list(driver.reports.values())
            requests = sum(report["embed_requests"] for report in fleet.reports())
    return RunCost(
        interval.rows, sum(each["quarantined"] for each in figures), requests, sum(each["outs"] for each in figures)
    )


def main() -> None:
    """Print one line for each kind of error."""
    parser = argparse.ArgumentParser(description="requests that one bad document costs")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    say = sys.stdout.write
    say(f"{cores()} cores, {N_SERVERS} servers, {options.documents:,} documents, batch {options.batch_size}\n")
    without = run(options.documents, options.batch_size, None)
    say(f"without: {without.rows:,} rows, {without.requests:,} requests\n")
    say(f"{'fails with':<12}{'rows':>9}{'quarantined':>13}{'extra requests':>16}{'servers out':>13}\n")
    for status in _KINDS:
        found = run(options.documents, options.batch_size, status)
        extra = found.requests - without.requests
        say(f"HTTP {status:<7}{found.rows:>9,}{found.quarantined:>13}{extra:>16}{found.outs:>13}\n")


if __name__ == "__main__":
    main()
