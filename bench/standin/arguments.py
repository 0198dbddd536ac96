"""The command line of a stand-in process, and the way back from a configuration to it."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence

from bench.standin.config import BACKENDS, Dialect, GpuConfig, StandinConfig
from engine.errors import ConfigError

#: The environment variable that hands the api key to a child, so that it is in no process list.
API_KEY_ENV = "STANDIN_API_KEY"

_HELP = {
    "backend": f"one of {', '.join(BACKENDS)}",
    "ports": "ports: 18080, a range 18080-18083, a list 0,0 (0: any free port)",
    "speeds": "one speed factor per port, for example 1,1,2,4",
    "tokenizer": "of the canned backend: rule (4 characters a token), or minilm (a real one)",
    "dialect": "of TEI 1.9 or 1.8, or vllm",
    "prompts": "NAME=TEXT, repeatable",
    "faults": "KIND:NAME=VALUE,..., repeatable; see bench/standin/faults/script.py",
}
_REPEATED = {"prompts": "--prompt", "faults": "--fault"}
_OPTIONAL_INTS = frozenset({"dim", "max_input_length", "max_batch_requests", "threads"})


def parse_ports(text: str) -> tuple[int, ...]:
    """Return the ports of `18080`, `18080-18083`, `0,0,0,0` or a mixture.

    Raises:
        ConfigError: not written like that.
    """
    ports: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            ports.extend(range(int(first), int(last if dash else first) + 1))
        except ValueError:
            raise ConfigError(f"--ports {text!r}: {part!r} is not a port, expected 18080-18083 or 0,0.") from None
    return tuple(ports)


def parse_speeds(text: str) -> tuple[float, ...]:
    """Return the factors of `1,1,2,4`.

    Raises:
        ConfigError: not numbers.
    """
    try:
        return tuple(float(part) for part in text.split(",") if part)
    except ValueError:
        raise ConfigError(f"--speeds {text!r}: expected numbers with commas, for example 1,1,2,4.") from None


_EXAMPLES = """Examples:
  engine serve --backend canned --ports 18080-18083
  engine serve --backend sim --ports 18080-18083 --speeds 1,1,2,4 --fault status:code=503,every=50
  engine serve --backend minilm --ports 18080-18083
  engine serve --dialect vllm --backend sim --ports 18080"""


def parse_arguments(arguments: Sequence[str], prog: str = "python -m bench.standin") -> StandinConfig:
    """Return the configuration that `arguments` describe.

    Raises:
        ConfigError: a value is out of its range.
        SystemExit: argparse's own answer to unknown flags and `--help`.
    """
    given = vars(_parser(prog).parse_args(arguments))
    gpu = GpuConfig(**{entry.name: given.pop(entry.name) for entry in dataclasses.fields(GpuConfig)})
    given["ports"] = parse_ports(given["ports"]) if isinstance(given["ports"], str) else given["ports"]
    given["speeds"] = parse_speeds(given["speeds"]) if isinstance(given["speeds"], str) else given["speeds"]
    given["prompts"] = tuple(_pair(text) for text in given["prompts"])
    given["faults"] = tuple(given["faults"])
    given["dialect"] = Dialect(given["dialect"])
    given["api_key"] = given["api_key"] or os.environ.get(API_KEY_ENV)
    return StandinConfig(gpu=gpu, **given)


def help_text() -> str:
    """Every option, as `--help` lists them."""
    return (
        _parser("engine serve").format_help().partition("\noptions:\n")[2].partition("\nExamples:")[0].rstrip() + "\n"
    )


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Stand-in embedding servers for trials and tests.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for entry in dataclasses.fields(StandinConfig):
        if entry.name != "gpu":
            _add(parser, entry.name, entry.default)
    for entry in dataclasses.fields(GpuConfig):
        _add(parser, entry.name, entry.default)
    return parser


def to_arguments(config: StandinConfig) -> list[str]:
    """Return the command line that gives `config` again; the api key goes by `API_KEY_ENV` instead."""
    arguments: list[str] = []
    values = [(entry.name, getattr(config, entry.name), entry.default) for entry in dataclasses.fields(config)]
    values += [(entry.name, getattr(config.gpu, entry.name), entry.default) for entry in dataclasses.fields(GpuConfig)]
    for name, value, default in values:
        if name in ("gpu", "api_key") or value == default:
            continue
        flag = "--" + name.replace("_", "-")
        if name in _REPEATED:
            for one in value:
                arguments += [_REPEATED[name], "=".join(one) if name == "prompts" else one]
        elif isinstance(value, bool):
            arguments.append(flag if value else "--no-" + flag[2:])
        elif isinstance(value, tuple):
            arguments += [flag, ",".join(map(str, value))]
        elif isinstance(value, Dialect):
            arguments += [flag, value.value]
        elif value is None:
            arguments += [flag, ""]
        else:
            arguments += [flag, str(value)]
    return arguments


def _add(parser: argparse.ArgumentParser, name: str, default: object) -> None:
    flag = "--" + name.replace("_", "-")
    about = _HELP.get(name, "")
    if name in _REPEATED:
        parser.add_argument(_REPEATED[name], dest=name, action="append", default=[], help=about)
    elif name == "auto_truncate" or isinstance(default, bool):
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=about)
        parser.set_defaults(**{name: default})  # given at once, Python 3.10 would write it into the help
    elif name in _OPTIONAL_INTS:
        parser.add_argument(flag, type=int, default=default, help=about)
    elif isinstance(default, Dialect):
        parser.add_argument(flag, choices=[one.value for one in Dialect], default=default.value, help=about)
    elif name == "model_sha":
        parser.add_argument(flag, type=lambda text: text or None, default=default, help="empty for null")
    elif isinstance(default, int | float):
        parser.add_argument(flag, type=type(default), default=default, help=f"default {default}")
    else:
        parser.add_argument(flag, default=default, help=about)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"--prompt {text!r} is not NAME=TEXT.")
    return name, value
