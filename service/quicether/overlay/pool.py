"""Connections for questions of the DHT: opened on demand, at rest while nobody uses them.

A new connection costs about five kilobytes, and one that is kept awake 0.1 kbit/s: more than what
is asked over it. So what is idle rests: nothing goes over it until somebody has a question again,
which is half an hour later or two. The few that were used last keep a NAT's mapping, which lets
those behind one be asked. A node closes only what it opened itself: the other side cannot know
what a user configured here. What carries packets is not idle.
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
from quicether.transport.endpoint import CloseCode, Connection, KeepAlive

IDLE: Final = 10_800.0
"""Seconds without packets and questions after which a connection is closed.

Longer than the two and a half hours that the refresh of a full bucket takes to come round to a
contact again, else each time would cost a new connection; shorter than `tls.IDLE_TIMEOUT`.
"""
QUIET: Final = 120.0
"""Seconds without packets after which a connection may rest."""
KEPT: Final = 1
"""So many idle connections keep their mappings in NATs, the most recently used."""
MAX_POOLED: Final = 384
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
        idle = {
            node: now - self._last_use(connection)
            for node, connection in connections.items()
            if node not in configured
        }
        mine = [
            node
            for node in sorted(idle, key=lambda node: idle[node])
            if connections[node].initiated
        ]
        kept = mine[:KEPT]
        for node, connection in connections.items():
            if node in configured or not self._is_quiet(connection, now):
                connection.keep_alive(KeepAlive.AWAKE)
            else:
                connection.keep_alive(KeepAlive.MAPPED if node in kept else KeepAlive.RESTING)
        for rank, node in enumerate(mine):
            past = idle[node] >= IDLE and rank >= KEPT
            if past or (rank >= MAX_POOLED and idle[node] >= IN_USE):
                self._close(node, connections[node])

    def _dial(self, node: NodeId, locations: list[HostPort]) -> None:
        self._peers.want(
            str(node), locations, TargetKind.CONTACT, self._clock(), expect=node, more=True
        )
        self._wake()

    def _is_quiet(self, connection: Connection, now: float) -> bool:
        asked_at, carried_at = self._asked_at(connection), connection.carried_at
        carried_lately = carried_at is not None and now - carried_at < QUIET
        return now - asked_at >= IN_USE and not carried_lately

    def _asked_at(self, connection: Connection) -> float:
        node = connection.member.node_id
        return max(self._used.get(node, 0.0), self._peers.since(node) or 0.0)

    def _last_use(self, connection: Connection) -> float:
        return max(self._asked_at(connection), connection.carried_at or 0.0)

    def _close(self, node: NodeId, connection: Connection) -> None:
        for target in self._peers.targets():
            # Forgotten first: what is closed on purpose is not to be connected to again.
            if node in (target.expect, target.node):
                self._peers.forget(target.key)
        self._used.pop(node, None)
        connection.close(CloseCode.DONE, "idle")
