"""The engine as a library: what the commands do, as functions with the same configuration objects.

>>> from embedding_engine import RunConfig, SinkConfig, SourceConfig
>>> config = RunConfig(source=SourceConfig(collection="tweets_usa"), sink=SinkConfig(shard_seconds=30.0))
>>> config.name
'twitter_data.tweets_usa.gemma_embedded_768'

`run(config)` would begin or continue that run. Everything is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.tuner.search.survey import TuneConfig as TuneConfig
    from bench.tuner.tuning import TuningPlan as TuningPlan
    from commands.bench.bench import BenchConfig as BenchConfig
    from commands.bench.bench import BenchResult as BenchResult
    from commands.options.secrets import ServerSecrets as ServerSecrets
    from commands.plan.config import PlanConfig as PlanConfig
    from commands.run.run import RunResult as RunResult
    from embedding_engine.library import Interrupted as Interrupted
    from embedding_engine.library import bench as bench
    from embedding_engine.library import merge as merge
    from embedding_engine.library import plan as plan
    from embedding_engine.library import run as run
    from embedding_engine.library import verify as verify
    from engine import __version__ as __version__
    from engine.config import LimitsConfig as LimitsConfig
    from engine.config import RunConfig as RunConfig
    from engine.config import ServersConfig as ServersConfig
    from engine.config import SinkConfig as SinkConfig
    from engine.config import SourceConfig as SourceConfig
    from engine.errors import EngineError as EngineError
    from engine.errors import Exit as Exit
    from writers.merge.config import MergeConfig as MergeConfig
    from writers.merge.config import MergeReport as MergeReport
    from writers.verify.config import VerifyConfig as VerifyConfig
    from writers.verify.config import VerifyReport as VerifyReport

_WHERE = {
    "bench.tuner.search.survey": ("TuneConfig",),
    "bench.tuner.tuning": ("TuningPlan",),
    "commands.bench.bench": ("BenchConfig", "BenchResult"),
    "commands.options.secrets": ("ServerSecrets",),
    "commands.plan.config": ("PlanConfig",),
    "commands.run.run": ("RunResult",),
    "embedding_engine.library": ("Interrupted", "bench", "merge", "plan", "run", "verify"),
    "engine": ("__version__",),
    "engine.config": ("LimitsConfig", "RunConfig", "ServersConfig", "SinkConfig", "SourceConfig"),
    "engine.errors": ("EngineError", "Exit"),
    "writers.merge.config": ("MergeConfig", "MergeReport"),
    "writers.verify.config": ("VerifyConfig", "VerifyReport"),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605 - one list of names, above


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - a command that starts pays for nothing it does not use

    module = _MODULE_OF[name]
    value = getattr(import_module(module if module.startswith(__name__) else _inside(module)), name)
    globals()[name] = value
    return value


def _inside(module: str) -> str:
    """The full name of a module of the layers."""
    from engine.supervision.interpreter import full_name  # noqa: PLC0415

    return full_name(module)


def __dir__() -> list[str]:
    return list(__all__)
