"""What a tunnel tells of its peers and routes, read off the mesh when somebody asks."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from operator import attrgetter
from typing import Final

from quicether.bus.status import LookupResult, PeerStatus, PingResult, PolicyVerdict, RouteStatus
from quicether.daemon.guard import Guard
from quicether.errors import ConfigError
from quicether.model import (
    Address,
    Member,
    NextHop,
    NextHopKind,
    NodeId,
    PeerState,
    Prefix,
    Route,
    RouteSource,
    host_prefix,
)
from quicether.overlay.mesh import Mesh
from quicether.overlay.peers import TargetKind

PING_PATIENCE: Final = 5.0
"""Seconds that a node has to answer."""


class Report:
    """Tells of the peers and routes of one mesh, and answers questions about them.

    Peers are put together when they are asked for. Routes may be a million: their order is kept
    until one comes or goes, and only those that are asked for are described.
    """

    def __init__(self, mesh: Mesh, guard: Guard) -> None:
        """guard: knows the policy."""
        self._mesh = mesh
        self._guard = guard
        self._rows: list[Prefix] = []
        self._rows_version = mesh.routes.version - 1

    @property
    def peers_revision(self) -> object:
        """Something else whenever there are other peers, or one of them is not what it was."""
        return self._mesh.revision

    @property
    def routes_revision(self) -> object:
        """Something else whenever there are other routes, or one of them is not what it was."""
        routes = self._mesh.routes
        return routes.revision, self._mesh.revision if routes.default_gateway else None

    @property
    def peer_count(self) -> int:
        """How many peers there are."""
        return len(self._peers())

    @property
    def route_count(self) -> int:
        """How many routes there are."""
        return self._mesh.routes.size + len(_everything(self._mesh))

    def peers(self, start: int, count: int) -> list[PeerStatus]:
        """Return at most count peers from the start-th on, by name, then id."""
        return self._peers()[start : start + count]

    def routes(self, start: int, count: int) -> list[RouteStatus]:
        """Return at most count routes from the start-th on.

        Every candidate of every prefix, ordered by prefix, the one in use first; then what the
        default gateway gets.
        """
        rows, routes = self._ordered(), self._mesh.routes
        page = rows[start : start + count]
        found: list[RouteStatus] = []
        # The first row may be one of the later candidates of its prefix.
        rank = start - bisect_left(rows, order(page[0]), hi=start, key=order) if page else 0
        for prefix in dict.fromkeys(page):
            candidates = enumerate(routes.candidates(prefix))
            found += [_route(self._mesh, each, used=at == 0) for at, each in candidates][rank:]
            rank = 0
        found += _everything(self._mesh)[max(start - len(rows), 0) :]
        return found[:count]

    def lookup(self, address: Address, *, asked: bool) -> LookupResult:
        """Return where packets to address go now. asked: the DHT was asked before."""
        return _lookup(self._mesh, address, asked=asked)

    def policy_test(
        self, source: str, destination: Address, protocol: str, port: int | None
    ) -> PolicyVerdict:
        """Say what the policy in force does with a packet. Raises ConfigError."""
        member = self._mesh.routes.only(source)
        receiver = self._mesh.snapshot().owners.owner(destination.packed)
        return self._guard.explain(member, receiver, destination, protocol, port)

    async def ping(self, node: str) -> PingResult:
        """Ask a node for a sign of life. Raises ConfigError, UnreachableError."""
        mesh = self._mesh
        member = mesh.routes.only(node)
        if member.node_id == mesh.me.node_id:
            raise ConfigError(f"node {node!r} is this node itself")
        rtt = await mesh.ping(member.node_id, PING_PATIENCE)
        connection = mesh.peers.active(member.node_id)
        return PingResult(
            node_id=str(member.node_id),
            name=member.name,
            rtt=rtt,
            address=None if connection is None else str(connection.remote),
        )

    def _peers(self) -> list[PeerStatus]:
        offset = time.time() - time.monotonic()
        return _peers(self._mesh, lambda monotonic: monotonic + offset)

    def _ordered(self) -> list[Prefix]:
        """Return all prefixes in order, each as often as it has candidates."""
        routes = self._mesh.routes
        if self._rows_version != routes.version:
            self._rows_version = routes.version
            ordered = sorted(routes.prefixes(), key=order)
            self._rows = [
                prefix for prefix in ordered for _ in range(routes.candidate_count(prefix))
            ]
        return self._rows


def _peers(mesh: Mesh, unix_time: Callable[[float], float]) -> list[PeerStatus]:
    """Return every peer that is wanted, connected or reached by a gateway, by name, then id.

    unix_time: turns the mesh's monotonic seconds into Unix time.
    """
    found: dict[str, PeerStatus] = {}
    reported: set[NodeId] = set()
    for target in mesh.peers.targets():
        node = target.expect or target.node
        member = None if node is None else mesh.routes.member(node)
        state = mesh.peers.state(target)
        if node in reported:
            continue
        if node is not None:
            reported.add(node)
        if state is PeerState.CONNECTED and node is not None:
            found[target.key] = _connected(mesh, node, unix_time)
            continue
        if target.kind is TargetKind.CONTACT:
            # Asked for a moment's question; nobody misses it.
            continue
        via = None if node is None else _via(mesh, node)
        found[target.key] = PeerStatus(
            node_id="" if node is None else str(node),
            name=member.name if member else target.reference or target.key,
            state=state if via is None else PeerState.VIA_GATEWAY,
            address=", ".join(map(str, target.locations)) or None,
            via=via,
            detail=None if target.error is None else str(target.error),
            prefixes=() if node is None else _prefixes(mesh, node),
            addresses=() if member is None else tuple(map(str, member.addresses)),
        )
    for node in mesh.peers.connections():
        if node not in reported:
            reported.add(node)
            found[str(node)] = _connected(mesh, node, unix_time)
    for member in mesh.routes.members():
        node = member.node_id
        if node not in reported and (via := _via(mesh, node)) is not None:
            found[str(node)] = PeerStatus(
                node_id=str(node),
                name=member.name,
                state=PeerState.VIA_GATEWAY,
                via=via,
                prefixes=_prefixes(mesh, node),
                addresses=tuple(map(str, member.addresses)),
            )
    return sorted(found.values(), key=attrgetter("name", "node_id"))


def _connected(mesh: Mesh, node: NodeId, unix_time: Callable[[float], float]) -> PeerStatus:
    connection = mesh.peers.connections()[node]
    member = connection.member
    since = mesh.peers.since(node)
    # A connection whose way is in doubt is there all the same, and a gateway stands in for it.
    via = _via(mesh, node)
    return PeerStatus(
        node_id=str(node),
        name=member.name,
        state=PeerState.CONNECTED if via is None else PeerState.VIA_GATEWAY,
        address=str(connection.remote),
        via=via,
        rtt=connection.rtt,
        addresses=tuple(map(str, member.addresses)),
        prefixes=_prefixes(mesh, node),
        max_packet=connection.max_packet,
        since=None if since is None else unix_time(since),
    )


def _via(mesh: Mesh, node: NodeId) -> str | None:
    """Return the name or id of the gateway by which a node is reached, if it is."""
    gateway = mesh.routes.standing_in_for(node)
    return None if gateway is None else _name(mesh.routes.member(gateway)) or str(gateway)


def _prefixes(mesh: Mesh, node: NodeId) -> tuple[str, ...]:
    """Return what a node owns beside its own addresses."""
    member = mesh.routes.member(node)
    own = () if member is None else member.host_prefixes
    owned = [prefix for prefix in mesh.routes.owned_by(node) if prefix not in own]
    return tuple(map(str, sorted(owned, key=order)))


def _everything(mesh: Mesh) -> list[RouteStatus]:
    """Return what the default gateway gets, if there is one."""
    found: list[RouteStatus] = []
    gateway = mesh.routes.default_gateway
    if gateway is not None:
        hop = NextHop.via_gateway(gateway)
        active = mesh.peers.active(gateway)
        for everything in (IPv4Network("0.0.0.0/0"), IPv6Network("::/0")):
            route = Route(
                everything,
                hop,
                RouteSource.CONFIGURED,
                reachable=active is not None,
                rtt=None if active is None else active.rtt,
            )
            found.append(_route(mesh, route, used=True, default=True))
    return found


def _route(mesh: Mesh, route: Route, *, used: bool, default: bool = False) -> RouteStatus:
    node = route.next_hop.node
    return RouteStatus(
        prefix=str(route.prefix),
        next_hop=route.next_hop.kind,
        source=route.source,
        used=used,
        reachable=route.reachable,
        node_id=None if node is None else str(node),
        node_name=_name(mesh.routes.member(node) if node else None),
        rtt=route.rtt,
        default=default,
    )


def _lookup(mesh: Mesh, address: Address, *, asked: bool) -> LookupResult:
    hop = mesh.routes.fib.lookup(address.packed)
    if hop is None:
        return LookupResult(str(address), asked=asked)
    best: Route | None = None
    prefix: Prefix = host_prefix(address)
    while best is None and prefix.prefixlen:
        best = next(iter(mesh.routes.candidates(prefix)), None)
        prefix = prefix.supernet()
    member = mesh.routes.member(hop.node) if hop.node else mesh.me
    return LookupResult(
        address=str(address),
        prefix=str(best.prefix) if best else str(host_prefix(address).supernet(new_prefix=0)),
        next_hop=hop.kind,
        source=best.source if best else RouteSource.CONFIGURED,
        node_id=str(hop.node or mesh.me.node_id),
        node_name=_name(member),
        reachable=hop.kind is NextHopKind.LOCAL
        or (hop.node is not None and mesh.peers.active(hop.node) is not None),
        asked=asked,
    )


def _name(member: Member | None) -> str | None:
    return None if member is None else member.name


def order(prefix: Prefix) -> tuple[int, int, int]:
    """Return what sorts prefixes: IPv4 first, by address, the shorter first."""
    return prefix.version, int(prefix.network_address), prefix.prefixlen
