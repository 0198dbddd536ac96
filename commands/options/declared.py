"""How an option is declared, and the options that several commands have, each declared once.

What is here is imported whatever command is called, so it may import nothing that takes time.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from commands.options.cold import cold_callback
from commands.options.log_format import log_format
from commands.options.paths import path_callback

DEFAULT_URI = "mongodb://localhost:27017"
DEFAULT_URLS = ",".join(f"http://localhost:{port}/embed" for port in range(18080, 18084))


def option(name: str, help_text: str, **more: Any) -> Any:
    """A typer option `--name` that `ENGINE_NAME` may set too."""
    declared = more.pop("declared", f"--{name}")
    environment = "ENGINE_" + name.upper().replace("-", "_")
    return typer.Option(declared, help=help_text, envvar=environment, show_envvar=False, **more)


def path_option(name: str, help_text: str) -> Any:
    """An `option` whose value is a path: see `commands.options.paths`."""
    return option(name, help_text, callback=path_callback)


def gpu_count(text: str) -> int:
    """How many GPUs `4` means, or `0,1,2,3`, which `engine serve` takes under the same name."""
    return len(text.split(",")) if "," in str(text) else int(text)


def examples(*lines: str) -> str:
    """The end of a command's help: how it is called."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


MongoUri = Annotated[str, option("mongo-uri", "MongoDB; a password belongs in ENGINE_MONGO_URI or --mongo-uri-file.")]
MongoUriFile = Annotated[Path | None, path_option("mongo-uri-file", "File (mode 600) that holds the MongoDB URI.")]
Database = Annotated[str, option("database", "Database of the collection.")]
Collection = Annotated[str, option("collection", "Collection of the documents.")]
Source = Annotated[
    str | None,
    option("source", "Folder, glob or URL (s3://...) of .parquet, .jsonl, .csv (.gz, .zst) in place of MongoDB."),
]
Name = Annotated[str | None, option("name", "Name of a data set of files [default: the folder's name].")]
IdField = Annotated[
    str | None, option("id-field", "Field of the files' documents that becomes _id [default: file#row].")
]
DoneField = Annotated[str, option("done-field", "Field set to true once a document's shard is committed.")]
TextField = Annotated[str, option("text-field", "Field with the text; dotted paths allowed.")]
Lang = Annotated[str | None, option("lang", "Languages of the work queue, comma-separated [default: all].")]
Filter = Annotated[str | None, option("filter", "Extended JSON, ANDed to the work query.")]
Scan = Annotated[str, option("scan", "queue: the partial index; id: the whole collection in _id order.")]
Part = Annotated[
    str | None, option("part", "The i-th of n disjoint shares of the queue, i/n: one for each machine [default: all].")
]
Retweeted = Annotated[
    str, option("retweeted", "Which documents count by their field retweeted: null (or missing), false or any.")
]

TeiUrls = Annotated[str, option("tei-urls", "Embedding servers, comma-separated; one client process each.")]
ApiKeyFile = Annotated[Path | None, path_option("tei-api-key-file", "File (mode 600) with the servers' API keys.")]
HeaderFile = Annotated[
    Path | None,
    path_option("tei-header-file", "File (mode 600) with headers for the servers, one `Name: value` a line."),
]
CaFile = Annotated[
    Path | None, path_option("tei-ca-file", "Certificates (PEM) that vouch for the servers [default: system's].")
]
ServerKind = Annotated[str, option("server-kind", "auto, tei or openai.")]
Model = Annotated[str | None, option("model", "Model name to ask an OpenAI-compatible server for.")]
Concurrency = Annotated[str, option("concurrency", "Requests in flight per server, or auto.")]
Prompt = Annotated[str | None, option("prompt", "Text put before each document; part of the fingerprint.")]
Dimensions = Annotated[int | None, option("dimensions", "Numbers to keep of each vector [default: model's].")]
Normalize = Annotated[bool, option("normalize", "Vectors of length 1.", declared="--normalize/--no-normalize")]
Truncate = Annotated[
    bool, option("truncate", "Cut texts that are too long, or quarantine them.", declared="--truncate/--no-truncate")
]
TruncateSamples = Annotated[
    bool, option("truncate", "Cut texts that are too long.", declared="--truncate/--no-truncate")
]
LatencyTarget = Annotated[float | None, option("target-p95", "Seconds that the 95th percentile of latency may take.")]

Serve = Annotated[
    bool | None,
    option("serve", "Start the servers, and end them with this command.", declared="--serve/--no-serve"),
]
Backend = Annotated[str | None, option("backend", "Servers to start: tei or vllm (or a stand-in's backend).")]
ServedModel = Annotated[str | None, option("model", "Model of the servers: its name on the hub, or a folder.")]
ServeGpus = Annotated[str | None, option("gpus", "One server for each of these GPUs [default: all in sight].")]
Ports = Annotated[str | None, option("ports", "Their ports, such as 18080-18083 or 0,0 [default: 18080 and on].")]
Binary = Annotated[str | None, option("binary", "Their program [default: text-embeddings-router or vllm on PATH].")]
Docker = Annotated[str | None, option("docker", "Image to run them in, instead of a program on PATH.")]
ServerFlagsLine = Annotated[
    str | None, option("flags", "Further flags of the servers, on one line; or write them behind `--`.")
]
StartTimeout = Annotated[float, option("start-timeout", "Seconds until a server that was started has to be healthy.")]

HotDir = Annotated[Path, path_option("hot-dir", "NVMe: lock, ledger, checkpoints, quarantine, temporaries.")]
ColdDir = Annotated[
    str,
    option("cold-dir", "Final Parquet: a folder, or s3://BUCKET/PREFIX, gs://..., az://...", callback=cold_callback),
]
ColdEndpoint = Annotated[
    str | None, option("cold-endpoint", "Server of the store (--cold-dir, --source), unless the vendor's: a URL.")
]
ColdRegion = Annotated[str | None, option("cold-region", "Region of the bucket.")]
ColdOption = Annotated[
    list[str] | None, option("cold-option", "KEY=VALUE for the store's library; repeatable, never credentials.")
]
ShardBytes = Annotated[str, option("shard-bytes", "A shard is sealed at this size ...")]
VectorType = Annotated[str, option("vector-type", "float32 or float16.")]
TempDir = Annotated[
    Path | None,
    path_option("temp-dir", "Temporaries: id keys, sorted runs [default: hot folder, --target or the system's]."),
]
IdColumn = Annotated[str | None, option("id-column", "Name of the id column in foreign files.")]
VectorColumn = Annotated[str | None, option("vector-column", "Name of the vectors in foreign files.")]
Jobs = Annotated[int, option("jobs", "Worker processes [default: cores].")]

GpuHourPrice = Annotated[float | None, option("gpu-hour-price", "Price of one GPU for an hour.")]
Gpus = Annotated[
    int | None,
    option("gpus", "How many GPUs that price is paid for [default: servers].", parser=gpu_count, metavar="INTEGER"),
]
Mongod = Annotated[Path | None, path_option("mongod", "A mongod binary [default: PATH, or the bundled part].")]
Json = Annotated[bool, option("json", "One JSON object on stdout.", declared="--json")]
LogFormat = Annotated[
    str, option("log-format", "Lines on stderr: text, or json (one object a line, ISO 8601).", callback=log_format)
]
Verbose = Annotated[bool, option("verbose", "Log debug events too.")]
