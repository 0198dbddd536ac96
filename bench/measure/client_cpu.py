"""What a document costs a client in CPU time: this engine's client beside what people write with other libraries.

    python -m bench.measure.client_cpu [--batch-sizes 32,128] [--documents 60000]
    python -m bench.measure.client_cpu --forms     # this client alone: base64 beside the raw bytes of vLLM

Every contender asks one stand-in server that answers at once (its CPU time is not counted) for the vectors of real
tweets, over a kept-alive connection, and ends with a float32 matrix. The others get their best case: one thread, no
retries, no checks; Baseten's client (Rust, threads of its own) is asked for eight batches at a time. This engine's line
"in processes" is the whole of four client processes with rings, checks, window and reports. Libraries that are not
installed are left out: `pip install requests httpx aiohttp pycurl openai baseten-performance-client` brings them all.
"""

from __future__ import annotations

import argparse
import dataclasses
import http.client
import importlib
import importlib.util
import io
import itertools
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pybase64

from bench.measure.load.client_driver import ClientDriver, cores
from bench.parts import tweets
from bench.standin import Dialect, StandinConfig, StandinFleet
from gpu_clients.http.address import Address
from gpu_clients.http.client import HttpClient
from gpu_clients.http.polling import Poller
from gpu_clients.servers.doctor import examine
from gpu_clients.servers.requester import Requester
from gpu_clients.servers.routes import choose_route
from gpu_clients.settings import ClientSettings
from gpu_clients.vectors.decode import AnswerForm, Matrix

Ask = Callable[[bytes], Matrix]
_HEADERS = {"Content-Type": "application/json"}
N_CLIENTS = 4


@dataclass(frozen=True, slots=True)
class ClientCost:
    """One row of the table: microseconds of CPU and documents per second."""

    name: str
    cpu_us: float
    rate: float


def from_json_floats(body: bytes) -> Matrix:
    """The matrix of a native answer."""
    return np.array(orjson.loads(body), dtype=np.float32)


def from_base64(body: bytes) -> Matrix:
    """The matrix of an OpenAI answer in base64, decoded row by row."""
    rows = [pybase64.b64decode(item["embedding"]) for item in orjson.loads(body)["data"]]
    return np.frombuffer(b"".join(rows), dtype="<f4").reshape(len(rows), -1)


@contextmanager
def over_requests(url: str, path: str, decode: Callable[[bytes], Matrix]) -> Iterator[Ask]:
    """`requests` with a session."""
    requests = importlib.import_module("requests")
    with requests.Session() as session:
        yield lambda body: decode(session.post(url + path, data=body, headers=_HEADERS).content)


@contextmanager
def over_urllib3(url: str, path: str, decode: Callable[[bytes], Matrix]) -> Iterator[Ask]:
    """`urllib3` with a pool."""
    urllib3 = importlib.import_module("urllib3")
    with urllib3.PoolManager() as pool:
        yield lambda body: decode(pool.request("POST", url + path, body=body, headers=_HEADERS).data)


@contextmanager
def over_http_client(url: str, path: str, decode: Callable[[bytes], Matrix]) -> Iterator[Ask]:
    """The standard library's `http.client`."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"))

    def ask(body: bytes) -> Matrix:
        connection.request("POST", path, body, _HEADERS)
        return decode(connection.getresponse().read())

    yield ask
    connection.close()


def over_httpx(module: str) -> Callable[[str, str, Callable[[bytes], Matrix]], Any]:
    """`httpx`, or a library with its interface."""

    @contextmanager
    def over(url: str, path: str, decode: Callable[[bytes], Matrix]) -> Iterator[Ask]:
        library = importlib.import_module(module)
        with library.Client() as client:
            yield lambda body: decode(client.post(url + path, content=body, headers=_HEADERS).content)

    return over


@contextmanager
def over_aiohttp(url: str, path: str, decode: Callable[[bytes], Matrix]) -> Iterator[Ask]:
    """`aiohttp`, one request at a time."""
    asyncio, aiohttp = importlib.import_module("asyncio"), importlib.import_module("aiohttp")
    loop = asyncio.new_event_loop()

    async def opened() -> Any:
        return aiohttp.ClientSession()

    session = loop.run_until_complete(opened())

    async def fetch(body: bytes) -> bytes:
        async with session.post(url + path, data=body, headers=_HEADERS) as answer:
            content: bytes = await answer.read()
            return content

    yield lambda body: decode(loop.run_until_complete(fetch(body)))
    loop.run_until_complete(session.close())
    loop.close()


@contextmanager
def over_pycurl(url: str, path: str, decode: Callable[[bytes], Matrix]) -> Iterator[Ask]:
    """`pycurl`, one handle."""
    pycurl = importlib.import_module("pycurl")
    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, url + path)
    curl.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in _HEADERS.items()])

    def ask(body: bytes) -> Matrix:
        answer = io.BytesIO()
        curl.setopt(pycurl.POSTFIELDS, body)
        curl.setopt(pycurl.WRITEDATA, answer)
        curl.perform()
        return decode(answer.getvalue())

    yield ask
    curl.close()


@contextmanager
def over_openai(url: str, _path: str, _decode: Callable[[bytes], Matrix]) -> Iterator[Ask]:
    """OpenAI's own client, which asks for base64 by itself."""
    client = importlib.import_module("openai").OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    def ask(body: bytes) -> Matrix:
        answer = client.embeddings.create(input=_texts_of[body], model="any")
        return np.array([item.embedding for item in answer.data], dtype=np.float32)

    yield ask
    client.close()


