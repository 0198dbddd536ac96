"""`engine serve` on the command line: real servers, or stand-ins, whose options it hands on."""

from pathlib import Path
from typing import Annotated

import typer

from commands.options import declared as shared
from commands.options.config_file import config_option
from commands.options.declared import examples, path_option
from commands.terminal.output import set_up_logs

EPILOG = examples(
    "engine serve --backend tei --model BAAI/bge-base-en-v1.5 --gpus 0,1,2,3 --ports 18080-18083",
    "engine serve --backend vllm --model google/embeddinggemma-300m -- --max-model-len 2048",
    "engine serve --backend tei --model /models/bge --docker ghcr.io/huggingface/text-embeddings-inference:1.9",
    "engine serve --backend sim --ports 18080-18083 --speeds 1,1,2,4 --fault status:code=503,every=50",
)


def serve(
    context: typer.Context,
    config: Annotated[Path | None, config_option("serve")] = None,
    backend: shared.Backend = None,
    model: shared.ServedModel = None,
    gpus: shared.ServeGpus = None,
    ports: shared.Ports = None,
    binary: shared.Binary = None,
    docker: shared.Docker = None,
    flags: shared.ServerFlagsLine = None,
    start_timeout: shared.StartTimeout = 900.0,
    tuned: Annotated[Path | None, path_option("tuned", "The file that `engine bench --server-flags` wrote.")] = None,
    hot_dir: shared.HotDir = Path("hot"),
    json_: shared.Json = False,
) -> None:
    """Start embedding servers, one for each GPU, keep them alive, and end them all with this command.

    Flags behind `--` go to every server, over those that fit model and GPU. Logs are in the hot folder's `servers/`.
    """
    # here and not above: only the command that is called pays for what it imports
    real = (model, gpus, binary, docker, tuned)
    if backend in ("tei", "vllm") or (backend is None and any(value is not None for value in real)):
        from commands.composition.own_servers import ServeOptions
        from commands.serve.serve import serve_until_stopped

        set_up_logs(verbose=False)
        options = ServeOptions(
            serve=True,
            backend=backend,
            model=model,
            gpus=gpus,
            ports=ports,
            binary=binary,
            docker=docker,
            flags=flags,
            start_timeout_s=start_timeout,
            further=tuple(context.args),
            hot_dir=hot_dir,
            tuned=tuned,
        )
        serve_until_stopped(options.plan(), as_json=json_)
        return
    from bench.standin.arguments import parse_arguments
    from bench.standin.process import serve as serve_ports

    words = [f"--{name}={value}" for name, value in (("backend", backend), ("ports", ports)) if value is not None]
    serve_ports(parse_arguments([*words, *context.args], prog="engine serve"))
