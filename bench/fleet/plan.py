"""The plan of a fleet: for each server its command, its environment, its URL and its log."""

from __future__ import annotations

import os
import shutil
import socket
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bench.fleet.flags import Flags, Place, as_words, defaults
from bench.standin.arguments import to_arguments
from bench.standin.config import BACKENDS, StandinConfig
from engine.errors import ConfigError
from engine.gpus.nvml import GpuSample, sample_gpus
from engine.supervision.interpreter import python

REAL_BACKENDS = ("tei", "vllm")
FIRST_PORT = 18080
HOST = "127.0.0.1"

_BINARIES = {"tei": "text-embeddings-router", "vllm": "vllm"}
_SETTLED_BY_PLACE = {"tei": ("model-id", "hostname", "port"), "vllm": ("model", "host", "port")}


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """What to start.

    Attributes:
        backend: `tei`, `vllm`, or a backend of the stand-in, which serves all ports in one process.
        model: Name or folder of the model; a stand-in needs none.
        gpus: Number of each server's GPU; empty for all that are in sight.
        ports: Port of each server (0: any); empty for 18080 and those that follow.
        binary: The server's program (with `docker`: the container program), None for what is on PATH.
        docker: Image to run it in, None for a plain process.
        flags: Further flags; they go over those that fit model and GPU.
        logs: Folder of the servers' logs.
        start_timeout_s: How long a server may take until it is healthy.
    """

    backend: str
    logs: Path
    model: str | None = None
    gpus: tuple[int, ...] = ()
    ports: tuple[int, ...] = ()
    binary: str | None = None
    docker: str | None = None
    flags: Flags = field(default_factory=dict)
    start_timeout_s: float = 900.0

    def __post_init__(self) -> None:
        """Refuse what cannot be started.

        Raises:
            ConfigError: an unknown backend, no model, or numbers that do not match.
        """
        if self.backend not in (*REAL_BACKENDS, *BACKENDS):
            known = ", ".join((*REAL_BACKENDS, *BACKENDS))
            raise ConfigError(f"--backend is {self.backend!r}; allowed is one of {known}")
        if self.backend in REAL_BACKENDS and not self.model:
            raise ConfigError(f"--backend {self.backend} needs --model: a name on the hub, or a folder")
        if self.gpus and self.ports and len(self.gpus) != len(self.ports):
            raise ConfigError(f"--gpus names {len(self.gpus)} GPUs and --ports {len(self.ports)} ports: one each")
        if self.start_timeout_s <= 0:
            raise ConfigError(f"--start-timeout is {self.start_timeout_s:g}; allowed is more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """One process to start.

    Attributes:
        name: For logs: `18080`.
        ports: Where it answers.
        command: Its words.
        environment: What is added to this process's own.
        log: Its log file.
        gpu: Number of its GPU, or None.
        flags: What it is told, for people.
        container: Program and name by which its container is ended, empty for a plain process.
    """

    name: str
    ports: tuple[int, ...]
    command: tuple[str, ...]
    environment: dict[str, str]
    log: Path
    gpu: int | None = None
    flags: str = ""
    container: tuple[str, ...] = ()

    @property
    def urls(self) -> tuple[str, ...]:
        """Base URL of each port."""
        return tuple(f"http://{HOST}:{port}" for port in self.ports)


def server_specs(plan: FleetPlan) -> tuple[ServerSpec, ...]:
    """Every process of a plan.

    Raises:
        ConfigError: a program is not there, a port is taken, or a GPU is not there.
    """
    gpus = {gpu.index: gpu for gpu in sample_gpus()} if plan.backend in REAL_BACKENDS else {}
    numbers = plan.gpus or _visible(gpus)
    if gpus and (missing := sorted(set(numbers) - set(gpus))):
        raise ConfigError(f"--gpus names {missing[0]}; this machine has {', '.join(map(str, gpus))}")
    ports = plan.ports or tuple(range(FIRST_PORT, FIRST_PORT + max(1, len(numbers))))
    if not plan.gpus and len(numbers) > len(ports):
        numbers = numbers[: len(ports)]
    if numbers and len(ports) != len(numbers):
        raise ConfigError(f"--ports names {len(ports)} ports for {len(numbers)} GPUs; name the GPUs with --gpus")
    ports = _free(ports)
    if plan.backend not in REAL_BACKENDS:
        return (_standin(plan, ports),)
    shared = Counter(numbers)
    specs = []
    for at, port in enumerate(ports):
        number = numbers[at] if numbers else None
        place = Place(
            port=port,
            gpu=number,
            memory_bytes=gpus[number].memory_total_bytes if number in gpus else None,
            n_servers=len(ports),
            n_on_gpu=shared[number] if number is not None else 1,
        )
        specs.append(_real(plan, place))
    return tuple(specs)


def _visible(gpus: dict[int, GpuSample]) -> tuple[int, ...]:
    """GPUs to use when none is named: those that the environment leaves visible, else all."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None and gpus:
        words = [word.strip() for word in named.split(",") if word.strip()]
        return tuple(int(word) for word in words if word.isdigit() and int(word) in gpus)
    return tuple(gpus)


def _free(ports: tuple[int, ...]) -> tuple[int, ...]:
    """The ports, each one free at this moment; 0 becomes a free one.

    Raises:
        ConfigError: somebody listens there already.
    """
    sockets = []
    try:
        for port in ports:
            one = socket.socket()
            sockets.append(one)  # all are held until the last is bound, or two might get the same
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind((HOST, port))
            except (OSError, OverflowError) as error:
                raise ConfigError(
                    f"port {port} cannot be used ({getattr(error, 'strerror', error)}): end what listens there, or "
                    "name other --ports"
                ) from error
        return tuple(one.getsockname()[1] for one in sockets)
    finally:
        for one in sockets:
            one.close()


def _standin(plan: FleetPlan, ports: tuple[int, ...]) -> ServerSpec:
    config = StandinConfig(backend=plan.backend, ports=ports)
    words = [*to_arguments(config), *as_words(plan.flags)]
    return ServerSpec(
        name=str(ports[0]),
        ports=ports,
        command=tuple(python("bench.standin.__main__", *words)),
        environment={"OPENBLAS_NUM_THREADS": "1"},
        log=plan.logs / f"{ports[0]}.log",
        flags=" ".join(words),
    )


def _real(plan: FleetPlan, place: Place) -> ServerSpec:
    model = plan.model or ""
    fitting = {**defaults(plan.backend, model, place), **plan.flags}
    taken = [name for name in _SETTLED_BY_PLACE[plan.backend] if name in plan.flags]
    if taken:
        raise ConfigError(f"--{taken[0]} is settled by --model, --ports and --gpus: leave it out behind `--`")
    environment = {"LOG_LEVEL": os.environ.get("LOG_LEVEL", "warn")} if plan.backend == "tei" else {}
    if place.gpu is not None:
        environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(place.gpu)}
    log = plan.logs / f"{place.port}.log"
    if plan.docker is not None:
        return _container(plan, place, fitting, environment, log)
    words = _words(plan.backend, model, HOST, place.port, fitting)
    return ServerSpec(
        name=str(place.port),
        ports=(place.port,),
        command=(_program(plan.binary or _BINARIES[plan.backend]), *words),
        environment=environment,
        log=log,
        gpu=place.gpu,
        flags=" ".join(words),
    )