@contextmanager
def over_baseten(url: str, _path: str, _decode: Callable[[bytes], Matrix]) -> Iterator[Ask]:
    """Baseten's performance client: eight batches in one call, in threads of its own."""
    baseten = importlib.import_module("baseten_performance_client")
    client = baseten.PerformanceClient(url, api_key="none")

    def ask(body: bytes) -> Matrix:
        texts = _texts_of[body]
        preference = baseten.RequestProcessingPreference(batch_size=len(texts), max_concurrent_requests=8)
        matrix: Matrix = client.embed(texts * 8, model="any", preference=preference).numpy()
        return matrix

    yield ask


@contextmanager
def over_this_client(url: str, _path: str, _decode: Callable[[bytes], Matrix]) -> Iterator[Ask]:
    """This engine's requester, with every check, one request at a time."""
    fleet = examine(ClientSettings(urls=(url,)))
    facts = fleet.servers[0].facts
    assert facts is not None
    poller = Poller()
    route = choose_route(facts, ClientSettings(urls=(url,)).options)
    requester = Requester(HttpClient(Address.parse(url), poller), route, dim=fleet.dim, normalized=True)
    out = np.empty((4096, fleet.dim), dtype=np.float32)

    def ask(body: bytes) -> Matrix:
        array = memoryview(body)[len(b'{"input":') : -len(b',"encoding_format":"base64"}')]
        n_texts = len(_texts_of[body])
        requester.submit([array], n_texts, timeout_s=30.0)
        while not (done := requester.poll(1.0)):
            pass
        matrix = out[:n_texts]
        if done[0].failure is not None or done[0].decode_into(matrix):
            raise RuntimeError(f"the stand-in failed: {done[0].failure}")
        done[0].release()
        return matrix

    yield ask
    requester.abandon()
    poller.close()


FORMS = [
    ("vLLM, base64", AnswerForm.BASE64, False),
    ("vLLM, float32 bytes", AnswerForm.BYTES, False),
    ("vLLM, float16 bytes", AnswerForm.BYTES, True),
]
ROUNDS = 9


IN_FLIGHT = 4


