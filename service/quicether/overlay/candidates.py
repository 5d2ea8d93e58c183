"""From what a connected peer says of itself to candidates for the routing table. Pure.

A peer's word counts only as far as its certificate (or pin) reaches: a prefix that it does not
cover never becomes a route, however often it is announced. Nor does a default route: who
wants one names the node in default-gateway.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from quicether.model import Member, NextHop, Prefix, Route, RouteSource


@dataclass(frozen=True, slots=True)
class Candidates:
    """Routes that a peer's announcement yields, and the prefixes that it may not announce."""

    routes: tuple[Route, ...]
    uncovered: tuple[Prefix, ...]


def candidates(
    member: Member, owned: Iterable[Prefix], forwarded: Iterable[Prefix] = ()
) -> Candidates:
    """Return the routes to a connected member.

    owned: prefixes the peer announces as their owner, its own addresses come by themselves.
    forwarded: prefixes of other nodes that it offers to forward for as a gateway.
    """
    routes: dict[tuple[Prefix, NextHop], Route] = {}
    uncovered: list[Prefix] = []
    offers = (
        (member.host_prefixes, NextHop.to_node(member.node_id)),
        (owned, NextHop.to_node(member.node_id)),
        (forwarded, NextHop.via_gateway(member.node_id)),
    )
    for prefixes, next_hop in offers:
        for prefix in prefixes:
            if not member.covers(prefix):
                uncovered.append(prefix)
            elif prefix.prefixlen > 0:
                routes[prefix, next_hop] = Route(prefix, next_hop, RouteSource.ANNOUNCED)
    return Candidates(tuple(routes.values()), tuple(uncovered))
