"""Connections for questions of the DHT: opened on demand, few, closed when nobody uses them.

An open connection costs 0.1 kbit/s of keepalives, a new one about six kilobytes; ten minutes of
silence cost as much as a handshake. So the few that were used last stay, which also lets those
behind a NAT be asked, and others go after `IDLE`. A node closes only what it opened itself: the
other side cannot know what a user configured here. What carries packets is not idle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from quicether.config.values import HostPort
from quicether.errors import UnreachableError
from quicether.model import NodeId, UnderlayAddress
from quicether.overlay.outside import locations_of
from quicether.overlay.peers import PeerTable, TargetKind
from quicether.transport.endpoint import CloseCode, Connection

IDLE: Final = 120.0
"""Seconds without packets and questions after which a connection is closed."""
KEPT: Final = 2
"""So many idle connections stay, the most recently used."""
MAX_POOLED: Final = 64
"""Connections of our own above which the least recently used goes at once."""
IN_USE: Final = 5.0
"""A connection used so many seconds ago is not closed to make room."""
MAX_DIALLED: Final = 64
"""Nodes that are connected to at one time for questions."""


class Pool:
    """Connects to nodes for questions, and closes what is idle."""

    def __init__(
        self, peers: PeerTable, wake: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        """wake: starts the attempts that are due. clock: monotonic seconds."""
        self._peers = peers
        self._wake = wake
        self._clock = clock
        self._used: dict[NodeId, float] = {}
        self._waiting: dict[NodeId, set[asyncio.Future[Connection]]] = {}

    async def reach(self, node: NodeId, endpoints: Iterable[UnderlayAddress]) -> Connection:
        """Return a connection to node, opened now if there is none. The caller sets the patience.

        Raises UnreachableError: nothing that could be tried; ConfigError: too many targets.
        """
        self._used[node] = self._clock()
        connection = self._peers.active(node)
        if connection is not None:
            return connection
        locations = locations_of(endpoints)
        if not locations:
            raise UnreachableError(f"node {node.short} has no address that can be tried")
        if node not in self._waiting and len(self._waiting) >= MAX_DIALLED:
            raise UnreachableError(f"{MAX_DIALLED} nodes are being connected to already")
        future: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(node, set())
        waiting.add(future)
        try:
            if len(waiting) == 1:
                self._dial(node, locations)
            return await future
        finally:
            waiting.discard(future)
            if not waiting:
                self._waiting.pop(node, None)

    def connected(self, connection: Connection) -> None:
        """A connection is there, whoever opened it."""
        for future in self._waiting.get(connection.member.node_id, ()):
            if not future.done():
                future.set_result(connection)

    def used(self, node: NodeId) -> None:
        """A question came from node."""
        self._used[node] = self._clock()

    def sweep(self) -> None:
        """Close what is idle, and what is too much. To be called every few seconds."""
        now = self._clock()
        connections = self._peers.connections()
        for node in [node for node in self._used if node not in connections]:
            if node not in self._waiting:
                del self._used[node]
        configured = self._peers.configured()
        mine = {
            node: self._last_use(connection)
            for node, connection in connections.items()
            if connection.initiated and node not in configured
        }
        by_use = sorted(mine, key=lambda node: mine[node])
        too_many = len(by_use) - MAX_POOLED
        for rank, node in enumerate(by_use):
            idle = now - mine[node]
            past = idle >= IDLE and rank < len(by_use) - KEPT
            if past or (rank < too_many and idle >= IN_USE):
                self._close(node, connections[node])

    def _dial(self, node: NodeId, locations: list[HostPort]) -> None:
        self._peers.want(
            str(node), locations, TargetKind.CONTACT, self._clock(), expect=node, more=True
        )
        self._wake()

    def _last_use(self, connection: Connection) -> float:
        node = connection.member.node_id
        since = self._peers.since(node) or 0.0
        return max(self._used.get(node, 0.0), connection.carried_at or 0.0, since)

    def _close(self, node: NodeId, connection: Connection) -> None:
        for target in self._peers.targets():
            # Forgotten first: what is closed on purpose is not to be connected to again.
            if node in (target.expect, target.node):
                self._peers.forget(target.key)
        self._used.pop(node, None)
        connection.close(CloseCode.DONE, "idle")
