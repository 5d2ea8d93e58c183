"""Finds out which direct ways work in both directions, and lets the routes know."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from quicether.model import NodeId
from quicether.overlay.direct import DirectWays
from quicether.overlay.peers import PeerTable
from quicether.overlay.pings import Pings
from quicether.overlay.routes import OverlayRoutes
from quicether.transport.endpoint import Connection

log = logging.getLogger(__name__)

PATIENCE: Final = 2.0
"""Seconds that a peer has to answer when the way to it is to be proven."""


class Prober:
    """Watches the connections of one tunnel and asks where there is a doubt."""

    def __init__(
        self,
        peers: PeerTable,
        routes: OverlayRoutes,
        pings: Pings,
        clock: Callable[[], float],
        changed: Callable[[], None],
        doubted: Callable[[NodeId], object],
    ) -> None:
        """clock: monotonic seconds. changed: called when a way counts that did not, or no more.

        doubted: called when the way to a node that is still connected counts no more, so that
        others who have what it has are found before its connection is given up.
        """
        self._peers = peers
        self._routes = routes
        self._pings = pings
        self._clock = clock
        self._changed = changed
        self._doubted = doubted
        self._ways = DirectWays()

    def counts(self, node: NodeId) -> bool:
        """Tell whether packets to a node are to go directly."""
        return self._ways.counts(node)

    def answers(self, node: NodeId) -> bool:
        """Tell whether a node is connected and no answer of it is overdue."""
        return self._ways.answers(node)

    def up(self, connection: Connection) -> None:
        """A peer connected, for the first time or once more."""
        self._ways.up(connection.member.node_id, self._clock())
        self._weigh(connection)

    def down(self, node: NodeId) -> None:
        """The last connection to a node is gone."""
        self._ways.down(node, self._clock())
        self._routes.reachable(node, reachable=False)
        self._changed()

    def detoured(self, node: NodeId) -> None:
        """Ask a node whose packets come by a gateway whether the direct way works."""
        connection = self._peers.active(node)
        if connection is not None and self._ways.detoured(node, self._clock()):
            self._weigh(connection)
            self._ask(connection)

    def check(self) -> None:
        """Look for overdue answers and ask where a way is unproven. Call about twice a second."""
        now, connections = self._clock(), self._peers.connections()
        before = self._routes.fib
        for node, connection in connections.items():
            answered = self._ways.answers(node)
            self._ways.overdue(node, connection.unanswered, connection.rtt, now)
            if self._ways.answers(node) is not answered:
                self._changed()
            self._weigh(connection)
        for node in self._ways.unproven():
            self._ask(connections[node])
        self._ways.expire(now)
        if self._routes.fib is not before:
            self._changed()

    def _weigh(self, connection: Connection) -> None:
        node = connection.member.node_id
        counts = self._ways.counts(node)
        differs = counts is not self._routes.is_reachable(node)
        self._routes.reachable(node, reachable=counts, rtt=connection.rtt)
        if differs:
            word = "counts" if counts else "is doubted"
            log.info("peer %s (%s): the direct way %s", connection.member.name, node, word)
            self._changed()
            if not counts:
                self._doubted(node)

    def _ask(self, connection: Connection) -> None:
        def answered(asked: float) -> None:
            node = connection.member.node_id
            if self._peers.active(node) is connection:
                self._ways.answered(node, asked, self._clock())
                self._weigh(connection)

        self._pings.begin(connection, PATIENCE, answered)
