"""What this node says of itself in the DHT, from what it serves. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from quicether.dht.contents import (
    Content,
    GatewayContent,
    GatewaySubnetContent,
    NodeContent,
    SubnetContent,
)
from quicether.dht.publisher import MAX_CONTENTS
from quicether.model import Member, Prefix, UnderlayAddress
from quicether.overlay.gateways import Offers

MAX_ADDRESSES: Final = 8
"""Underlay addresses in one NODE record."""
_MAX_GATEWAY_PREFIXES: Final = 16


@dataclass(frozen=True, slots=True)
class Advertisement:
    """Contents to publish, the most important first, and a sentence for what did not fit."""

    contents: tuple[Content, ...]
    refusals: tuple[str, ...] = ()


def advertisement(
    me: Member,
    addresses: Iterable[UnderlayAddress],
    capabilities: Iterable[str],
    owned: Iterable[Prefix],
    offers: Offers,
) -> Advertisement:
    """Return what a node publishes.

    addresses: where it can be reached, best first. owned: prefixes behind it, its own addresses
    not included. offers: what it forwards as a gateway; single addresses of other nodes become
    one GW record a node, everything else GW_SUBNET records.
    """
    reach = tuple(dict.fromkeys(addresses))[:MAX_ADDRESSES]
    found: list[Content] = [NodeContent(addresses=reach, capabilities=tuple(sorted(capabilities)))]
    own = dict.fromkeys((*me.host_prefixes, *owned))
    found += [SubnetContent(prefix=prefix) for prefix in own]
    found += [
        GatewaySubnetContent(prefix=prefix)
        for prefix in offers.forwards
        if prefix.prefixlen < prefix.max_prefixlen and prefix not in own
    ]
    found += [
        GatewayContent(node=node, prefixes=prefixes[:_MAX_GATEWAY_PREFIXES])
        for node, prefixes in offers.nodes.items()
    ]
    if len(found) <= MAX_CONTENTS:
        return Advertisement(tuple(found))
    sentence = (
        f"advertise: {len(found)} records are needed and one node can publish {MAX_CONTENTS}; "
        "the rest is known to connected peers alone"
    )
    return Advertisement(tuple(found[:MAX_CONTENTS]), (sentence,))
