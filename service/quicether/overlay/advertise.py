"""What this node says of itself in the DHT, from what it serves. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from quicether.dht.contents import (
    MAX_CONTENTS,
    Content,
    GatewayContent,
    GatewaySubnetContent,
    NodeContent,
    SubnetContent,
)
from quicether.dht.node import DhtNode
from quicether.dht.records import RecordSigner
from quicether.model import Member, NodeId, Prefix, UnderlayAddress
from quicether.overlay.gateways import Offers

MAX_ADDRESSES: Final = 8
"""Underlay addresses in one NODE record."""
_MAX_GATEWAY_PREFIXES: Final = 16
GATEWAY_LINGER: Final = 60.0
"""Seconds for which a gateway goes on to name a node whose connection is gone."""


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
        f"the last {len(found) - MAX_CONTENTS} are known to connected peers alone"
    )
    return Advertisement(tuple(found[:MAX_CONTENTS]), (sentence,))


class Advertiser:
    """Brings what a DHT machine publishes in line with what the node has to say.

    What a gateway says of other nodes comes and goes with their connections, so a GW record stays
    for `GATEWAY_LINGER` after its node was last connected, unless its place is needed.
    """

    def __init__(self, node: DhtNode) -> None:
        self._node = node
        self._needed: dict[Content, float] = {}

    def publish(self, contents: Iterable[Content], now: float) -> None:
        """Publish contents and withdraw what is no longer among them.

        contents: at most MAX_CONTENTS, as an `Advertisement` has. now: monotonic seconds.
        """
        wanted = {(content.kind, content.subject): content for content in contents}
        present = {(content.kind, content.subject): content for content in self._node.published}
        for content in wanted.values():
            self._needed[content] = now
        idle = [content for key, content in present.items() if key not in wanted]
        idle.sort(key=lambda content: self._needed.get(content, now), reverse=True)
        room = MAX_CONTENTS - len(wanted)
        lingering = 0
        for content in idle:
            needed = self._needed.get(content, now)
            is_gateway = content.kind == GatewayContent.kind
            if is_gateway and now - needed < GATEWAY_LINGER and lingering < room:
                lingering += 1
                continue
            self._needed.pop(content, None)
            self._node.withdraw(content, now)
        for key, content in wanted.items():
            if present.get(key) != content:
                if key in present:
                    self._needed.pop(present[key], None)
                self._node.publish(content, now)

    def withdraw_all(self, now: float) -> None:
        """Take everything back, because the node leaves."""
        for content in self._node.published:
            self._node.withdraw(content, now)
        self._needed.clear()


class RenewableSigner:
    """Signs with the certificate that is in force. sign: Ed25519, with the node's key."""

    def __init__(
        self, network_id: bytes, owner: NodeId, certificate: bytes, sign: Callable[[bytes], bytes]
    ) -> None:
        self.certificate = certificate
        self._network_id = network_id
        self._owner = owner
        self._sign = sign

    def seal(self, content: Content, issued: int, ttl: int) -> bytes:
        """Return a signed record. issued: milliseconds since 1970. ttl: seconds, 0 withdraws."""
        signer = RecordSigner(self._network_id, self._owner, self.certificate, self._sign)
        return signer.seal(content, issued, ttl)
