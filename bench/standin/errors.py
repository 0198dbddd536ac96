"""The errors of stand-in servers, in the tree of `engine.errors`.

A setting or a fault that cannot be used is a plain `engine.errors.ConfigError`.
"""

from __future__ import annotations

from engine.errors import ConfigError, EngineError


class ModelMissing(ConfigError):
    """The model or the library of the `minilm` backend is not installed."""


class FleetError(EngineError):
    """A server process did not become ready, died, or refused a control call."""
