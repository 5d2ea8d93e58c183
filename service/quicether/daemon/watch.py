"""What is observed of a running tunnel, and served where its settings ask for it."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from quicether import __version__
from quicether.bus.controller import TunnelView
from quicether.config.settings import MonitoringSettings
from quicether.daemon.guard import Guard
from quicether.overlay.membership import Membership
from quicether.overlay.mesh import Mesh

if TYPE_CHECKING:
    from quicether.monitoring.metrics import Observation
    from quicether.monitoring.monitor import Monitor


class Watch:
    """Lets others watch one tunnel while it is up."""

    def __init__(
        self, view: TunnelView, mesh: Mesh, guard: Guard, membership: Membership | None
    ) -> None:
        """membership: None for pinned peers."""
        self._view = view
        self._mesh = mesh
        self._guard = guard
        self._membership = membership
        self._monitor: Monitor | None = None

    async def open(self, settings: MonitoringSettings) -> None:
        """Begin to serve what settings ask for. Raises HostError: an address cannot be had."""
        if settings.metrics_addr is None and settings.health_addr is None:
            return
        # Only here, because the library takes megabytes.
        from quicether.monitoring.monitor import Monitor

        self._monitor = Monitor(
            self._observe, time.monotonic, settings.metrics_addr, settings.health_addr
        )
        await self._monitor.open()

    async def close(self) -> None:
        """Stop to serve. Idempotent."""
        if self._monitor is not None:
            await self._monitor.close()

    def _observe(self) -> Observation:
        from quicether.monitoring.metrics import Observation

        view, routes = self._view, self._mesh.routes
        ends = None if self._membership is None else self._membership.certificate_end
        return Observation(
            tunnel=view.name,
            network=view.network,
            node=view.node_name,
            node_id=str(view.node_id),
            link=view.link,
            version=__version__,
            ready=view.ready,
            since=view.since,
            counters=view.counters,
            peers=view.peers(0, sys.maxsize),
            connections=len(self._mesh.peers.connections()),
            routes=routes.kinds,
            routes_refused=routes.refused,
            flows=self._guard.flows,
            audit_lost=self._guard.lost_records,
            certificate_end=None if ends is None else ends.timestamp(),
        )