def _words(backend: str, model: str, host: str, port: int, flags: Flags) -> list[str]:
    if backend == "tei":
        return [f"--model-id={model}", f"--hostname={host}", f"--port={port}", *as_words(flags)]
    return ["serve", model, f"--host={host}", f"--port={port}", *as_words(flags)]


def _program(name: str) -> str:
    """The full path of a program.

    Raises:
        ConfigError: it is not there.
    """
    found = shutil.which(Path(name).expanduser())
    if found is None:
        raise ConfigError(f"there is no program {name!r}: install it, name it with --binary, or use --docker IMAGE")
    return str(Path(found).resolve()) if os.sep in name else found


def _container(plan: FleetPlan, place: Place, flags: Flags, environment: dict[str, str], log: Path) -> ServerSpec:
    """A container on 127.0.0.1 whose end the container program has to be told: it is no child of that program."""
    program = _program(plan.binary or "docker")
    name = f"engine-{os.getpid()}-{place.port}"
    model, mounts = plan.model or "", []
    if Path(model).is_dir():
        # under its own path: a server's model id is part of the fingerprint, and must not be the same for every model
        model = str(Path(model).resolve())
        mounts = [f"--volume={model}:{model}:ro"]
    cache = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser().resolve()
    inside = {"tei": "/data", "vllm": "/root/.cache/huggingface"}[plan.backend]
    mounts.append(f"--volume={cache / 'hub' if plan.backend == 'tei' else cache}:{inside}")
    words = _words(plan.backend, model, "0.0.0.0", 80, {key: v for key, v in flags.items() if key != "prometheus-port"})
    if plan.backend == "vllm":
        words = words[1:]  # the image's entry point is `vllm serve`
    device = [] if place.gpu is None else [f"--gpus=device={place.gpu}"]
    kept = {key: value for key, value in environment.items() if not key.startswith("CUDA_")}
    return ServerSpec(
        name=str(place.port),
        ports=(place.port,),
        command=(
            *(program, "run", "--rm", f"--name={name}", *device, "--ipc=host", f"--publish={HOST}:{place.port}:80"),
            *mounts,
            *(f"--env={key}={value}" for key, value in kept.items()),
            *("--env=HF_TOKEN", plan.docker or "", *words),
        ),
        environment={},
        log=log,
        gpu=place.gpu,
        flags=" ".join(words),
        container=(program, name),
    )
