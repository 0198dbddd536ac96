"""One round of chaos against the real command line, and the oracle that judges it.

Whatever was wrong: every command ends within a stated time, with a known exit code and one sentence; no row is doubled,
no vector another text's; and once the trouble is over, the same command brings everything to its end.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from pymongo import MongoClient

from bench.parts.local_mongod import LocalMongod
from bench.standin import GpuConfig, StandinConfig, StandinFleet
from bench.standin.backends.vectors import text_rows
from engine.errors import Exit
from tests.chaos.trouble import Round, Trouble, draw_round
from tests.crash.job import DIM, DONE, MODEL, SECRET, Ended, Job, plain
from tests.parts import prewarmed_children
from tests.parts.manners import KNOWN, Manners, serving
from tests.parts.poor_disk import mounted

SERVERS = StandinConfig(
    backend="sim",
    ports=(0, 0),
    model_id=MODEL,
    dim=DIM,
    gpu=GpuConfig(tokens_per_s=10_000_000.0, fixed_overhead_s=0.001),
)
MAX_OUTAGE_S = 4.0
MAX_TIME_S = 25.0
BOUND_S = 150.0
"""How long a command may take in all: its own two limits, its stop, and a slow machine's share."""
MAX_RSS_BYTES = 900 << 20
"""Of one process. The rings are 48 MiB each by default, and the documents few."""
ALLOWED = {
    int(code)
    for code in (Exit.DONE, Exit.QUARANTINED, Exit.OUTPUT_DEVICE, Exit.SERVERS, Exit.LIMIT, Exit.SIGINT, Exit.SIGTERM)
}


class Finding(AssertionError):
    """The oracle's no."""


