"""`make troubles`: plays scripted troubles one after the other, and judges what a report makes of each.

    python -m tests.bench.diagnosis [NAME ...] [--seed 1] [--seconds 60] [--tries 3] [--keep DIR]

A run that goes wrong while others on the machine began or ceased to use much of it is played again. Prints a table;
exit 1 when the steady run is not told as steady, or more than a tenth of the troubles are not told right.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from bench.parts.local_mongod import LocalMongod
from bench.standin import StandinFleet
from tests.bench.diagnosis.judging import Judgement, judge
from tests.bench.diagnosis.plays import SERVERS, Played, play, servers_of_a_play
from tests.bench.diagnosis.troubles import TROUBLES

HEAD = "| trouble | seed | told | seconds off | processors of others, before and after | plays | |"


def tried(
    name: str, given: argparse.Namespace, folder: Path, mongod: LocalMongod, fleet: StandinFleet
) -> tuple[Judgement, Played, int]:
    """Play until it is right, or wrong without anybody's doing; how often."""
    trouble = TROUBLES[name]
    for attempt in range(1, given.tries + 1):
        place = folder / f"{name}-{given.seed}-{attempt}"
        place.mkdir(parents=True)
        played = play(trouble, f"{name} {given.seed}", place, mongod, fleet, given.seconds)
        judgement = judge(trouble, played)
        if judgement.is_right or not judgement.is_disturbed:
            break
    return judgement, played, attempt


def row(name: str, seed: int, judgement: Judgement, played: Played, n_plays: int) -> str:
    """A row of the table."""
    told = "; ".join(dict.fromkeys(cause for cause, *_ in judgement.told)) or "nothing"
    off = f"{judgement.told[0][2]:+.0f}" if judgement.told else ""
    before, after = played.others
    verdict = "right" if judgement.is_right else "; ".join(judgement.faults)
    return f"| `{name}` | {seed} | {told} | {off} | {before:.1f}, {after:.1f} | {n_plays} | {verdict} |"


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.diagnosis")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TROUBLES)}; all of them by default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="of a run; its trouble begins about midway")
    parser.add_argument("--tries", type=int, default=3, help="how often one is played that others have disturbed")
    parser.add_argument("--keep", type=Path, help="leave the run folders here")
    given = parser.parse_args()
    if unknown := set(given.names) - set(TROUBLES):
        parser.error(f"no such trouble: {', '.join(sorted(unknown))}")
    folder = given.keep or Path(tempfile.mkdtemp(prefix="engine-troubles-"))
    right: dict[str, bool] = {}
    print(HEAD, "| --- | --- | --- | --- | --- | --- | --- |", sep="\n", flush=True)
    try:
        with LocalMongod() as mongod, servers_of_a_play() as fleet:
            for name in given.names or TROUBLES:
                servers = TROUBLES[name].servers
                with contextlib.nullcontext(fleet) if servers is SERVERS else servers_of_a_play(servers) as chosen:
                    try:
                        judgement, played, n_plays = tried(name, given, folder, mongod, chosen)
                    except AssertionError as error:  # the run ended by itself, or never began
                        right[name] = False
                        print(f"| `{name}` | {given.seed} | | | | | {str(error)[:200]!r} |", flush=True)
                        continue
                if TROUBLES[name].needs_quiet and played.others[0] > 0.5 * (os.cpu_count() or 1):
                    print(
                        f"| `{name}` | {given.seed} | not judged: others had filled this machine | | | | |", flush=True
                    )
                    continue
                right[name] = judgement.is_right
                print(row(name, given.seed, judgement, played, n_plays), flush=True)
    finally:
        if given.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    troubles = {name: is_right for name, is_right in right.items() if name != "steady"}
    print(f"{sum(troubles.values())} of {len(troubles)} told right")
    return 0 if right.get("steady", True) and sum(troubles.values()) >= 0.9 * len(troubles) else 1


if __name__ == "__main__":
    sys.exit(main())
