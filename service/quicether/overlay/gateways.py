"""What a gateway offers to forward, from what it is told and whom it reaches now. Pure.

A gateway forwards for others while they cannot reach an owner themselves, so it offers a prefix
only while it reaches it:

- its forward-subnets, as far as they lie in its own LAN: they become Local here;
- its forward-subnets, as far as a connected peer owns them;
- the addresses and prefixes of those of its forward-nodes that are connected;
- the addresses of every connected peer: without them what it forwards to could not answer. A
  node that is an exit to the internet and nothing else needs that for nobody.

All within its certificate, and never through another gateway, so offers cannot feed on each
other. A default route is offered too (an exit node), but nobody takes one unasked: it counts for
those who name the node in default-gateway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from quicether.model import Member, NodeId, Prefix
from quicether.overlay.routes import OverlayRoutes

EVERY_NODE: Final = "*"
MAX_OFFERS: Final = 1000
"""Prefixes that one gateway offers: what one Announce carries."""
_MAX_REFUSALS: Final = 8


@dataclass(frozen=True, slots=True)
class Forwarding:
    """What a gateway is told to forward for.

    nodes: names, ids or beginnings of ids, or EVERY_NODE.
    """

    subnets: tuple[Prefix, ...] = ()
    nodes: tuple[str, ...] = ()

    def names(self, member: Member) -> bool:
        """Tell whether a member is one of the nodes."""
        return any(node == EVERY_NODE or member.is_called(node) for node in self.nodes)


@dataclass(frozen=True, slots=True)
class Offers:
    """What a gateway can forward now.

    local: of its forward-subnets, what lies in its own LAN. forwards: all that it announces,
    sorted, local included. nodes: of that, what each connected node is reached at. reached: the
    same by prefix, as far as it is announced: packets that come for it go to one of these nodes.
    refusals: a sentence for each thing that is asked for and cannot be offered.
    """

    local: tuple[Prefix, ...] = ()
    forwards: tuple[Prefix, ...] = ()
    nodes: Mapping[NodeId, tuple[Prefix, ...]] = field(default_factory=dict)
    reached: Mapping[Prefix, tuple[NodeId, ...]] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()


NOTHING: Final = Offers()


def offers(
    me: Member,
    forwarding: Forwarding,
    lan: Iterable[Prefix],
    connected: Mapping[Member, Iterable[Prefix]],
) -> Offers:
    """Return what a gateway can forward now.

    lan: networks that the host reaches without the overlay, default routes not among them.
    connected: the peers that are reached directly now, with the prefixes that they own.
    """
    refusals: list[str] = []
    local = sorted(set(_in_lan(forwarding.subnets, tuple(lan))), key=_order)
    nodes: dict[NodeId, tuple[Prefix, ...]] = {}
    exit_only = not forwarding.nodes and not any(each.prefixlen for each in forwarding.subnets)
    for member, owned in () if exit_only else connected.items():
        named = forwarding.names(member)
        wanted = set(member.host_prefixes)
        wanted |= {p for p in owned if named or any(_inside(p, f) for f in forwarding.subnets)}
        refused = {prefix for prefix in wanted if not me.covers(prefix)}
        if refused:
            listed = ", ".join(map(str, sorted(refused, key=_order)[:4]))
            refusals.append(
                f"gateway: {member.name} is not reached through this node at {listed}, which its "
                "certificate does not cover; have it signed with the prefixes it forwards for"
            )
        if wanted - refused:
            nodes[member.node_id] = tuple(sorted(wanted - refused, key=_order))
    found = sorted({*local, *(p for each in nodes.values() for p in each)}, key=_order)
    if len(found) > MAX_OFFERS:
        refusals.append(f"gateway: {len(found)} prefixes, of which {MAX_OFFERS} are announced")
    forwards = tuple(found[:MAX_OFFERS])
    return Offers(
        tuple(local),
        forwards,
        MappingProxyType(nodes),
        MappingProxyType(_by_prefix(forwards, nodes)),
        tuple(sorted(refusals)[:_MAX_REFUSALS]),
    )


class Offering:
    """Keeps what this node offers, and thinks it over only where something of it changed."""

    def __init__(self, me: Member, routes: OverlayRoutes) -> None:
        """routes: what says which prefixes a peer owns."""
        self._me = me
        self._routes = routes
        self._basis: object = None
        self._offers = NOTHING

    def look(
        self, forwarding: Forwarding | None, lan: tuple[Prefix, ...], reached: tuple[Member, ...]
    ) -> Offers:
        """Return what can be forwarded now.

        forwarding: None for a node that is no gateway. reached: peers that answer directly. The
        same object comes back while nothing is different.
        """
        basis = (self._routes.version, forwarding, lan, reached)
        if basis != self._basis:
            self._basis = basis
            self._offers = NOTHING
            if forwarding is not None:
                owned = {member: self._routes.owned_by(member.node_id) for member in reached}
                self._offers = offers(self._me, forwarding, lan, owned)
        return self._offers


def _by_prefix(
    announced: Iterable[Prefix], nodes: Mapping[NodeId, tuple[Prefix, ...]]
) -> dict[Prefix, tuple[NodeId, ...]]:
    reached: dict[Prefix, tuple[NodeId, ...]] = dict.fromkeys(announced, ())
    for node, prefixes in nodes.items():
        for prefix in prefixes:
            if prefix in reached:
                reached[prefix] += (node,)
    return reached


def _in_lan(subnets: Iterable[Prefix], lan: tuple[Prefix, ...]) -> Iterable[Prefix]:
    """Yield what of subnets lies in the LAN; a default route always does: it is the internet."""
    for subnet in subnets:
        if subnet.prefixlen == 0 or any(_inside(subnet, network) for network in lan):
            yield subnet
        else:
            yield from (network for network in lan if _inside(network, subnet))


def _inside(inner: Prefix, outer: Prefix) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _order(prefix: Prefix) -> tuple[int, int, int]:
    return prefix.version, int(prefix.network_address), prefix.prefixlen
