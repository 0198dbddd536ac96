"""`python -m bench.standin`: run stand-in servers; prints one JSON line with the ports when ready."""

from __future__ import annotations

import sys

import orjson

from bench.standin.arguments import parse_arguments
from bench.standin.process import Ready, serve
from engine.errors import EngineError


def main() -> int:
    """Run until stopped; return the exit code."""
    try:
        serve(parse_arguments(sys.argv[1:]), _announce)
    except EngineError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.exit_code)
    return 0


def _announce(ready: Ready) -> None:
    line = orjson.dumps({"ports": ready.ports, "control_port": ready.control_port})
    sys.stdout.write(line.decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
