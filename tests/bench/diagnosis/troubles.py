"""Scripted troubles: what each does to a run, and what a report has to call it."""

from __future__ import annotations

import os
import signal
import sys
import threading

from tests.bench.diagnosis.plays import LONG, N_SERVERS, REAL, Scene, Trouble
from tests.crash.job import roles
from tests.parts.gpus import write_gpus


def nothing(scene: Scene) -> None:
    """A steady run; or one whose texts change by themselves."""


# -- servers ---------------------------------------------------------------------------------------------------


def one_server_slower(scene: Scene) -> str:
    """One server takes several times as long for the same work."""
    return scene.control(scene.rng.randrange(N_SERVERS), slow_factor=scene.rng.uniform(2.5, 5.0))


def all_servers_slower(scene: Scene) -> None:
    """All do."""
    factor = scene.rng.uniform(1.6, 3.0)
    for position in range(N_SERVERS):
        scene.control(position, slow_factor=factor)


def server_gone(scene: Scene) -> str:
    """One server answers no more."""
    return scene.control(scene.rng.randrange(N_SERVERS), faults=["status:code=503"])


def server_refuses(scene: Scene) -> str:
    """One server listens no more; connections to it are refused."""
    return scene.control(scene.rng.randrange(N_SERVERS), faults=["refuse:down_s=3600"])


def server_hangs(scene: Scene) -> str:
    """One server takes requests and answers none of them."""
    return scene.control(scene.rng.randrange(N_SERVERS), faults=["black_hole:at=request"])


def server_flaps(scene: Scene) -> str:
    """One server comes and goes."""
    period_s, duty = scene.rng.uniform(5, 8), scene.rng.uniform(0.5, 0.7)
    faults = [f"status:code=503,period_s={period_s},duty={duty}"]
    return scene.control(scene.rng.randrange(N_SERVERS), faults=faults)


def too_few_permits(scene: Scene) -> None:
    """Somebody else asks the servers, too: they refuse a share of the requests."""
    share = scene.rng.uniform(0.4, 0.6)
    for position in range(N_SERVERS):
        scene.control(position, faults=[f"status:code=429,probability={share}"])


def failing_requests(scene: Scene) -> None:
    """Requests fail now and then, on all servers: so often that a server may be taken out for it."""
    share = scene.rng.uniform(0.25, 0.4)
    for position in range(N_SERVERS):
        scene.control(position, faults=[f"status:code=500,probability={share}"])


def far_server(scene: Scene) -> str:
    """The packets of one server are delayed: its answers come late, with the server's own times as before."""
    position = scene.rng.randrange(N_SERVERS)
    scene.links[position].delay_s = scene.rng.uniform(0.3, 0.6)
    return scene.job.urls[position]


def far_servers(scene: Scene) -> str:
    """Those of all servers are."""
    delay_s = scene.rng.uniform(0.2, 0.5)
    for link in scene.links:
        link.delay_s = delay_s
    return "all servers"


# -- MongoDB, disks, the machine -------------------------------------------------------------------------------


def slow_reads(scene: Scene) -> None:
    """MongoDB takes its time for every page."""
    scene.fail_point(["find", "getMore", "aggregate"], int(scene.rng.uniform(2500, 4000)))


def slow_marks(scene: Scene) -> None:
    """MongoDB takes its time for every update."""
    scene.fail_point(["update"], int(scene.rng.uniform(3000, 5000)))


def slow_disk(scene: Scene) -> None:
    """Every call that the run's fail points are about takes its time from now on."""
    scene.raise_flag()


def busy_processors(scene: Scene) -> None:
    """Somebody computes on this machine, which servers without a GPU need: several processes for every processor."""
    for _ in range((os.cpu_count() or 1) * scene.rng.randrange(3, 5)):
        scene.beside(sys.executable, "-c", "while True: pass")


_THRASH = """
import os, sys
while True:
    for folder, _, names in os.walk(sys.argv[1]):
        for name in names:
            try:
                fd = os.open(os.path.join(folder, name), os.O_RDONLY)
            except OSError:
                continue
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
    fd = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(fd, bytes(16 << 20))
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
"""


def cache_thrash(scene: Scene) -> None:
    """Somebody writes and fsyncs on the same disk without a pause, and pages of mongod's files are thrown away."""
    scene.beside(sys.executable, "-c", _THRASH, str(scene.mongod.folder), str(scene.job.folder / "thrash"))


def hot_gpu(scene: Scene) -> str:
    """The GPU of one server gets too hot, and slow."""
    position = scene.rng.randrange(N_SERVERS)
    scene.control(position, slow_factor=scene.rng.uniform(2.0, 4.0))
    too_hot = {"reasons": 0x20, "temperature": 92, "clock_mhz": 800, "power_mw": 180_000}
    write_gpus(scene.job.folder, *(one | (too_hot if at == position else {}) for at, one in enumerate(scene.gpus)))
    return f"gpu-{position}"


