"""Scripted troubles on real parts: each begins midway through a real run, and a report has to name it afterwards.

    python -m tests.bench.diagnosis.troubles one_server_slower --seed 3 --folder DIR

Everything that can vary does, by seed: which server, how much, when, how long the texts are.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymongo

from bench.parts.local_mongod import LocalMongod
from bench.standin import GpuConfig, StandinConfig, StandinFleet
from engine.telemetry.status import read_status
from tests.crash.job import DIM, MODEL, Job, finish, wait_until

OPTIONS = ("--shard-seconds", "1.5", "--batch-size", "16", "--bucketing", "off")
N_SERVERS = 3
SERVERS = StandinConfig(
    backend="sim",
    ports=(0,) * N_SERVERS,
    model_id=MODEL,
    dim=DIM,
    max_batch_tokens=512,
    gpu=GpuConfig(tokens_per_s=5_000.0, fixed_overhead_s=0.002, padded=False),
)
SHORT = dataclasses.replace(SERVERS, max_input_length=16)
"""They cut texts at once, so that long ones are cheap."""
PER_SECOND = 900
"""About what these servers embed; enough documents are there for a run that never runs out of them."""


@dataclass(kw_only=True)
class Scene:
    """A run that is going on, and what trouble can get at.

    Attributes:
        clean_up: Called when the run is over.
    """

    job: Job
    fleet: StandinFleet
    mongod: LocalMongod
    rng: random.Random
    process: subprocess.Popen[str]
    clean_up: list[Callable[[], None]] = field(default_factory=list)

    def fail_point(self, commands: list[str], block_ms: int) -> None:
        """Let the mongod hold the engine's commands up."""
        with pymongo.MongoClient(self.mongod.uri) as client:
            data = {"failCommands": commands, "blockConnection": True, "blockTimeMS": block_ms}
            client.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=data)
        self.clean_up.append(self._heal_mongod)

    def _heal_mongod(self) -> None:
        with pymongo.MongoClient(self.mongod.uri) as client:
            client.admin.command("configureFailPoint", "failCommand", mode="off")


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """One kind of trouble.

    Attributes:
        causes: What a right report may call it.
        begin: Makes it; returns the expected subject, or None when any is right.
        options: Further options of the run.
        environment: Further variables of the run; `{folder}` is the job's.
        texts_grow: Whether texts are longer from some document on.
        wide: Whether they are padded with blanks, so that a page holds few of them.
    """

    causes: frozenset[str]
    begin: Callable[[Scene], str | None]
    options: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    texts_grow: bool = False
    wide: bool = False
    servers: StandinConfig = SERVERS


def nothing(scene: Scene) -> None:
    """A steady run."""


def one_server_slower(scene: Scene) -> str:
    """One server takes several times as long for the same work."""
    server = scene.rng.randrange(N_SERVERS)
    scene.fleet.control(scene.fleet.ports[server], slow_factor=scene.rng.uniform(2.5, 5.0))
    return scene.fleet.urls[server]


def all_servers_slower(scene: Scene) -> None:
    """All do."""
    factor = scene.rng.uniform(1.6, 3.0)
    for port in scene.fleet.ports:
        scene.fleet.control(port, slow_factor=factor)


def server_gone(scene: Scene) -> str:
    """One server answers no more."""
    server = scene.rng.randrange(N_SERVERS)
    scene.fleet.control(scene.fleet.ports[server], faults=["status:code=503"])
    return scene.fleet.urls[server]


def server_flaps(scene: Scene) -> str:
    """One server comes and goes."""
    server = scene.rng.randrange(N_SERVERS)
    scene.fleet.control(scene.fleet.ports[server], faults=["status:code=503,period_s=6,duty=0.6"])
    return scene.fleet.urls[server]


def far_server(scene: Scene) -> str:
    """The packets of one server are delayed: its answers come late, with the server's own times as before."""
    server = scene.rng.randrange(N_SERVERS)
    seconds = scene.rng.uniform(0.8, 1.5)
    scene.fleet.control(scene.fleet.ports[server], faults=[f"delay:s={seconds}"])
    return scene.fleet.urls[server]


def slow_reads(scene: Scene) -> None:
    """MongoDB takes its time for every page."""
    scene.fail_point(["find", "getMore", "aggregate"], int(scene.rng.uniform(2000, 3500)))


def slow_marks(scene: Scene) -> None:
    """MongoDB takes its time for every update."""
    scene.fail_point(["update"], int(scene.rng.uniform(3000, 5000)))


def slow_cold(scene: Scene) -> None:
    """Every write to cold storage takes its time."""
    (scene.job.folder / "slow").touch()


def two_at_once(scene: Scene) -> str:
    """One server is gone and the others are slower."""
    subject = server_gone(scene)
    for port, url in zip(scene.fleet.ports, scene.fleet.urls, strict=True):
        if url != subject:
            scene.fleet.control(port, slow_factor=1.5)
    return subject


