"""A small overlay in memory for the data path: members, routes and a snapshot made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from quicether.dataplane.packet import PacketView
from quicether.dataplane.snapshot import Link, PacketPolicy, Snapshot
from quicether.model import LOCAL, Member, NextHop, NextHopKind, NodeId, Prefix


def member(name: str, addresses: Iterable[str], prefixes: Iterable[str] = ()) -> Member:
    """A member whose id is made of its name."""
    return Member(
        node_id=NodeId.of_public_key(name.encode()),
        name=name,
        public_key=name.encode(),
        addresses=tuple(ip_address(address) for address in addresses),
        prefixes=tuple(ip_network(prefix) for prefix in prefixes),
    )


class FakeFib:
    """Longest-prefix match by looking at every prefix."""

    def __init__(self, routes: Mapping[str, NextHop]) -> None:
        self._routes: list[tuple[Prefix, NextHop]] = sorted(
            ((ip_network(prefix), hop) for prefix, hop in routes.items()),
            key=lambda route: -route[0].prefixlen,
        )

    def lookup(self, destination: bytes) -> NextHop | None:
        """Return the next hop of the longest prefix that holds destination."""
        address = ip_address(destination)
        return next((hop for prefix, hop in self._routes if address in prefix), None)

    def longest(self, address: bytes) -> Prefix | None:
        """Return the longest prefix that holds address."""
        where = ip_address(address)
        return next((prefix for prefix, _ in self._routes if where in prefix), None)

    def direct(self) -> dict[Prefix, tuple[NodeId, ...]]:
        """Return the prefixes that lead to a node as their owner, with that node."""
        return {
            prefix: (hop.node,)
            for prefix, hop in self._routes
            if hop.kind is NextHopKind.NODE and hop.node is not None
        }

    def candidates(self) -> dict[NodeId, frozenset[Prefix]]:
        """Return the prefixes that lead to each node."""
        nodes = {hop.node for _, hop in self._routes if hop.node is not None}
        return {
            node: frozenset(prefix for prefix, hop in self._routes if hop.node == node)
            for node in nodes
        }


@dataclass
class FakeOwners:
    """Owners by the longest block of a certificate, of which a default route is none."""

    members: list[Member]

    def owner(self, address: bytes) -> Member | None:
        """Return the member with the longest block around address."""
        where = ip_address(address)
        covering = [
            (block.prefixlen, one)
            for one in self.members
            for block in (*one.prefixes, *one.host_prefixes)
            if where in block and block.prefixlen
        ]
        return max(covering, key=lambda pair: pair[0])[1] if covering else None


@dataclass
class FakePolicy:
    """Denies what `denied` names: (source member's name, destination port)."""

    denied: set[tuple[str | None, int | None]] = field(default_factory=set)
    asked: list[tuple[PacketView, str | None, str | None, float]] = field(default_factory=list)

    def vouches(
        self, packet: bytes, source: Member | None, destination: Member | None, now: float
    ) -> bool:
        """Know no flow."""
        return False

    def permits(
        self, packet: PacketView, source: Member | None, destination: Member | None, now: float
    ) -> bool:
        """Tell whether packet may pass, and remember the question."""
        subject = source.name if source is not None else None
        target = destination.name if destination is not None else None
        self.asked.append((packet, subject, target, now))
        return (subject, packet.destination_port) not in self.denied


def snapshot(
    me: Member,
    routes: Mapping[str, NextHop],
    links: Mapping[Member, Link],
    *,
    others: Iterable[Member] = (),
    policy: PacketPolicy | None = None,
    forwards: bool = False,
) -> Snapshot:
    """A snapshot in which `me` has links to the given members and knows `others` beside them.

    Own addresses and prefixes are local without being among routes.
    """
    local = {str(prefix): LOCAL for prefix in (*me.prefixes, *me.host_prefixes)}
    fib = FakeFib({**routes, **local})
    return Snapshot(
        fib=fib,
        links={one.node_id: link for one, link in links.items()},
        members={one.node_id: one for one in links},
        local=frozenset(address.packed for address in me.addresses),
        me=me,
        owners=FakeOwners([me, *links, *others]),
        candidates=fib.candidates(),
        policy=policy,
        forwards=forwards,
        offered=fib.direct() if forwards else {},
    )
