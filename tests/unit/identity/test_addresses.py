"""The address of a network's names: in no node's hands, and another one in each network."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address

from quicether.identity.addresses import (
    IPV4_POOL,
    ipv4_candidates,
    ipv6_address,
    names_addresses,
    network_prefix,
)
from quicether.model import NodeId

NETWORK = bytes(range(32))
NODE = NodeId(bytes(20))


def test_no_node_is_offered_the_address_for_names() -> None:
    ipv4, ipv6 = names_addresses(NETWORK)
    pool = IPv4Network((ipv4, 27), strict=False)
    offered = list(ipv4_candidates(NETWORK, NODE, pool))
    assert ipv4 not in offered
    assert len(set(offered)) == len(offered) >= 29
    assert ipv6 != ipv6_address(NETWORK, NODE)


def test_it_lies_in_the_ranges_of_the_overlay() -> None:
    ipv4, ipv6 = names_addresses(NETWORK)
    assert ipv4 in IPV4_POOL
    assert ipv6 == IPv6Address(int(network_prefix(NETWORK).network_address) + 0x53)


def test_a_host_in_several_networks_has_one_for_each() -> None:
    networks = [names_addresses(bytes([number]) * 32) for number in range(64)]
    assert len({ipv4 for ipv4, _ in networks}) == len({ipv6 for _, ipv6 in networks}) == 64