SMALL_RING = ("--columns", "classified", "--ring-bytes", "16MiB")
"""Carried columns make slots large, so few of them are there to hide that the writer is slow."""
COLD = (("ENGINE_FAILPOINTS", "writer/durable.write#0=sleep_while:1.0:{folder}/slow"),)
TROUBLES: dict[str, Trouble] = {
    "steady": Trouble(causes=frozenset(), begin=nothing),
    "one_server_slower": Trouble(causes=frozenset({"server_slower"}), begin=one_server_slower),
    "all_servers_slower": Trouble(causes=frozenset({"servers_slower"}), begin=all_servers_slower),
    "server_gone": Trouble(causes=frozenset({"server_out"}), begin=server_gone),
    "server_flaps": Trouble(causes=frozenset({"server_flapping"}), begin=server_flaps),
    "far_server": Trouble(causes=frozenset({"network_slower"}), begin=far_server, options=("--concurrency", "2")),
    "slow_reads": Trouble(causes=frozenset({"source_slower"}), begin=slow_reads, wide=True, servers=SHORT),
    "slow_marks": Trouble(causes=frozenset({"marks_slower"}), begin=slow_marks),
    "slow_cold": Trouble(causes=frozenset({"cold_slower"}), begin=slow_cold, environment=COLD, options=SMALL_RING),
    "longer_texts": Trouble(causes=frozenset({"longer_texts"}), begin=nothing, texts_grow=True),
    "two_at_once": Trouble(causes=frozenset({"server_out", "servers_slower"}), begin=two_at_once),
}


@dataclass(frozen=True, slots=True)
class Played:
    """A run that is over.

    Attributes:
        began_at: When the trouble began, Unix seconds.
        subject: What it was about, or None.
    """

    folder: Path
    began_at: float
    subject: str | None


def documents(n: int, rng: random.Random, longer_from: int | None, blanks: int) -> Iterator[dict[str, Any]]:
    """Documents with texts of 4 to 24 words, four times that from number `longer_from` on."""
    for number in range(n):
        n_words = rng.randrange(4, 25) * (4 if longer_from is not None and number >= longer_from else 1)
        yield {"_id": number, "text": " ".join(["word"] * n_words) + " " * blanks, "classified": False, "lang": "en"}


def play(
    name: str, seed: int, folder: Path, mongod: LocalMongod, fleet: StandinFleet, *, seconds: float = 40.0
) -> Played:
    """Play a trouble against a real run that is stopped so many seconds after its first documents."""
    trouble, rng = TROUBLES[name], random.Random(f"{name} {seed}")
    before_s = seconds * rng.uniform(0.45, 0.55)
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(mongod.uri)
    database = client[f"trouble_{name}_{seed}"]
    environment = {key: value.format(folder=folder) for key, value in trouble.environment}
    job = Job(
        folder=folder,
        uri=mongod.uri,
        database=database,
        urls=fleet.urls,
        options=(*OPTIONS, *trouble.options),
        environment=environment,
    )
    longer_from = int(PER_SECOND * 0.75 * before_s) if trouble.texts_grow else None
    job.insert(list(documents(int(PER_SECOND * 1.6 * seconds), rng, longer_from, 4000 if trouble.wide else 0)))
    process = job.start_run()
    scene = Scene(job=job, fleet=fleet, mongod=mongod, rng=rng, process=process)
    with contextlib.ExitStack() as stack:
        stack.callback(client.close)
        stack.callback(client.drop_database, database.name)
        stack.callback(lambda: [fleet.control(port, clear_faults=True, slow_factor=1.0) for port in fleet.ports])
        wait_until(lambda: _of(job, "embedded_now") > 0, what="the first document", process=process)
        if longer_from is None:
            _let_go_on(process, before_s)
        else:
            wait_until(lambda: _of(job, "embedded_now") >= longer_from, what="the longer texts", process=process)
        began_at = time.time()
        subject = trouble.begin(scene)
        stack.callback(lambda: [undo() for undo in scene.clean_up])
        _let_go_on(process, seconds - before_s)
        process.send_signal(signal.SIGINT)
        ended = finish(process)
        assert ended.code == 130, ended.err[-2000:]
    return Played(job.folders.hot, began_at, subject)


def _let_go_on(process: subprocess.Popen[str], seconds: float) -> None:
    """Let a run go on for that long: it is what the play is about, and nothing can tell when it is enough."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        raise AssertionError(f"the run ended early: {finish(process).err[-2000:]}")


def _of(job: Job, figure: str) -> float:
    return float((read_status(job.folders.status) or {}).get(figure, 0))


def main() -> None:
    """Play one and leave its recording in a folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="+")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    with LocalMongod() as mongod:
        for name in given.names:
            folder = given.folder / f"{name}-{given.seed}"
            folder.mkdir(parents=True)
            with StandinFleet(TROUBLES[name].servers) as fleet:
                played = play(name, given.seed, folder, mongod, fleet, seconds=given.seconds)
            print(name, played.folder, played.began_at, played.subject, flush=True)


if __name__ == "__main__":
    main()