class Chaos:
    """Rounds over one MongoDB and one fleet of servers.

    Attributes:
        counts: How often each trouble was tried, and how commands ended.
    """

    def __init__(self, folder: Path, mongod: LocalMongod, fleet: StandinFleet) -> None:
        self._folder = folder
        self._mongod = mongod
        self._uri = mongod.uri
        self._fleet = fleet
        self.counts: collections.Counter[str] = collections.Counter()

    def play(self, seed: int, number: int) -> None:
        """Play one round.

        Raises:
            Finding: the oracle's no; seed, number and the troubles are in it.
        """
        plan = draw_round(seed, number)
        folder = self._folder / f"round-{number}"
        folder.mkdir()
        said: list[str] = []
        with MongoClient[dict[str, Any]](self._uri) as client:
            database = client[f"chaos_{seed}_{number}_{os.getpid()}"]
            try:
                with self._disk(plan, folder) as disk, self._servers(plan) as urls:
                    job = Job(folder=folder, uri=self._uri, database=database, urls=urls)
                    self._play(plan, dataclasses.replace(job, hot=disk / "hot", cold=disk / "cold"), said)
            except AssertionError as error:
                where = "\n".join(said)
                raise Finding(f"round {plan.name}, options {' '.join(plan.options)}:\n{where}\n{error}") from error
            finally:
                self._calm()
                client.drop_database(database.name)
        shutil.rmtree(folder, ignore_errors=True)
        self.counts["rounds"] += 1

    @contextlib.contextmanager
    def _disk(self, plan: Round, folder: Path) -> Iterator[Path]:
        if plan.disk is None:
            yield folder
            return
        try:
            with mounted(folder / "disk", *plan.disk) as mount:
                self.counts[f"disk {' '.join(plan.disk)}"] += 1
                yield mount
        except PermissionError:
            yield folder

    @contextlib.contextmanager
    def _servers(self, plan: Round) -> Iterator[tuple[str, ...]]:
        """Their URLs."""
        if plan.dialect is None:
            yield self._fleet.urls
            return
        self.counts[f"dialect {plan.dialect}"] += 1
        manners = Manners(**KNOWN[plan.dialect][0], vectors_of=MODEL, dim=DIM)
        base = "" if manners.base in ("", "/v1") else manners.base
        with serving(manners) as one, serving(manners) as two:
            yield one + base, two + base

    def _play(self, plan: Round, job: Job, said: list[str]) -> None:
        if plan.collection:
            self.counts[f"collection {next(iter(plan.collection))}"] += 1
            job.database.create_collection(job.collection, **plan.collection)
        if plan.refused:
            self._refused(plan, job)
            return
        job.insert(plan.documents)
        model = KNOWN[plan.dialect][1].get("model") if plan.dialect is not None else None
        job.options = (*plan.options, "--max-outage", str(MAX_OUTAGE_S), *(("--model", model) if model else ()))
        for troubles in plan.attempts:
            said.append(f"trouble: {troubles}")
            ended = self._attempt(plan, job, troubles)
            said.append(f"exit {ended.code}: {ended.err[-1500:]}")
            self.counts[f"exit {ended.code}"] += 1
            self._judge(plan, job, troubles, ended)
            self._calm()
        self._end(plan, job, said)

    def _attempt(self, plan: Round, job: Job, troubles: list[Trouble]) -> Ended:
        """One run under trouble."""
        self.counts.update(trouble.kind for trouble in troubles)
        faults = [fault for trouble in troubles for fault in trouble.faults]
        for position, port in enumerate(self._fleet.ports):
            mine = [fault.replace(",on=0", "") for fault in faults if position == 0 or ",on=0" not in fault]
            if mine:
                self._fleet.control(port, faults=mine)
        points = ";".join(point for trouble in troubles for point in trouble.failpoints)
        process = job.start_run("--max-time", str(MAX_TIME_S), ENGINE_FAILPOINTS=points)
        power_cuts = []
        for trouble in troubles:
            if trouble.kill == "mongod":
                power_cuts.append(time.monotonic() + trouble.after_s)
            elif trouble.kill is not None:
                threading.Timer(trouble.after_s, _send, (process, trouble.kill, plan.name)).start()

        def meanwhile() -> None:  # in this thread: MongoDB ends with the thread that started it
            if power_cuts and time.monotonic() >= min(power_cuts):
                power_cuts.remove(min(power_cuts))
                self._mongod.kill()
                self._mongod.start()

        return _ended(process, meanwhile)

    def _refused(self, plan: Round, job: Job) -> None:
        """No run can read the collection: each command says so, and leaves nothing behind."""
        base = dataclasses.replace(job, collection="base")
        base.insert(plan.documents)
        for command in (("index",), ("plan",), ("run", *plan.options)):
            ended = job.call(*command)
            _require(ended.code == Exit.USAGE, f"{command[0]}: exit {ended.code}, expected 2: {ended.err[-800:]}")
            complaints = [line for line in ended.err.splitlines() if line.startswith("engine: ")]
            _require(len(complaints) == 1, f"{command[0]}: {len(complaints)} complaints")
        _require(not job.rows(), "a row of a collection that cannot be read")
        _require(not base.database["base"].count_documents({DONE: {"$exists": True}}), "a mark behind a view")

    def _calm(self) -> None:
        for port in self._fleet.ports:
            self._fleet.control(port, clear_faults=True)

    def _judge(self, plan: Round, job: Job, troubles: list[Trouble], ended: Ended) -> None:
        """What must hold after every run, whatever went wrong."""
        kills = {trouble.kill for trouble in troubles}
        if ended.code == -signal.SIGKILL and kills & {"group", "supervisor"}:
            pass  # it has said nothing, and must not have
        elif ended.code == -signal.SIGTERM and "term" in kills:
            _require(not ended.err, "it was ended before it could say anything, and said something")
        else:
            refused = ended.code == Exit.USAGE and any(trouble.kind.startswith("server") for trouble in troubles)
            if refused and "cannot be used: " in ended.err:  # it was ill when the doctor looked: nothing was begun
                self.counts["refused by the doctor"] += 1
            else:
                allowed = ALLOWED | ({int(Exit.MONGODB)} if "mongod" in kills else set())
                _require(ended.code in allowed, f"an exit code that this trouble does not explain: {ended.code}")
            _require("report it" not in ended.err, "a sentence of the user's was an unexpected error")
            complaints = [line for line in ended.err.splitlines() if line.startswith("engine: ")]
            _require(len(complaints) <= 1, f"{len(complaints)} complaints")
        only_texts = all(trouble.only_texts for trouble in troubles)
        _require(not only_texts or ended.code in (0, 3), "single texts kept a run from its end")
        rows = _rows_with_their_vectors(plan, job)
        if plan.mark:
            marked = {plain(one["_id"]) for one in job.database[job.collection].find({DONE: True}, {"_id": 1})}
            _require(marked <= set(rows), f"{len(marked - set(rows))} documents are marked and in no committed row")

    def _end(self, plan: Round, job: Job, said: list[str]) -> None:
        """The trouble is over: the same command ends well, and everything is where it belongs."""
        job.call("quarantine", "retry")
        ended = _ended(job.start_run())
        said.append(f"at the end: exit {ended.code}: {ended.err[-1500:]}")
        expected = Exit.QUARANTINED if plan.unusable else Exit.DONE
        _require(ended.code == expected, f"exit {ended.code} without any trouble; expected {int(expected)}")
        summary = ended.summary
        total = summary["embedded"] + summary["quarantined"] + summary["gone"]
        _require(summary["read"] == total, f"the sum does not agree: {summary}")
        rows = _rows_with_their_vectors(plan, job)
        queue = {plain(one["_id"]) for one in plan.documents if "retweeted" not in one}
        unusable = {plain(identity) for identity in plan.unusable}
        quarantined = {plain(identity) for identity in job.quarantined()}
        _require(quarantined == unusable, f"in quarantine: {quarantined ^ unusable} too many or too few")
        _require(set(rows) == queue - unusable, f"{len(set(rows) ^ (queue - unusable))} rows too many or too few")
        marked = {plain(one["_id"]) for one in job.database[job.collection].find({DONE: True}, {"_id": 1})}
        _require(marked == (set(rows) if plan.mark else set()), "the marks are not those of the rows")
        job.assert_clean()
        if plan.merge:
            if plan.merge_failpoints:
                failed = job.call("merge", "--json", ENGINE_FAILPOINTS=plan.merge_failpoints)
                said.append(f"merge with {plan.merge_failpoints}: exit {failed.code} {failed.err[-800:]}")
                self.counts[f"merge, exit {failed.code}"] += 1
                _require("Traceback" not in failed.err, "a traceback of merge")
                codes = [0, Exit.OUTPUT_DEVICE, -signal.SIGKILL]
                if plan.merge_failpoints.startswith("merge-worker/") and "run the same command again" in failed.err:
                    codes.append(Exit.UNEXPECTED)  # a worker was killed, and the merge says so
                _require(failed.code in codes, f"merge ended with {failed.code}")
            merged = job.call("merge", "--json")
            verified = job.call("verify", "--json", "--level", "4" if plan.mark else "3")
            said.append(f"merge {merged.code} {merged.err[-800:]} verify {verified.code} {verified.out[-800:]}")
            _require((merged.code, verified.code) == (0, 0), "merge or verify")
            self.counts["merged and verified"] += 1


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise Finding(what)