def measure_forms(batch_size: int, n_documents: int) -> list[tuple[ClientCost, float]]:
    """What each form of answer costs beside base64, with some requests in flight at one server.

    The forms take turns, since others use the machine as well: the least cost of each, and the median of its share of
    base64's cost in the same turn.
    """
    texts = tweets.texts()
    batches = [texts[at : at + batch_size] for at in range(0, len(texts) - batch_size + 1, batch_size)]
    bodies = [orjson.dumps(batch) for batch in batches]
    costs: list[list[ClientCost]] = []
    with StandinFleet(dataclasses.replace(_config(batch_size), dialect=Dialect.VLLM)) as fleet:
        for _ in range(ROUNDS):
            costs.append(
                [
                    _cost_of_form(name, form, fleet.urls[0], bodies, batch_size, n_documents // ROUNDS, half=half)
                    for name, form, half in FORMS
                ]
            )
    found = []
    for number in range(len(FORMS)):
        shares = sorted(turn[number].cpu_us / turn[0].cpu_us for turn in costs)
        found.append((min((turn[number] for turn in costs), key=lambda cost: cost.cpu_us), shares[ROUNDS // 2]))
    return found


def _cost_of_form(
    name: str, form: AnswerForm, url: str, bodies: list[bytes], n_texts: int, n_documents: int, *, half: bool
) -> ClientCost:
    settings = ClientSettings(urls=(url,), half=half)
    fleet = examine(settings)
    facts = fleet.servers[0].facts
    assert facts is not None
    poller = Poller()
    route = choose_route(dataclasses.replace(facts, form=form.value), settings.options)
    requester = Requester(HttpClient(Address.parse(url), poller), route, dim=fleet.dim, normalized=True)
    out = np.empty((n_texts, fleet.dim), dtype=np.float32)
    waiting = itertools.cycle(bodies)
    done = 0
    began_s, cpu_s = 0.0, 0.0
    for _ in range(IN_FLIGHT):
        requester.submit([next(waiting)], n_texts, timeout_s=30.0)
    while done < n_documents + 50 * n_texts:
        for completion in requester.poll(1.0):
            if completion.failure is not None or completion.decode_into(out):
                raise RuntimeError(f"the stand-in failed: {completion.failure}")
            completion.release()
            requester.submit([next(waiting)], n_texts, timeout_s=30.0)
            done += n_texts
            if done == 50 * n_texts:  # connections and layouts are there
                began_s, cpu_s = time.monotonic(), _cpu_s()
    cost = (_cpu_s() - cpu_s) / n_documents * 1e6
    rate = n_documents / (time.monotonic() - began_s)
    requester.abandon()
    poller.close()
    return ClientCost(name, cost, rate)


_texts_of: dict[bytes, list[str]] = {}
"""The texts of every request body."""

NATIVE = ("/embed", from_json_floats, b'{"inputs":%b}')
BASE64 = ("/v1/embeddings", from_base64, b'{"input":%b,"encoding_format":"base64"}')
CONTENDERS: list[tuple[str, str, Any, tuple[str, Callable[[bytes], Matrix], bytes]]] = [
    ("requests + JSON floats", "requests", over_requests, NATIVE),
    ("requests + base64", "requests", over_requests, BASE64),
    ("httpx + base64", "httpx", over_httpx("httpx"), BASE64),
    ("httpx2 + base64", "httpx2", over_httpx("httpx2"), BASE64),
    ("aiohttp + base64", "aiohttp", over_aiohttp, BASE64),
    ("urllib3 + JSON floats", "urllib3", over_urllib3, NATIVE),
    ("urllib3 + base64", "urllib3", over_urllib3, BASE64),
    ("http.client + base64", "http", over_http_client, BASE64),
    ("pycurl + base64", "pycurl", over_pycurl, BASE64),
    ("openai (base64 by itself)", "openai", over_openai, BASE64),
    ("baseten-performance-client (JSON floats)", "baseten_performance_client", over_baseten, BASE64),
    ("this client, one request at a time", "gpu_clients", over_this_client, BASE64),
]


def measure(name: str, over: Any, url: str, kind: Any, batches: list[list[str]], n_documents: int) -> ClientCost:
    """Ask for `n_documents` vectors and count this process's CPU time."""
    path, decode, template = kind
    bodies = [template % orjson.dumps(batch) for batch in batches]
    _texts_of.update(zip(bodies, batches, strict=True))
    with over(url, path, decode) as ask:
        for body in bodies[:10]:
            ask(body)
        done = 0
        began_s, cpu_s = time.monotonic(), _cpu_s()
        while done < n_documents:
            for body in bodies:
                done += len(ask(body))
        return ClientCost(name, (_cpu_s() - cpu_s) / done * 1e6, done / (time.monotonic() - began_s))


def measure_processes(url_count: int, batches: list[list[str]], n_documents: int) -> list[ClientCost]:
    """Whole client processes, driven without reader and writer."""
    size = len(batches[0])
    lines = []
    for n_clients in (1, url_count):
        with StandinFleet(_config(size, n_clients)) as fleet:
            settings = ClientSettings(urls=fleet.urls, batch_size=size, canary_every_s=600.0)
            with ClientDriver(settings, batches, n_slots=24 * n_clients) as driver:
                driver.run(seconds=10.0, rows=n_documents // 5)
                interval = driver.run(seconds=60.0, rows=n_documents)
        noun = "process" if n_clients == 1 else "processes"
        lines.append(
            ClientCost(f"this client, {n_clients} {noun} with rings", interval.cpu_us_per_row, interval.rows_per_s)
        )
    return lines


def _config(batch_size: int, n_ports: int = 1) -> StandinConfig:
    permits = max(512, 16 * batch_size)
    return StandinConfig(
        backend="canned", ports=(0,) * n_ports, max_client_batch_size=batch_size, max_concurrent_requests=permits
    )


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def table(batch_size: int, n_documents: int) -> list[ClientCost]:
    """All lines for one batch size."""
    texts = tweets.texts()
    batches = [texts[at : at + batch_size] for at in range(0, len(texts) - batch_size + 1, batch_size)]
    lines = []
    with StandinFleet(_config(batch_size)) as fleet:
        for name, module, over, kind in CONTENDERS:
            if importlib.util.find_spec(module) is not None:
                share = n_documents if module == "gpu_clients" else n_documents // 4
                lines.append(measure(name, over, fleet.urls[0], kind, batches, share))
    return lines + measure_processes(N_CLIENTS, batches, 4 * n_documents)


def main() -> None:
    """Print a table for each batch size."""
    parser = argparse.ArgumentParser(description="CPU time per document of embedding clients")
    parser.add_argument("--batch-sizes", default="32,128")
    parser.add_argument("--documents", type=int, default=40_000)
    parser.add_argument("--forms", action="store_true", help="this client alone, by form of answer")
    options = parser.parse_args()
    say = sys.stdout.write
    versions = f"Python {platform.python_version()}, numpy {np.__version__}"
    say(f"{cores()} cores, {platform.machine()}, {versions}; 768 dimensions\n")
    for size in map(int, options.batch_sizes.split(",")):
        say(f"\nbatch of {size:<4} {'':<27} {'CPU us/document':>16} {'documents/s':>12}\n")
        forms = measure_forms(size, 4 * options.documents)
        for line in [] if options.forms else table(size, options.documents):
            say(f"{line.name:<42} {line.cpu_us:>16.2f} {line.rate:>12.0f}\n")
        for line, share in forms:
            say(f"{line.name:<42} {line.cpu_us:>16.2f} {line.rate:>12.0f}{share:>8.0%} of base64\n")


if __name__ == "__main__":
    main()