def killed_processes(scene: Scene) -> None:
    """Some process of the run is killed every few seconds."""
    over = threading.Event()

    def kill() -> None:
        for _ in range(4):  # after a fifth within an hour the run gives up
            if over.wait(scene.rng.uniform(5.0, 7.0)):
                return
            children = [pid for role, pid in sorted(roles(scene.process).items()) if role != "supervisor"]
            if children:
                os.kill(scene.rng.choice(children), signal.SIGKILL)

    killing = threading.Thread(target=kill, name="killing", daemon=True)
    killing.start()
    scene.clean_up.callback(killing.join)
    scene.clean_up.callback(over.set)


# -- two at once -----------------------------------------------------------------------------------------------


def gone_and_slower(scene: Scene) -> str:
    """One server is gone and the others are slower."""
    subject = server_gone(scene)
    for position in range(N_SERVERS):
        if scene.job.urls[position] != subject:
            scene.control(position, slow_factor=1.8)
    return subject


def longer_and_slower(scene: Scene) -> str:
    """Texts get longer by themselves, and one server slower."""
    return scene.control(scene.rng.randrange(N_SERVERS), slow_factor=scene.rng.uniform(2.5, 4.0))


def slow_writes(role: str, point: str, seconds: float) -> tuple[tuple[str, str], ...]:
    """The environment that makes a call of a process slow once there is a flag."""
    return (("ENGINE_FAILPOINTS", f"{role}/{point}#0=sleep_while:{seconds}:{{folder}}/slow"),)


def named(*causes: str) -> frozenset[str]:
    """Causes."""
    return frozenset(causes)


SMALL_RING = ("--columns", "classified")
"""Carried columns make slots large, so few of them are there to hide that the writer is slow."""
TROUBLES: dict[str, Trouble] = {
    "steady": Trouble(causes=named(), begin=nothing),
    "one_server_slower": Trouble(causes=named("server_slower"), begin=one_server_slower),
    "all_servers_slower": Trouble(causes=named("servers_slower"), begin=all_servers_slower),
    "server_gone": Trouble(causes=named("server_out"), begin=server_gone),
    "server_refuses": Trouble(causes=named("server_out"), begin=server_refuses),
    "server_hangs": Trouble(causes=named("server_out"), begin=server_hangs),
    "server_flaps": Trouble(causes=named("server_flapping"), begin=server_flaps),
    "too_few_permits": Trouble(causes=named("server_overloaded"), begin=too_few_permits),
    "failing_requests": Trouble(causes=named("server_errors", "server_flapping", "server_out"), begin=failing_requests),
    "far_server": Trouble(
        causes=named("network_slower"), begin=far_server, options=("--concurrency", "2"), linked=True
    ),
    "far_servers": Trouble(
        causes=named("network_slower"), begin=far_servers, options=("--concurrency", "3"), linked=True
    ),
    "longer_texts": Trouble(causes=named("longer_texts"), begin=nothing, growth=(2.0, 4.0)),
    "shorter_texts": Trouble(causes=named("shorter_texts"), begin=nothing, growth=(0.4, 0.6)),
    "slow_reads": Trouble(causes=named("source_slower"), begin=slow_reads, blanks=4000, servers=LONG),
    "slow_marks": Trouble(causes=named("marks_slower"), begin=slow_marks),
    "slow_cold": Trouble(
        causes=named("cold_slower"),
        begin=slow_disk,
        environment=slow_writes("writer", "durable.write", 1.0),
        options=SMALL_RING,
    ),
    "slow_cold_fsync": Trouble(
        causes=named("cold_slower"),
        begin=slow_disk,
        environment=slow_writes("writer", "durable.fsync_file", 10.0),
        options=SMALL_RING,
    ),
    "slow_hot": Trouble(
        causes=named("hot_slower"),
        begin=slow_disk,
        environment=slow_writes("supervisor", "durable.fsync_file", 3.0),
        options=SMALL_RING,
    ),
    "busy_processors": Trouble(causes=named("busy_machine"), begin=busy_processors, servers=REAL, needs_quiet=True),
    "cache_thrash": Trouble(
        causes=named("disk_pressure", "memory_pressure", "source_slower", "marks_slower", "cold_slower", "hot_slower"),
        begin=cache_thrash,
        may_pass=True,
    ),
    "hot_gpu": Trouble(causes=named("gpu_throttled"), begin=hot_gpu, has_gpus=True),
    "killed_processes": Trouble(causes=named("restart"), begin=killed_processes),
    "gone_and_slower": Trouble(causes=named("server_out", "servers_slower"), begin=gone_and_slower, all_of=True),
    "longer_and_slower": Trouble(
        causes=named("longer_texts", "server_slower"), begin=longer_and_slower, growth=(1.6, 2.2), all_of=True
    ),
}
