"""The overlay's routes of one tunnel: every candidate, the FIB they make, and whom they lead to.

Pure: members, announcements and reachability come in; snapshots for the data path come out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from quicether.dataplane.snapshot import Link, PacketPolicy, Service, Snapshot
from quicether.errors import ConfigError
from quicether.model import (
    LOCAL,
    Member,
    NextHop,
    NextHopKind,
    NodeId,
    Prefix,
    Route,
    RouteSource,
    host_prefix,
)
from quicether.overlay.candidates import candidates
from quicether.overlay.desired import HostRouteSelection
from quicether.overlay.outside import overlay_ranges
from quicether.routing.fib import FibView, ForwardingTable, Owners
from quicether.routing.table import RouteChange, RoutingTable


class OverlayRoutes:
    """Keeps the routing table, the FIB and the known members in step.

    static: prefixes that the user sends to a node, by the node's name or id; each counts from
    the moment that node is known. default_gateway: likewise, for what no prefix matches.
    """

    def __init__(
        self,
        me: Member,
        *,
        static: Iterable[tuple[Prefix, str]] = (),
        default_gateway: str | None = None,
    ) -> None:
        self._me = me
        self._table = RoutingTable()
        # A member that is not known yet is looked up, whatever everything else goes to.
        self._fib = ForwardingTable(overlay_ranges(me))
        self.for_host: Final = HostRouteSelection()
        """What of these routes the OS is to have."""
        self._members: dict[NodeId, Member] = {}
        self._members_version = 0
        self._owners: Owners | None = None
        self._served: dict[NodeId, frozenset[Prefix]] = {}
        self._exits: dict[NodeId, frozenset[int]] = {}
        self._forwarded: dict[NodeId, frozenset[Prefix]] = {}
        self._recorded: dict[NodeId, tuple[Prefix, ...]] = {}
        self._static = tuple(static)
        self._default_gateway = default_gateway
        self.services: Mapping[bytes, Service] = {}
        """What answers this host in this process, by packed address; see `Snapshot`."""
        self.serve(())

    def serve(self, prefixes: Iterable[Prefix]) -> None:
        """Make this node the owner of prefixes beside its own addresses, in place of earlier."""
        local = (*self._me.host_prefixes, *prefixes)
        self._apply(self._table.replace(LOCAL, RouteSource.CONFIGURED, local))

    def learn(self, member: Member) -> None:
        """Take in a member whose certificate was checked, connected or not."""
        if self._members.get(member.node_id) == member:
            return
        self._members[member.node_id] = member
        self._members_version += 1
        self._owners = None
        for prefix, reference in self._static:
            if member.is_called(reference) and member.covers(prefix):
                hop = NextHop.to_node(member.node_id)
                self._served.pop(member.node_id, None)
                self._apply([self._table.add(prefix, hop, RouteSource.CONFIGURED)])
        if self._default_gateway is not None and member.is_called(self._default_gateway):
            self._fib.default_gateway = member.node_id

    def announced(
        self, member: Member, owned: Iterable[Prefix], forwarded: Iterable[Prefix]
    ) -> tuple[Prefix, ...]:
        """Take what a connected member says it serves, in place of what it said before.

        Returns the prefixes that its certificate does not cover; they have no effect.
        """
        self.learn(member)
        node, forwarded = member.node_id, tuple(forwarded)
        found = candidates(member, owned, forwarded)
        self._served.pop(node, None)
        self._exits[node] = frozenset(
            prefix.version
            for prefix in forwarded
            if prefix.prefixlen == 0 and member.covers(prefix)
        )
        for hop in (NextHop.to_node(node), NextHop.via_gateway(node)):
            prefixes = [route.prefix for route in found.routes if route.next_hop == hop]
            self._apply(self._table.replace(hop, RouteSource.ANNOUNCED, prefixes))
        self._forwarded[node] = frozenset(forwarded)
        self._weigh_records(node)
        return found.uncovered

    def discovered(self, member: Member, next_hop: NextHop, prefixes: Iterable[Prefix]) -> None:
        """Take what signed records say of a member, in place of what they said before.

        The records were checked against the member's certificate by whoever read them. A default
        route among them has no effect.
        """
        self.learn(member)
        self._served.pop(member.node_id, None)
        prefixes = [prefix for prefix in prefixes if prefix.prefixlen > 0]
        if next_hop.kind is NextHopKind.GATEWAY:
            if prefixes:
                self._recorded[member.node_id] = tuple(prefixes)
            else:
                self._recorded.pop(member.node_id, None)
            self._weigh_records(member.node_id)
        else:
            self._apply(self._table.replace(next_hop, RouteSource.DISCOVERED, prefixes))

    def unannounced(self, node: NodeId) -> None:
        """Drop what a node said of itself while it was connected; records and settings stay."""
        self._served.pop(node, None)
        self._exits.pop(node, None)
        self._forwarded.pop(node, None)
        self._weigh_records(node)
        for hop in (NextHop.to_node(node), NextHop.via_gateway(node)):
            self._apply(self._table.replace(hop, RouteSource.ANNOUNCED, ()))

    def reachable(self, node: NodeId, *, reachable: bool, rtt: float | None = None) -> None:
        """Say whether a connection to node works now, and its round-trip time in seconds."""
        self._apply(self._table.update_node(node, reachable=reachable, rtt=rtt))

    def is_reachable(self, node: NodeId) -> bool:
        """Tell whether a connection to node works now, by what `reachable` said last."""
        return self._table.is_reachable(node)

    def forget(self, node: NodeId) -> None:
        """Drop a member and every route over it: it was revoked or left."""
        self._members.pop(node, None)
        self._members_version += 1
        self._served.pop(node, None)
        self._exits.pop(node, None)
        self._forwarded.pop(node, None)
        self._recorded.pop(node, None)
        self._owners = None
        self._apply(self._table.withdraw_node(node))
        if self._fib.default_gateway == node:
            self._fib.default_gateway = None

    def member(self, node: NodeId) -> Member | None:
        """Return what is known of a node."""
        return self._me if node == self._me.node_id else self._members.get(node)

    def members(self) -> list[Member]:
        """Return every other member that is known, connected or not."""
        return list(self._members.values())

    def find(self, reference: str) -> list[Member]:
        """Return the members that a name, a NodeId or the beginning of one means."""
        everyone = (self._me, *self._members.values())
        exact = [member for member in everyone if member.name == reference]
        return exact or [member for member in everyone if member.is_called(reference)]

    def only(self, reference: str) -> Member:
        """Return the one member that a name, a NodeId or the beginning of one means.

        Raises ConfigError: nobody or more than one.
        """
        found = self.find(reference)
        if len(found) == 1:
            return found[0]
        if not found:
            raise ConfigError(f"node {reference!r} is not known on this network")
        names = ", ".join(f"{member.name} ({member.node_id.short})" for member in found[:4])
        raise ConfigError(f"node {reference!r} may be any of {names}; write more of its id")

    def prefixes(self) -> list[Prefix]:
        """Return every prefix that has a route, in no order."""
        return self._table.prefixes()

    def owned_by(self, node: NodeId) -> frozenset[Prefix]:
        """Return every prefix that node is known to own, its own addresses included."""
        return self._table.prefixes_over(NextHop.to_node(node))

    def owners_of(self, prefix: Prefix) -> list[Member | None]:
        """Return who may own exactly this prefix, in no order; None for who is not known."""
        return [self.member(node) for node in self._table.owners_of(prefix)]

    def is_exit(self, node: NodeId, version: int) -> bool:
        """Tell whether a member offers to forward to the internet by that IP version."""
        return version in self._exits.get(node, ())

    def standing_in_for(self, node: NodeId) -> NodeId | None:
        """Return the gateway that is the way to a member's own addresses now, if one is."""
        member = self._members.get(node)
        for address in () if member is None else member.addresses:
            hop = self._fib.view.lookup(address.packed)
            best = next(iter(self._table.candidates(host_prefix(address))), None)
            if best is not None and hop is not None and hop.kind is NextHopKind.GATEWAY:
                return hop.node if best.reachable else None
        return None

    def candidates(self, prefix: Prefix) -> tuple[Route, ...]:
        """Return every candidate for a prefix, the best first."""
        return self._table.candidates(prefix)

    def candidate_count(self, prefix: Prefix) -> int:
        """Return how many candidates there are for a prefix."""
        return self._table.candidate_count(prefix)

    @property
    def fib(self) -> FibView:
        """The present FIB: the same object until a next hop changes."""
        return self._fib.view

    @property
    def default_gateway(self) -> NodeId | None:
        """The node that gets what no prefix matches, once it is known."""
        return self._fib.default_gateway

    @property
    def version(self) -> int:
        """Another number whenever a candidate came or went."""
        return self._table.version

    @property
    def revision(self) -> tuple[int, int, int]:
        """Something else whenever anything that can be asked here may be different."""
        return self._table.version, self._table.paths_version, self._members_version

    @property
    def owners_revision(self) -> tuple[int, int]:
        """Something else whenever `owners_of` may be."""
        return self._table.version, self._members_version

    @property
    def size(self) -> int:
        """How many candidates there are, of all prefixes together."""
        return self._table.size

    @property
    def kinds(self) -> Mapping[NextHopKind, int]:
        """How many prefixes lead to a next hop of each kind."""
        return self._fib.kinds

    @property
    def refused(self) -> int:
        """Candidates turned away because a bound of the table was reached."""
        return self._table.refused

    def snapshot(
        self,
        connected: Iterable[NodeId],
        links: Mapping[NodeId, Link],
        policy: PacketPolicy | None,
        offered: Mapping[Prefix, tuple[NodeId, ...]] | None = None,
    ) -> Snapshot:
        """Return what the data path is to use from now on.

        connected: whose packets are taken. links: over what packets go to those who are ready.
        offered: what this node forwards to as a gateway, and to whom, None where it is none.
        """
        fib = self._fib.view
        if self._owners is None:
            self._owners = Owners(fib, dict(self._members), self._me)
        else:
            self._owners = self._owners.with_fib(fib)
        members = {node: self._members[node] for node in connected if node in self._members}
        return Snapshot(
            fib=fib,
            links=MappingProxyType(dict(links)),
            members=MappingProxyType(members),
            candidates=MappingProxyType({node: self._prefixes_of(node) for node in members}),
            local=frozenset(address.packed for address in self._me.addresses),
            me=self._me,
            owners=self._owners,
            policy=policy,
            forwards=offered is not None,
            offered=offered or {},
            services=self.services,
        )

    def _weigh_records(self, node: NodeId) -> None:
        """Take what records say that a gateway forwards for, unless it says otherwise itself.

        Its records stay for a while after it lost whom they lead to; what a gateway tells those
        who are connected to it is true now.
        """
        said, recorded = self._forwarded.get(node), self._recorded.get(node, ())
        prefixes = [prefix for prefix in recorded if said is None or prefix in said]
        hop = NextHop.via_gateway(node)
        self._apply(self._table.replace(hop, RouteSource.DISCOVERED, prefixes))

    def _prefixes_of(self, node: NodeId) -> frozenset[Prefix]:
        """Return the prefixes that a node is a candidate for; looked up once for each change."""
        served = self._served.get(node)
        if served is None:
            served = self._served[node] = self._table.prefixes_of(node)
        return served

    def _apply(self, changes: Iterable[RouteChange | None]) -> None:
        for change in changes:
            if change is not None:
                self._fib.apply((change,))
                next_hop = None if change.new is None else change.new.next_hop
                self.for_host.turn(change.prefix, next_hop)
