"""What the adaptive window brings, beside the best fixed number of requests that holds the target, in virtual time.

    python -m bench.measure.tuning.window_in_model [--only NAME]

Modelled servers whose GPU batches hold 4, 8, 16 or any number of texts: fast, slow, and deep (much that a GPU batch
costs whatever is in it), padded and not, at two distances; real tweets, sorted by length and back. The targets lie a
tenth above what 1, 2, 3 and 5 requests in flight need, so that each is a different window's; and there is none.
*Share* is of the best number that holds the target, *clear* of the best one that does so by 2%.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.measure.load.modelled_window import ModelledClients, Used, Way, best_fixed
from bench.parts import tweets
from bench.standin import GpuConfig, StandinConfig
from bench.standin.backends.capacity import capacity, token_counts

BATCH = 32
WINDOW_TEXTS = 4_096
NUMBERS = (1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 15)
"""Fixed numbers of requests to compare with; 15 of 32 texts are all that 512 permits admit."""
TIGHT = (1, 2, 3, 5)
CLEAR = 0.98
"""Share of the target within which a number holds it clearly: of 1,000 answers 50 may be late, give or take 7."""
WARM_UP_REQUESTS, REQUESTS = 1_200, 3_000
"""Each server answers about so many before and while it is looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowCase:
    """Servers and the way to them.

    Attributes:
        name: What is printed and what `--only` takes.
    """

    name: str
    servers: StandinConfig
    way: Way

    def clients(self, texts: Sequence[str], target_p95_s: float | None = None) -> ModelledClients:
        """Clients that adapt."""
        counts = token_counts(texts, self.servers)
        up = [counts[at : at + BATCH] for at in range(0, len(counts), BATCH)]
        return ModelledClients(
            config=self.servers, requests=up + up[::-1], batch_texts=BATCH, target_p95_s=target_p95_s, way=self.way
        )

    def seconds(self, texts: Sequence[str], requests: int) -> float:
        """What the slowest server takes for so many requests, about."""
        return requests * BATCH / capacity(texts, self.servers, speed=min(self.servers.speeds)).texts_per_s


def server(
    *,
    rate: float,
    overhead_s: float,
    padded: bool,
    most: int | None = None,
    permits: int = 512,
    speeds: tuple[float, ...] = (1.0,),
) -> StandinConfig:
    """Servers of so many tokens a second, whose GPU batches hold `most` texts."""
    return StandinConfig(
        backend="sim",
        ports=(0,) * len(speeds),
        speeds=speeds,
        max_batch_requests=most,
        max_concurrent_requests=permits,
        gpu=GpuConfig(tokens_per_s=rate, fixed_overhead_s=overhead_s, padded=padded),
    )


def cases() -> Iterator[WindowCase]:
    """All of them."""
    for most in (4, 8, 16, None):
        for pace, rate, overhead_s in (("fast", 60_000.0, 0.0005), ("slow", 3_000.0, 0.002), ("deep", 100_000.0, 0.05)):
            for padded in (False, True):
                for away_s in (0.003, 0.02):
                    servers = server(rate=rate, overhead_s=overhead_s, padded=padded, most=most)
                    name = f"{most or 'any'}, {pace}{', padded' if padded else ''}, {1000 * away_s:g} ms"
                    yield WindowCase(name=name, servers=servers, way=Way(away_s=away_s))
    for permits in (64, 100):
        servers = server(rate=40_000.0, overhead_s=0.002, padded=True, permits=permits)
        yield WindowCase(name=f"{permits} permits", servers=servers, way=Way())
    servers = server(rate=20_000.0, overhead_s=0.002, padded=True, speeds=(1.0, 1.0, 2.0, 4.0))
    yield WindowCase(name="speeds 1:1:2:4", servers=servers, way=Way())
    servers = server(rate=40_000.0, overhead_s=0.002, padded=True)
    yield WindowCase(name="no account of its time", servers=servers, way=Way(accounts=False))


