"""A seeded model of a run that writes a recording: servers, source, storage and machine with noise, and troubles.

Not a table of answers: the model knows capacities and what limits them, and everything in a sample follows from that.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from engine.recording.history import History
from engine.recording.sampling import Sample

START = 1_790_000_000.0
CORES = 16
_STALL_S = 20.0


@dataclass(slots=True, kw_only=True)
class World:
    """What a run could do at a moment.

    Attributes:
        capacity: Tokens a second of each server.
        up: Whether each is in service, 0 to 1.
        tokens: Tokens a document.
        network: Seconds that an answer of each server is on its way.
        hidden: Whether the windows are large enough to hide `network`.
        pages, cold, hot: Documents a second that MongoDB gives, that cold storage takes, and that commits allow.
        mark: Seconds to mark a thousand documents.
        others: Processors that other processes use.
        rejected: Share of the requests answered 429.
        stalls: Share of the time in which cold storage takes nothing at all, for seconds again and again.
        dawdles: Share of its pace that the engine keeps, for no reason that shows.
    """

    capacity: list[float]
    up: list[float]
    network: list[float]
    tokens: float = 60.0
    pages: float = 40_000.0
    cold: float = 30_000.0
    hot: float = 30_000.0
    mark: float = 0.02
    others: float = 1.0
    rejected: float = 0.0
    stalls: float = 0.0
    dawdles: float = 1.0


Trouble = Callable[[World, random.Random], str]
"""Changes the world; returns the cause."""


def server_slower(world: World, rng: random.Random) -> str:
    """One server."""
    world.capacity[rng.randrange(len(world.capacity))] /= rng.uniform(2.0, 6.0)
    return "server_slower"


def servers_slower(world: World, rng: random.Random) -> str:
    """All of them."""
    factor = rng.uniform(1.3, 3.5)
    world.capacity = [tokens / factor for tokens in world.capacity]
    return "servers_slower"


def server_out(world: World, rng: random.Random) -> str:
    """One of them."""
    world.up[rng.randrange(len(world.up))] = 0.0
    return "server_out"


def longer_texts(world: World, rng: random.Random) -> str:
    """More work a document."""
    world.tokens *= rng.uniform(1.3, 4.0)
    return "longer_texts"


def source_slower(world: World, rng: random.Random) -> str:
    """Pages come more slowly than servers take them."""
    world.pages = sum(world.capacity) / world.tokens / rng.uniform(1.4, 4.0)
    return "source_slower"


def cold_slower(world: World, rng: random.Random) -> str:
    """Cold storage takes less than servers give."""
    world.cold = sum(world.capacity) / world.tokens / rng.uniform(1.4, 4.0)
    return "cold_slower"


def cold_stalls(world: World, rng: random.Random) -> str:
    """Cold storage hangs for seconds, then takes what has waited."""
    world.stalls = rng.uniform(0.5, 0.7)
    return "cold_slower"


def hot_slower(world: World, rng: random.Random) -> str:
    """Commits wait for the ledger's disk."""
    world.hot = sum(world.capacity) / world.tokens / rng.uniform(1.4, 4.0)
    return "hot_slower"


def marks_slower(world: World, rng: random.Random) -> str:
    """Marks cannot follow."""
    world.mark = 1000 / (sum(world.capacity) / world.tokens) * rng.uniform(1.3, 4.0)
    return "marks_slower"


def busy_machine(world: World, rng: random.Random) -> str:
    """Others take the processors, and everything here gets its share of what is left."""
    world.others = float(CORES)
    factor = rng.uniform(1.3, 2.5)
    world.pages, world.cold = world.pages / factor / 4, world.cold / factor
    world.network = [seconds * 3 for seconds in world.network]
    world.capacity = [tokens / factor for tokens in world.capacity]
    return "busy_machine"


def server_overloaded(world: World, rng: random.Random) -> str:
    """Somebody else uses the servers' permits."""
    world.rejected = rng.uniform(0.2, 0.5)
    return "server_overloaded"


TROUBLES: tuple[Trouble, ...] = (
    *(server_slower, servers_slower, server_out, longer_texts, source_slower),
    *(cold_slower, cold_stalls, hot_slower, marks_slower, busy_machine, server_overloaded),
)


