"""The Prometheus exporter of a run, on 127.0.0.1; a module apart, because only who asks for it pays for the library."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from engine.errors import ConfigError
from engine.telemetry.metrics import LatencyHistogram


class MetricsExporter:
    """Shows the live figures of a run as gauges."""

    def __init__(self, port: int, run: str) -> None:
        """Listen on a port of 127.0.0.1.

        Raises:
            ConfigError: the port cannot be had.
        """
        if not 0 <= port <= 65535:
            raise ConfigError(f"--metrics-port is {port}; allowed is 0 to 65535")
        registry = CollectorRegistry()
        self._of_run = {
            name: Gauge(f"engine_{name}", text, ["run"], registry=registry).labels(run)
            for name, text in (
                ("embedded_documents", "Documents embedded by this run, committed or on their way."),
                ("committed_documents", "Rows in committed shards."),
                ("documents_per_second", "Rate over the last seconds."),
                ("quarantined_documents", "Documents in quarantine."),
                ("shards", "Committed shards."),
                ("restarts", "Generations that ended in a crash."),
                ("refusals", "Generations whose uncommitted rows were refused for wrong vectors."),
            )
        }
        self._of_server = {
            name: Gauge(f"engine_server_{name}", text, ["run", "server"], registry=registry)
            for name, text in (
                ("documents", "Documents embedded by a server."),
                ("in_flight", "Requests in flight."),
                ("window", "Requests that may be in flight."),
                ("retries", "Requests repeated."),
                ("rejected_429", "Requests answered 429."),
                ("latency_p95_seconds", "95th percentile of request latency."),
            )
        }
        self._run = run
        try:
            self._server, self._thread = start_http_server(port, addr="127.0.0.1", registry=registry)
        except OSError as error:
            raise ConfigError(f"--metrics-port {port} cannot be used ({error.strerror}): name a free one") from error

    def update(self, figures: dict[str, Any]) -> None:
        """Take the figures of this moment."""
        for name, key in (
            ("embedded_documents", "embedded_now"),
            ("committed_documents", "committed"),
            ("documents_per_second", "rate"),
            ("quarantined_documents", "quarantined"),
            ("shards", "shards"),
            ("restarts", "restarts"),
            ("refusals", "refusals"),
        ):
            self._of_run[name].set(figures[key])
        for role, facts in figures["clients"].items():
            values = {name: facts.get(key, 0) for name, key in (("documents", "rows"), ("in_flight", "in_flight"))}
            values |= {name: facts.get(name, 0) for name in ("window", "retries", "rejected_429")}
            values["latency_p95_seconds"] = LatencyHistogram.from_sparse(facts.get("latency", {})).quantile(0.95) or 0.0
            for name, value in values.items():
                self._of_server[name].labels(self._run, role).set(value)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
