"""The address of `--http` or `--metrics-port`."""

from __future__ import annotations

from engine.errors import ConfigError
from engine.exposition.address import Address


def http_address(http: str | None, metrics_port: int | None) -> Address | None:
    """Where to serve, or None when nobody asked for it.

    Raises:
        ConfigError: no address, no port, or both options with different ones.
    """
    address = Address.parse(http) if http is not None else None
    if metrics_port is None:
        return address
    if not 0 <= metrics_port <= 65535:
        raise ConfigError(f"--metrics-port is {metrics_port}; allowed is 0 to 65535")
    local = Address("127.0.0.1", metrics_port)
    if address not in (None, local):
        raise ConfigError(f"--http {address} and --metrics-port {metrics_port} name two addresses: drop one of them")
    return local
