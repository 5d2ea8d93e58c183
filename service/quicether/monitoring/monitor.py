"""What a tunnel serves to whoever watches it: /metrics and /health, each where it was asked for."""

from __future__ import annotations

import http
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from quicether.config.values import HostPort
from quicether.model import PeerState
from quicether.monitoring.http import HttpServer, Page
from quicether.monitoring.metrics import Observation, TunnelCollector

FRESHNESS: Final = 0.5
"""Seconds for which an observation serves all who ask, so that asking often costs little."""


class Monitor:
    """Serves observations of one tunnel until it is closed."""

    def __init__(
        self,
        observe: Callable[[], Observation],
        clock: Callable[[], float],
        metrics: HostPort | None,
        health: HostPort | None,
    ) -> None:
        """metrics, health: where each is served, None for nowhere. clock: monotonic seconds."""
        self._observe = observe
        self._clock = clock
        self._seen: tuple[float, Observation] | None = None
        self._text: tuple[Observation, bytes] | None = None
        self._registry = CollectorRegistry()
        self._registry.register(TunnelCollector(self._current))
        ProcessCollector(registry=self._registry)
        self._open = AsyncExitStack()
        self._servers: list[HttpServer] = []
        if metrics is not None and metrics == health:
            pages = {"/metrics": self._metrics, "/health": self._health}
            self._servers.append(HttpServer("metrics-addr", metrics, pages))
            return
        if metrics is not None:
            pages = {"/metrics": self._metrics}
            self._servers.append(HttpServer("metrics-addr", metrics, pages))
        if health is not None:
            pages = {"/health": self._health}
            self._servers.append(HttpServer("health-addr", health, pages))

    async def open(self) -> None:
        """Begin to serve. Raises HostError: an address cannot be had; then none is served."""
        try:
            for server in self._servers:
                await server.open()
                self._open.push_async_callback(server.close)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop to serve. Idempotent."""
        await self._open.aclose()

    def _current(self) -> Observation:
        now = self._clock()
        if self._seen is None or now - self._seen[0] >= FRESHNESS:
            self._seen = now, self._observe()
        return self._seen[1]

    def _metrics(self) -> Page:
        seen = self._current()
        if self._text is None or self._text[0] is not seen:
            self._text = seen, generate_latest(self._registry)
        return Page(self._text[1], CONTENT_TYPE_PLAIN_0_0_4)

    def _health(self) -> Page:
        # Readiness changes in a moment, and it is what this page is for.
        seen = self._observe()
        report = {
            "status": "ready" if seen.ready else "not ready",
            "tunnel": seen.tunnel,
            "network": seen.network,
            "node": seen.node,
            "node_id": seen.node_id,
            "version": seen.version,
            "peers": len(seen.peers),
            "peers_connected": sum(peer.state is PeerState.CONNECTED for peer in seen.peers),
        }
        status = http.HTTPStatus.OK if seen.ready else http.HTTPStatus.SERVICE_UNAVAILABLE
        return Page(json.dumps(report).encode() + b"\n", "application/json", status)
