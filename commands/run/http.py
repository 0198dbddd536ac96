"""What `engine run --http` serves: the page of the run, its metrics, its status, and whether it is alive."""

from __future__ import annotations

import logging
import time
from typing import Any

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from commands.report.live import PageNotMade, live_page
from commands.status.status import collect
from engine import __version__
from engine.config import RunConfig
from engine.exposition.address import Address
from engine.exposition.cached import Cached
from engine.exposition.collector import RunCollector
from engine.exposition.http_server import Answer, HttpServer, Request
from gpu_clients.errors import FailureKind

_log = logging.getLogger("engine.http")

REFRESH_S = 15
_PAGE_EVERY_S = 5.0
_STATUS_EVERY_S = 1.0
_STALE_S = 60.0


class RunServer:
    """The HTTP server of a run; an observer of it."""

    def __init__(self, address: Address, config: RunConfig) -> None:
        """Listen.

        Raises:
            ConfigError: the address cannot be had.
        """
        self._config = config
        self._began_s = time.monotonic()
        self._collector = RunCollector(
            run=config.name,
            collection=config.namespace,
            version=__version__,
            error_kinds=[kind.value for kind in FailureKind],
        )
        self._registry = CollectorRegistry()
        self._registry.register(self._collector)
        self._page = Cached(self._make_page, every_s=_PAGE_EVERY_S)
        self._status = Cached(self._collect_status, every_s=_STATUS_EVERY_S)
        routes = {
            "/": self._serve_page,
            "/metrics": self._serve_metrics,
            "/healthz": self._serve_health,
            "/status.json": self._serve_status,
        }
        self._server = HttpServer(address, routes)
        self.url = f"http://{self._server.address}/"

    def update(self, figures: dict[str, Any]) -> None:
        """Take the figures of this moment."""
        self._collector.update(figures)

    def close(self) -> None:
        """Stop listening."""
        self._server.close()

    def _make_page(self) -> bytes:
        return live_page(self._config.folders.history, self._config.name, REFRESH_S)

    def _serve_page(self, request: Request) -> Answer:
        try:
            return Answer(self._page.get(), "text/html; charset=utf-8")
        except PageNotMade as error:
            _log.warning("page_not_made error=%r", str(error))
            return Answer(b"the page cannot be made now; the log says why\n", status=503)

    def _serve_metrics(self, request: Request) -> Answer:
        encoder, media_type = choose_encoder(request.accept)
        return Answer(encoder(self._registry), media_type)

    def _serve_health(self, request: Request) -> Answer:
        """200 unless nobody has told anything for longer than the longest wait that a run is allowed."""
        since_s = time.monotonic() - (self._collector.updated_s or self._began_s)
        if since_s > self._config.limits.max_outage_s + _STALE_S:
            return Answer(f"stuck: no figures for {since_s:.0f} s\n".encode(), status=503)
        return Answer(b"ok\n" if self._collector.updated_s is not None else b"ok: starting\n")

    def _collect_status(self) -> bytes:
        return orjson.dumps(collect(self._config.folders, gpu_hour_price=None, n_gpus=None)) + b"\n"

    def _serve_status(self, request: Request) -> Answer:
        return Answer(self._status.get(), "application/json")
