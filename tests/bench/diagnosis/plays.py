"""Plays: a real run against real parts, in which a trouble begins midway.

Everything that can vary does, by seed: which server, how much, when, how long the texts are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
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
from readers.mongo.connection import open_client, open_collection
from readers.mongo.index import create_indexes
from tests.bench.diagnosis.bystanders import Bystanders
from tests.crash.job import DIM, DONE, MODEL, Job, finish, wait_until
from tests.parts.gpus import write_gpus
from tests.parts.slow_link import SlowLink

OPTIONS = ("--shard-seconds", "1.5", "--batch-size", "16", "--bucketing", "off", "--ring-bytes", "16MiB")
"""A small ring: what is in it hides from the servers that no more comes, for as long as it lasts."""
N_SERVERS = 3
SERVERS = StandinConfig(
    backend="sim",
    ports=(0,) * N_SERVERS,
    model_id=MODEL,
    dim=DIM,
    max_batch_tokens=512,
    gpu=GpuConfig(tokens_per_s=5_000.0, fixed_overhead_s=0.002, padded=False),
)
LONG = dataclasses.replace(
    SERVERS,
    max_input_length=65_536,
    max_batch_tokens=65_536,
    gpu=dataclasses.replace(SERVERS.gpu, tokens_per_s=300_000.0),
)
"""They take long texts, of which a page holds few, as fast as the others short ones, and cut none."""
REAL = StandinConfig(backend="minilm", ports=(0,) * N_SERVERS, threads=1)
"""They embed with a real model on this machine's processors."""
PER_SECOND = 800
"""About what these servers embed; enough documents are there for a run that never runs out of them."""


def servers_of_a_play(config: StandinConfig = SERVERS) -> StandinFleet:
    """Servers, each in a process of its own; with a real model one process for all."""
    return StandinFleet(config, processes=N_SERVERS if config.backend == "sim" else 1)


