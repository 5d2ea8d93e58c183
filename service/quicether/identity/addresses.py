"""Overlay addresses: where each node's own IPv4 and IPv6 address comes from. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from quicether.errors import ConfigError
from quicether.model import Address, NodeId

IPV4_POOL: Final = IPv4Network("100.64.0.0/10")
"""Shared address space (RFC 6598): on no LAN, and not routed on the Internet."""
_NEVER: Final = ("loopback", "link_local", "multicast", "unspecified")
_BROADCAST: Final = IPv4Address("255.255.255.255")
_NAMES_HOST: Final = 0x53
"""Host part of the IPv6 address for names: ::53, as DNS's port."""


def check_overlay_address(address: Address) -> Address:
    """Return address if a node may have it in the overlay.

    Raises ConfigError: it is never routed (loopback, link-local, multicast and so on).
    """
    why = next((kind for kind in _NEVER if getattr(address, f"is_{kind}")), None)
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        why = why or "of one link"
    if why is None and address == _BROADCAST:
        why = "broadcast"
    if why is not None:
        raise ConfigError(
            f"{address} is {why.replace('_', '-')}, so no node can have it in the overlay"
        )
    return address


def network_prefix(network_id: bytes) -> IPv6Network:
    """Return the network's own unique local /48 (RFC 4193): fd, then 40 bits of its id.

    network_id: 32 bytes, itself a hash of the authority's public key.
    """
    return IPv6Network((b"\xfd" + network_id[:5] + bytes(10), 48))


def ipv6_address(network_id: bytes, node_id: NodeId) -> IPv6Address:
    """Return the node's IPv6 address: the network's /48, then 80 bits of the NodeId."""
    return IPv6Address(b"\xfd" + network_id[:5] + node_id.value[:10])


def names_ipv4(network_id: bytes) -> IPv4Address:
    """Return the IPv4 address at which every node answers its own host for the network's names.

    No node has it. It is another one in each network, so that a host can be in several.
    """
    digest = hashlib.sha256(b"quicether names\0" + network_id).digest()
    usable = IPV4_POOL.num_addresses - 2
    return IPV4_POOL.network_address + 1 + int.from_bytes(digest) % usable


def names_addresses(network_id: bytes) -> tuple[IPv4Address, IPv6Address]:
    """Return both addresses at which a node answers its own host for the network's names."""
    return names_ipv4(network_id), network_prefix(network_id)[_NAMES_HOST]


def ipv4_candidates(
    network_id: bytes, node_id: NodeId, pool: IPv4Network = IPV4_POOL
) -> Iterator[IPv4Address]:
    """Yield every usable address of pool once, beginning at one that the node's id chooses.

    The first and the last address of the pool are left out: some stacks take them for the
    network and its broadcast. So is the one of the network's names.
    """
    reserved = names_ipv4(network_id)
    usable = pool.num_addresses - 2
    digest = hashlib.sha256(b"quicether ipv4\0" + network_id + node_id.value).digest()
    start = int.from_bytes(digest) % usable if usable > 0 else 0
    base = int(pool.network_address) + 1
    for step in range(usable):
        candidate = IPv4Address(base + (start + step) % usable)
        if candidate != reserved:
            yield candidate


def choose_ipv4(
    network_id: bytes,
    node_id: NodeId,
    taken: Collection[IPv4Address],
    pool: IPv4Network = IPV4_POOL,
) -> IPv4Address:
    """Return the node's first candidate that is not taken.

    Raises ConfigError: the pool is full.
    """
    for candidate in ipv4_candidates(network_id, node_id, pool):
        if candidate not in taken:
            return candidate
    raise ConfigError(f"address pool {pool} has no free address left")


def derived_addresses(
    node_id: NodeId, network_id: bytes, taken: Collection[IPv4Address] = ()
) -> tuple[IPv4Address, IPv6Address]:
    """Return the addresses of a node that no authority gave any (a pinned peer).

    taken: IPv4 addresses of nodes that come first; the next candidate is used on conflict.
    """
    return choose_ipv4(network_id, node_id, taken), ipv6_address(network_id, node_id)