def _rows_with_their_vectors(plan: Round, job: Job) -> dict[Any, Any]:
    """Every committed row by id; none twice, each with the vector of its own text."""
    rows = job.rows()
    texts = {plain(one["_id"]): one.get("text") for one in plan.documents}
    if rows:
        _require(set(rows) <= set(texts), "a row of nobody")
        own = text_rows(MODEL, [texts[key] for key in rows], DIM).astype(np.float32)
        wrong = int((np.abs(np.stack(list(rows.values())) - own).max(axis=1) > 1e-5).sum())
        _require(not wrong, f"{wrong} rows hold another text's vector")
    return rows


def _ended(process: subprocess.Popen[str], meanwhile: Callable[[], None] = lambda: None) -> Ended:
    """Wait for a command within its bound of time; all its processes stay within theirs of memory."""
    peak = 0
    result: list[tuple[str, str]] = []
    reader = threading.Thread(target=lambda: result.append(process.communicate()))
    reader.start()
    deadline = time.monotonic() + BOUND_S
    while reader.is_alive():
        reader.join(0.25)
        meanwhile()
        if time.monotonic() > deadline:
            kill_all(process)
            reader.join()
            raise Finding(f"a command had not ended after {BOUND_S} s: {result[0][1][-2000:]}")
        with contextlib.suppress(psutil.Error):
            me = psutil.Process(process.pid)
            peak = max(peak, *(one.memory_info().rss for one in [me, *me.children()]))
    out, err = result[0]
    _require("Traceback" not in err, err[-3000:])
    _require(SECRET not in out + err, "a secret")
    _require(peak < MAX_RSS_BYTES, f"a process took {peak >> 20} MiB")
    return Ended(process.returncode, out, err)


def kill_all(process: subprocess.Popen[str]) -> None:
    """End a command with its children; they are in a session of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _send(process: subprocess.Popen[str], what: str, name: str) -> None:
    """Kill, stop for a while, or ask to end."""
    with contextlib.suppress(ProcessLookupError, psutil.Error):
        if process.poll() is not None:
            return
        if what == "group":
            os.killpg(process.pid, signal.SIGKILL)
        elif what in ("supervisor", "term"):
            os.kill(process.pid, signal.SIGKILL if what == "supervisor" else signal.SIGTERM)
        elif children := [
            one for one in psutil.Process(process.pid).children() if one.name() != prewarmed_children.NAME
        ]:
            child = random.Random(name).choice(sorted(children, key=lambda one: one.pid))
            if what == "child":
                child.kill()
            else:
                child.suspend()
                time.sleep(1.0)
                child.resume()