@dataclass(kw_only=True)
class Scene:
    """A run that is going on, and what trouble can get at.

    Attributes:
        gpus: What a run with GPUs sees, by server.
        links: What stands between the run and each server; empty without `Trouble.linked`.
        clean_up: What to leave when the run is over.
    """

    job: Job
    fleet: StandinFleet
    mongod: LocalMongod
    rng: random.Random
    process: subprocess.Popen[str]
    links: list[SlowLink] = field(default_factory=list)
    gpus: list[dict[str, Any]] = field(default_factory=list)
    clean_up: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def fail_point(self, commands: list[str], block_ms: int) -> None:
        """Let the mongod hold the engine's commands up."""
        self.clean_up.callback(self._heal_mongod)
        with pymongo.MongoClient(self.mongod.uri) as client:
            data = {"failCommands": commands, "blockConnection": True, "blockTimeMS": block_ms}
            client.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=data)

    def _heal_mongod(self) -> None:
        with pymongo.MongoClient(self.mongod.uri) as client:
            client.admin.command("configureFailPoint", "failCommand", mode="off")

    def control(self, position: int, **orders: Any) -> str:
        """Give orders to a server; returns the URL by which the run knows it."""
        self.fleet.control(self.fleet.ports[position], **orders)
        return self.job.urls[position]

    def raise_flag(self) -> None:
        """Let the fail points that `Trouble.environment` has armed begin to fire."""
        (self.job.folder / "slow").touch()

    def beside(self, *command: str) -> None:
        """Start a process that goes on beside the run."""
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.clean_up.callback(process.wait)
        self.clean_up.callback(process.kill)


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """One kind of trouble.

    Attributes:
        causes: What a right report calls it; several are told by different names that are all right.
        all_of: Whether each of `causes` has to be named, as a cause or beside one.
        begin: Makes it; returns the expected subject, or None when any is right.
        options: Further options of the run.
        environment: Further variables of the run; `{folder}` is the job's.
        growth: Between what and what the words of texts from some document on are, in words of those before.
        blanks: What texts are padded with, so that a page holds few of them.
        linked: Whether a link is between the run and each server.
        has_gpus: Whether the run sees a GPU for each server.
        needs_quiet: Whether nothing is proved on a machine that others have filled before.
        may_pass: Whether a report may say that nothing has changed, as it may cost no throughput.
    """

    causes: frozenset[str]
    begin: Callable[[Scene], str | None]
    all_of: bool = False
    options: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    growth: tuple[float, float] | None = None
    blanks: int = 0
    linked: bool = False
    may_pass: bool = False
    has_gpus: bool = False
    needs_quiet: bool = False
    servers: StandinConfig = SERVERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A run that is over.

    Attributes:
        folder: Its run folder.
        seconds: How long it went on from its first documents.
        began_at: When the trouble began, Unix seconds.
        subject: What it was about, or None.
        others: Processors that were used by what has nothing to do with the play, before and after that.
    """

    folder: Path
    seconds: float
    began_at: float
    subject: str | None
    others: tuple[float, float]


def documents(n: int, rng: random.Random, turn: int | None, growth: float, blanks: int) -> Iterator[dict[str, Any]]:
    """Documents with texts of 8 to 24 words, `growth` times that from number `turn` on."""
    for number in range(n):
        n_words = rng.randrange(8, 25)
        if turn is not None and number >= turn:
            n_words = max(1, round(n_words * growth))
        yield {"_id": number, "text": " ".join(["word"] * n_words) + " " * blanks, "classified": False, "lang": "en"}


def fill(job: Job, found: Iterator[dict[str, Any]]) -> None:
    """Fill the collection and make its indexes, without ever having all of it in memory."""
    while some := list(itertools.islice(found, 5000)):
        job.database[job.collection].insert_many(some)
    with open_client(job.uri) as client:
        create_indexes(open_collection(client, job.database.name, job.collection), DONE)


def play(trouble: Trouble, seed: str, folder: Path, mongod: LocalMongod, fleet: StandinFleet, seconds: float) -> Played:
    """Play a trouble against a real run that is stopped so many seconds after its first documents."""
    rng = random.Random(seed)
    before_s = seconds * rng.uniform(0.45, 0.55)
    with contextlib.ExitStack() as stack:
        client: pymongo.MongoClient[dict[str, Any]] = stack.enter_context(pymongo.MongoClient(mongod.uri))
        database = client["trouble_" + "".join(letter if letter.isalnum() else "_" for letter in seed)]
        stack.callback(client.drop_database, database.name)
        stack.callback(lambda: [fleet.control(port, clear_faults=True, slow_factor=1.0) for port in fleet.ports])
        links = [stack.enter_context(SlowLink(port)) for port in fleet.ports] if trouble.linked else []
        job = Job(
            folder=folder,
            uri=mongod.uri,
            database=database,
            urls=tuple(link.url for link in links) or fleet.urls,
            options=(*OPTIONS, *trouble.options),
            environment={key: value.format(folder=folder) for key, value in trouble.environment},
        )
        gpus = [{"pids": [fleet.pid_of(port)]} for port in fleet.ports] if trouble.has_gpus else []
        if gpus:
            job.module = "tests.parts.gpus"
            job.environment["FAKE_NVML"] = str(write_gpus(folder, *gpus))
        growth = rng.uniform(*trouble.growth) if trouble.growth else 1.0
        turn = int(PER_SECOND * before_s) if trouble.growth else None
        n_documents = int(PER_SECOND * 1.3 * seconds / min(1.0, growth))
        fill(job, documents(n_documents, rng, turn, growth, trouble.blanks))
        process = job.start_run()
        scene = Scene(job=job, fleet=fleet, mongod=mongod, rng=rng, process=process, links=links, gpus=gpus)
        bystanders = stack.enter_context(Bystanders())
        wait_until(lambda: _of(job, "embedded_now") > 0, what="the first document", process=process)
        first_s = time.monotonic()
        if turn is None:
            _let_go_on(process, before_s)
        else:
            wait_until(lambda: _of(job, "embedded_now") >= turn, what="the other texts", process=process)
        began_at, before = time.time(), bystanders.lap()
        with scene.clean_up:
            subject = trouble.begin(scene)
            _let_go_on(process, seconds - before_s)
            after = bystanders.lap()
        process.send_signal(signal.SIGINT)
        ended = finish(process)
        assert ended.code == 130, ended.err[-2000:]
        passed_s = time.monotonic() - first_s
    return Played(folder=job.folders.hot, seconds=passed_s, began_at=began_at, subject=subject, others=(before, after))


def _let_go_on(process: subprocess.Popen[str], seconds: float) -> None:
    """Let a run go on for that long: it is what the play is about, and nothing can tell when it is enough."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        raise AssertionError(f"the run ended early: {finish(process).err[-2000:]}")


def _of(job: Job, figure: str) -> float:
    return float((read_status(job.folders.status) or {}).get(figure, 0))