@dataclass(kw_only=True)
class Model:
    """A run over some time.

    Attributes:
        every_s: Seconds of a sample.
        noise: Standard deviation of the logarithm of throughput from sample to sample.
        script: Moments, seconds from the start, and what the world is from then on.
        throttled_from: Seconds from the start from which on the first GPU, which is on this machine, is too hot.
    """

    rng: random.Random
    world: World
    every_s: float = 5.0
    noise: float = 0.06
    script: list[tuple[float, World]] = field(default_factory=list)
    throttled_from: float | None = None

    @classmethod
    def of(cls, seed: str, *, n_servers: int = 4, every_s: float = 5.0) -> Model:
        """A run without trouble, all of whose figures come from a seed."""
        rng = random.Random(seed)
        tokens_s = rng.uniform(20_000, 60_000)
        world = World(
            capacity=[tokens_s * rng.uniform(0.8, 1.2) for _ in range(n_servers)],
            up=[1.0] * n_servers,
            network=[rng.uniform(0.002, 0.01) for _ in range(n_servers)],
            tokens=rng.uniform(30, 120),
        )
        return cls(rng=rng, world=world, every_s=every_s, noise=rng.uniform(0.03, 0.12))

    def at(self, second: float, trouble: Trouble) -> str:
        """Let a trouble begin; returns its cause."""
        world = dataclasses.replace(self.world)
        world.capacity, world.up, world.network = list(world.capacity), list(world.up), list(world.network)
        cause = trouble(world, self.rng)
        self.script.append((second, world))
        return cause

    def over(self, second: float) -> None:
        """Let it be as at first again."""
        self.script.append((second, self.world))

    def write(self, folder: Path, seconds: float) -> None:
        """Write the recording."""
        history = History(folder)
        servers = {f"client-{index}": f"http://gpu-{index}:8080" for index in range(len(self.world.capacity))}
        history.note({"at": START, "event": "new_run", "cores": CORES, "version": "0"})
        slow = 0.0
        unmarked = 0.0
        at, world = 0.0, self.world
        script = sorted(self.script, key=lambda item: item[0])
        while at < seconds:
            at += self.every_s
            while script and script[0][0] < at:
                world = script.pop(0)[1]
            slow = 0.5 * slow + self.rng.gauss(0.0, self.noise)
            sample, unmarked = self._sample(world, at, 2.718281828**slow, unmarked)
            history.append(sample, servers)
        history.flush(servers)
        history.close()

    def _sample(self, world: World, at: float, noise: float, unmarked: float) -> tuple[Sample, float]:
        s = self.every_s
        n = len(world.capacity)
        served = sum(c * u for c, u in zip(world.capacity, world.up, strict=True)) / world.tokens * (1 - world.rejected)
        rate = min(served, world.pages, world.cold, world.hot) * world.dawdles
        limit = min(
            ("served", "pages", "cold", "hot"), key=lambda name: served if name == "served" else getattr(world, name)
        )
        stalled = at % _STALL_S < world.stalls * _STALL_S
        if stalled:
            rate, limit = 0.0, "cold"
        rows_s = rate * noise
        rows = rows_s * s
        tiny = self.rng.uniform(0.9, 1.1)
        marked = min(unmarked + rows, 1000 / world.mark * s)
        unmarked += rows - marked
        counts: dict[str, float] = {
            "rows": rows,
            "reader.documents": rows,
            "reader.rows_read": rows,
            "reader.pages": rows / 5000,
            "reader.page_s": s * min(1.0, rate / world.pages) * tiny,
            "reader.characters": rows * world.tokens * 4,
            "reader.source_wait_s": s * (0.95 if limit == "pages" else 0.02) * tiny,
            "reader.ring_wait_s": s * (0.0 if limit == "pages" else 0.7),
            "reader.cpu_s": rows * 5e-6,
            "writer.rows": rows,
            "writer.bytes": rows * 2600,
            "writer.writes": rows / 1000,
            "writer.write_s": s * min(1.0, rate / world.cold) * 0.9 * tiny,
            "writer.fsyncs": s / 20,
            "writer.fsync_s": s * (1.0 if stalled else min(1.0, rate / world.cold) * 0.05 * tiny),
            "writer.cpu_s": rows * 9e-6,
            "hot.fsyncs": s / 10,
            "hot.fsync_s": s * (0.8 if limit == "hot" else 0.001) * tiny,
            "marks.rows": marked,
            "marks.seconds": marked / 1000 * world.mark * tiny,
            "supervisor.cpu_s": 0.01 * s,
        }
        starved, held = 0.9 if limit == "pages" else 0.02, 0.8 if limit in ("cold", "hot") else 0.0
        levels: dict[str, float] = {
            "phase.running": 1.0,
            "unmarked_rows": unmarked,
            "left": 1e8,
            "ring.documents_ready": 0.02 if limit == "pages" else 0.85,
            "ring.vectors_busy": 0.95 if limit in ("cold", "hot") else 0.03,
            "reader.paused": 0.0,
            "machine.cpu_busy": min(1.0, (world.others + 2.0) / CORES) * self.rng.uniform(0.98, 1.0),
            "machine.load": (world.others + 2.0) * (2.0 if world.others >= CORES else 1.0),
            "machine.pressure_cpu": 0.9 if world.others >= CORES else 0.05,
            "machine.pressure_io": 0.02,
            "machine.memory_free": 5e10,
            "hot.free": 1e12,
            "cold.free": 1e13,
        }
        if self.throttled_from is not None:
            levels["gpu-0.throttle_heat"] = float(at > self.throttled_from)
            levels["gpu-0.temperature"] = 91.0 if at > self.throttled_from else 70.0
        total = sum(c * u for c, u in zip(world.capacity, world.up, strict=True)) or 1.0
        for index in range(n):
            share = world.capacity[index] * world.up[index] / total
            mine = rows * share * self.rng.uniform(0.95, 1.05)
            answers = mine / 32
            tokens = mine * world.tokens
            work = tokens / world.capacity[index]
            queue = work * (1.0 if limit == "served" else 0.1)
            prefix = f"client-{index}."
            counts |= {
                f"{prefix}rows": mine,
                f"{prefix}tokens": tokens,
                f"{prefix}answers": answers,
                f"{prefix}requests": answers / (1 - world.rejected),
                f"{prefix}rejected_429": answers / (1 - world.rejected) * world.rejected,
                f"{prefix}inference_s": work,
                f"{prefix}queue_s": queue,
                f"{prefix}tokenization_s": 0.01 * work,
                f"{prefix}latency_s": 1.01 * work + queue + answers * world.network[index],
                f"{prefix}ring_wait_s": s * starved * tiny,
                f"{prefix}vector_wait_s": s * held,
                f"{prefix}cpu_s": mine * 1.5e-5,
                f"{prefix}retries": answers * world.rejected,
            }
            latency = (1.01 * work + queue) / max(answers, 1e-9) + world.network[index]
            levels |= {
                f"{prefix}up": world.up[index],
                f"{prefix}window": 8.0,
                f"{prefix}in_flight": 8.0 * world.up[index],
                f"{prefix}p50": latency,
                f"{prefix}p95": latency * 1.4,
            }
        return Sample(at=START + at, seconds=s, counts=counts, levels=levels), unmarked
