"""The overlay's routes of one tunnel: every candidate, the FIB they make, and whom they lead to.

Pure: members, announcements and reachability come in; snapshots for the data path come out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from quicether.dataplane.snapshot import Link, PacketPolicy, Snapshot
from quicether.model import LOCAL, Member, NextHop, NodeId, Prefix, Route, RouteSource
from quicether.overlay.candidates import candidates
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
        self._fib = ForwardingTable()
        self._members: dict[NodeId, Member] = {}
        self._owners: Owners | None = None
        self._static = tuple(static)
        self._default_gateway = default_gateway
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
        self._owners = None
        for prefix, reference in self._static:
            if member.is_called(reference) and member.covers(prefix):
                hop = NextHop.to_node(member.node_id)
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
        found = candidates(member, owned, forwarded)
        for hop in (NextHop.to_node(member.node_id), NextHop.via_gateway(member.node_id)):
            prefixes = [route.prefix for route in found.routes if route.next_hop == hop]
            self._apply(self._table.replace(hop, RouteSource.ANNOUNCED, prefixes))
        return found.uncovered

    def discovered(self, member: Member, next_hop: NextHop, prefixes: Iterable[Prefix]) -> None:
        """Take what signed records say of a member, in place of what they said before.

        The records were checked against the member's certificate by whoever read them.
        """
        self.learn(member)
        self._apply(self._table.replace(next_hop, RouteSource.DISCOVERED, prefixes))

    def reachable(self, node: NodeId, *, reachable: bool, rtt: float | None = None) -> None:
        """Say whether a connection to node works now, and its round-trip time in seconds."""
        self._apply(self._table.update_node(node, reachable=reachable, rtt=rtt))

    def forget(self, node: NodeId) -> None:
        """Drop a member and every route over it: it was revoked or left."""
        self._members.pop(node, None)
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

    def best(self) -> dict[Prefix, NextHop]:
        """Return the next hop in force for every prefix."""
        return {route.prefix: route.next_hop for route in self._table}

    def best_routes(self) -> list[Route]:
        """Return the route in force for every prefix, in no order."""
        return list(self._table)

    def owned_by(self, node: NodeId) -> list[Prefix]:
        """Return every prefix that node is known to own, its own addresses included."""
        hop = NextHop.to_node(node)
        return [
            prefix
            for prefix in self._table.prefixes_of(node)
            if any(route.next_hop == hop for route in self._table.candidates(prefix))
        ]

    def candidates(self, prefix: Prefix) -> tuple[Route, ...]:
        """Return every candidate for a prefix, the best first."""
        return self._table.candidates(prefix)

    @property
    def fib(self) -> FibView:
        """The present FIB: the same object until a next hop changes."""
        return self._fib.view

    @property
    def default_gateway(self) -> NodeId | None:
        """The node that gets what no prefix matches, once it is known."""
        return self._fib.default_gateway

    @property
    def refused(self) -> int:
        """Candidates turned away because a bound of the table was reached."""
        return self._table.refused

    def snapshot(
        self, links: Mapping[NodeId, Link], policy: PacketPolicy | None, *, forwards: bool
    ) -> Snapshot:
        """Return what the data path is to use from now on."""
        fib = self._fib.view
        if self._owners is None:
            self._owners = Owners(fib, dict(self._members), self._me)
        else:
            self._owners = self._owners.with_fib(fib)
        return Snapshot(
            fib=fib,
            links=MappingProxyType(dict(links)),
            members=MappingProxyType(
                {node: self._members[node] for node in links if node in self._members}
            ),
            local=frozenset(address.packed for address in self._me.addresses),
            me=self._me,
            owners=self._owners,
            policy=policy,
            forwards=forwards,
        )

    def _apply(self, changes: Iterable[RouteChange | None]) -> None:
        self._fib.apply(change for change in changes if change is not None)
