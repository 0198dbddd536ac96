"""A real third-party server: llama.cpp's own HTTP server, as the package `xllamacpp` carries it.

    python -m tests.servers.llama_server MODEL.gguf [PORT]

It prints its URL when it listens and ends with its standard input.
"""

from __future__ import annotations

import os
import sys
import threading


def main() -> None:
    """Serve until standard input ends."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = sys.argv[1]
    parameters.port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    parameters.hostnames = ["127.0.0.1"] if hasattr(parameters, "hostnames") else parameters.hostnames
    parameters.embedding = True
    parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    parameters.n_ctx = 2048
    parameters.n_batch = parameters.n_ubatch = 2048
    parameters.n_parallel = 4
    parameters.cpuparams.n_threads = 1
    parameters.cpuparams_batch.n_threads = 1
    parameters.warmup = False
    server = xllamacpp.Server(parameters)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    threading.Thread(target=_end_with_owner, daemon=True).start()
    threading.Event().wait()


def _end_with_owner() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