@dataclass(frozen=True, slots=True)
class Compared:
    """A window beside the best fixed number of requests.

    Attributes:
        target_p95_s: The target that both hold, or None.
        best: The number of requests.
        fixed, adapted: What each has brought.
        clear_per_s: Tokens a second of the best number that keeps `CLEAR` of the target.
    """

    target_p95_s: float | None
    best: int
    fixed: Used
    adapted: Used
    clear_per_s: float

    @property
    def share(self) -> float:
        """Of the best, what adapting brings."""
        return self.adapted.tokens_per_s / self.fixed.tokens_per_s

    @property
    def clear_share(self) -> float:
        """The same of the best number that holds the target by what can be told of a percentile while it is adapted."""
        return self.adapted.tokens_per_s / self.clear_per_s

    @property
    def lateness(self) -> float:
        """The 95th percentile as a share of the target; 0 without one."""
        return self.adapted.p95_s / self.target_p95_s if self.target_p95_s else 0.0


def compare(
    case: WindowCase,
    texts: Sequence[str],
    tight: Sequence[int] = TIGHT,
    numbers: Sequence[int] = NUMBERS,
    requests: int = REQUESTS,
) -> list[Compared]:
    """Adapt without a target, and with a target a tenth above what each number of `tight` needs."""
    warm_up_s, seconds = case.seconds(texts, WARM_UP_REQUESTS), case.seconds(texts, requests)
    least = requests * len(case.servers.ports)  # few in flight at a time take longer than a server that is full
    clients = case.clients(texts)
    of_number = {
        number: used
        for number in numbers
        if (found := best_fixed(clients, (number,), warm_up_s=warm_up_s, seconds=seconds, requests=least)) is not None
        for _, used in (found,)
    }
    compared = []
    for target_p95_s in (*(1.1 * of_number[number].p95_s for number in tight if number in of_number), None):
        holding = {n: used for n, used in of_number.items() if target_p95_s is None or used.p95_s <= target_p95_s}
        best = max(holding, key=lambda number: holding[number].tokens_per_s)
        adapting = dataclasses.replace(clients, target_p95_s=target_p95_s)
        clear = (u.tokens_per_s for u in holding.values() if target_p95_s is None or u.p95_s <= CLEAR * target_p95_s)
        used = adapting.run(warm_up_s=warm_up_s, seconds=seconds, requests=least)
        compared.append(Compared(target_p95_s, best, holding[best], used, max(clear)))
    return compared


def window_texts() -> list[str]:
    """Texts as a reader hands them on: a window of tweets, sorted by length."""
    return sorted(tweets.texts()[:WINDOW_TEXTS], key=len)


def main() -> None:
    """Print a line for each server and target."""
    parser = argparse.ArgumentParser(description="the adaptive window beside the best fixed number of requests")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    say = sys.stdout.write
    texts = window_texts()
    say(f"{'GPU batches of, server, away':<32}{'target s':>9}{'best':>6}{'window':>8}{'share':>8}{'clear':>8}")
    say(f"{'p95/target':>14}\n")
    shares, clear_shares, lateness = [], [], []
    for case in cases():
        if options.only not in case.name:
            continue
        for found in compare(case, texts):
            shares.append(found.share)
            clear_shares.append(found.clear_share)
            lateness.append(found.lateness)
            target = f"{found.target_p95_s:.3f}" if found.target_p95_s else "-"
            say(f"{case.name:<32}{target:>9}{found.best:>6}{min(found.adapted.windows):>8.1f}{found.share:>8.1%}")
            say(f"{found.clear_share:>8.1%}")
            say(f"{found.lateness:>14.2f}\n" if found.target_p95_s else f"{'-':>14}\n")
            sys.stdout.flush()
    say(f"least share {min(shares):.1%} of {len(shares)}, of the best that keeps {CLEAR:.0%} of the target ")
    say(f"{min(clear_shares):.1%}; highest p95 {max(lateness):.2f} of the target\n")


if __name__ == "__main__":
    main()
