"""A generator of trouble: `python -m tests.chaos --minutes N --seed S [--first ROUND]`.

Plays rounds (`tests/chaos/rounds.py`) until the time is up, and goes on after a finding. The last lines say the seed,
how often each trouble was tried, how commands ended, and what was found; a round is played again by
`--seed S --first ROUND --rounds 1`. Exit 1 when there was a finding.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from bench.parts.local_mongod import LocalMongod
from bench.standin import StandinFleet
from tests.chaos.rounds import SERVERS, Chaos, Finding


def main() -> int:
    """Play until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--rounds", type=int, help="at most so many")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    findings: list[str] = []
    ends = time.monotonic() + options.minutes * 60
    number = options.first
    with (
        tempfile.TemporaryDirectory(prefix="engine-chaos-", ignore_cleanup_errors=True) as folder,
        LocalMongod() as mongod,
        StandinFleet(SERVERS) as fleet,
    ):
        chaos = Chaos(Path(folder), mongod, fleet)
        while time.monotonic() < ends and (options.rounds is None or number < options.first + options.rounds):
            started = time.monotonic()
            try:
                chaos.play(options.seed, number)
                print(f"round {number}: right, {time.monotonic() - started:.0f} s", flush=True)
            except Finding as finding:
                findings.append(str(finding))
                print(f"round {number}: FINDING\n{finding}\n", flush=True)
            number += 1
    for name, count in sorted(chaos.counts.items()):
        print(f"{count:6}  {name}")
    print(f"seed {options.seed}, rounds {options.first} to {number - 1}: {len(findings)} findings")
    for text in findings:
        print(f"- {text.splitlines()[0]} {text.splitlines()[-1]}")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
