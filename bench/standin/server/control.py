"""The control route: what a server has seen so far, and orders that change it while it runs."""

from __future__ import annotations

from typing import Any

from bench.standin.faults.script import parse_fault
from bench.standin.server.server import Counters, Server
from engine.errors import ConfigError

ORDERS = frozenset(
    {
        "faults",
        "add_faults",
        "clear_faults",
        "slow_factor",
        "model_id",
        "max_concurrent_requests",
        "max_client_batch_size",
        "reset_connections",
        "reset_counters",
    }
)


_NUMBERS = ("max_concurrent_requests", "max_client_batch_size", "slow_factor")


def report(server: Server) -> dict[str, Any]:
    """Return the counters and the state of `server`."""
    counters, config, faults = server.counters, server.config, server.faults
    return {
        "port": server.port,
        "model_id": server.backend.model_id,
        "requests": counters.requests,
        "embed_requests": counters.embed_requests,
        "inputs": counters.inputs,
        "statuses": {str(status): count for status, count in sorted(counters.statuses.items())},
        "answered_429": counters.answered_429,
        "batch_size_max": counters.batch_size_max,
        "in_flight_inputs": server.permits.in_use,
        "in_flight_inputs_max": server.permits.peak,
        "connections_opened": counters.connections_opened,
        "connections_open": len(server.connections),
        "distinct_texts": len(counters.texts) if config.count_texts else None,
        "most_sent_text": max(counters.texts.values(), default=0) if config.count_texts else None,
        "faults": faults.kinds,
        "faults_fired": faults.fired(),
        "listening": server.port_is_open,
        "healthy": server.healthy,
        "backend": server.backend.metrics(),
    }


def apply_orders(server: Server, orders: dict[str, Any]) -> None:
    """Carry out `orders`; nothing is changed when one of them cannot be used.

    `faults` replaces all faults, `add_faults` adds some (each written as text or as an object), `clear_faults`
    also undoes what they changed; `slow_factor`, `model_id`, `max_concurrent_requests`, `max_client_batch_size`
    set what they say; `reset_connections` resets all connections, `reset_counters` starts counting from 0.

    Raises:
        ConfigError: an unknown order, or a fault that cannot be used.
        TypeError, ValueError: a value is not a number.
    """
    unknown = set(orders) - ORDERS
    if unknown:
        raise ConfigError(f"unknown order {sorted(unknown)}, expected one of {', '.join(sorted(ORDERS))}.")
    faults = [parse_fault(spec) for spec in [*orders.get("faults", []), *orders.get("add_faults", [])]]
    numbers = {name: _positive(name, orders[name]) for name in _NUMBERS if name in orders}
    if orders.get("clear_faults") or "faults" in orders:
        server.clear_faults()
    if "max_concurrent_requests" in numbers:
        server.permits.total = int(numbers["max_concurrent_requests"])
    if "max_client_batch_size" in numbers:
        server.max_client_batch_size = int(numbers["max_client_batch_size"])
    if "slow_factor" in numbers:
        server.set_slow_factor(numbers["slow_factor"])
    if "model_id" in orders:
        server.switch_model(str(orders["model_id"]))
    for fault in faults:
        server.add_fault(fault)
    if orders.get("reset_connections"):
        # not within the request that asked for it, so that its answer still leaves
        server.loop.call_later(0.0, server.reset_connections)
    if orders.get("reset_counters"):
        server.counters = Counters()
        server.permits.peak = server.permits.in_use


def _positive(name: str, value: Any) -> float:
    number = float(value)
    if not number > 0:
        raise ConfigError(f"{name} is {value!r}, expected a number above 0.")
    return number
