"""The 160-bit key space: XOR distance, and under which keys each thing is kept. Pure.

Every key is the first 160 bits of SHA-256 over the network id and a name, so two networks that
share nodes share no keys:

    NODE:<NodeId>       where a node can be reached
    SUBNET:<CIDR>       who owns a prefix
    GW:<NodeId>         who forwards to a node
    GW_SUBNET:<CIDR>    who forwards to a prefix
    INDEX:<CIDR>        all SUBNET and GW_SUBNET records of the prefixes inside one block
    INDEX:any           the same, for what lies outside the three private blocks of IPv4

The blocks are 10.0.0.0/8, 172.0.0.0/8 and 192.0.0.0/8 for private IPv4 (RFC 1918), /12 for other
IPv4, /32 for IPv6. An address without a known prefix is found by asking for its host prefix, its
block and INDEX:any; all prefixes of the network by asking the three private blocks and INDEX:any,
which also holds what is wider than a block (a default route). Host prefixes (/32, /128) are in no
index: an overlay of ten thousand nodes has ten thousand of them, and each one's own key answers.
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from quicether.model import Address, NodeId, Prefix, host_prefix

KEY_BITS: Final = 160
KEY_BYTES: Final = KEY_BITS // 8
_PRIVATE: Final = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
)
_PRIVATE_BLOCK_BITS: Final = 8
_IPV4_BLOCK_BITS: Final = 12
_IPV6_BLOCK_BITS: Final = 32
_ANY: Final = "any"


def bucket_index(a: int, b: int) -> int:
    """Return the highest bit in which two different keys differ, 0 to 159; -1 for equal ones."""
    return (a ^ b).bit_length() - 1


def key_bytes(key: int) -> bytes:
    """Return a key as 20 bytes, network order."""
    return key.to_bytes(KEY_BYTES)


def key_of(network_id: bytes, kind: str, name: object) -> int:
    """Return the key of the thing called `kind:name` in one network."""
    digest = hashlib.sha256(network_id + f"{kind}:{name}".encode()).digest()
    return int.from_bytes(digest[:KEY_BYTES])


def node_key(network_id: bytes, node: NodeId) -> int:
    """Return the key of a node's own NODE record."""
    return key_of(network_id, "NODE", node)


def subnet_key(network_id: bytes, prefix: Prefix) -> int:
    """Return the key of the SUBNET records of one prefix."""
    return key_of(network_id, "SUBNET", prefix)


def gateway_key(network_id: bytes, node: NodeId) -> int:
    """Return the key of the GW records of those who forward to a node."""
    return key_of(network_id, "GW", node)


def gateway_subnet_key(network_id: bytes, prefix: Prefix) -> int:
    """Return the key of the GW_SUBNET records of those who forward to a prefix."""
    return key_of(network_id, "GW_SUBNET", prefix)


def index_keys(network_id: bytes, prefix: Prefix) -> tuple[int, ...]:
    """Return the index keys under which the records of a prefix are kept; none for a host's."""
    if prefix.prefixlen == prefix.max_prefixlen:
        return ()
    block = _block(prefix)
    names: list[object] = [] if block is None else [block]
    if not _is_private(prefix):
        names.append(_ANY)
    return tuple(key_of(network_id, "INDEX", name) for name in names)


def directory_keys(network_id: bytes) -> tuple[int, ...]:
    """Return the index keys that together hold every indexed prefix of the network."""
    blocks = [_block(private) for private in _PRIVATE]
    return tuple(key_of(network_id, "INDEX", name) for name in (*blocks, _ANY))


def any_key(network_id: bytes) -> int:
    """Return the index key of all that lies outside the private blocks of IPv4."""
    return key_of(network_id, "INDEX", _ANY)


def address_keys(network_id: bytes, address: Address) -> tuple[int, ...]:
    """Return the keys that hold the records of every prefix that could cover an address."""
    host = host_prefix(address)
    block = _block(host)
    return (
        subnet_key(network_id, host),
        key_of(network_id, "INDEX", block),
        key_of(network_id, "INDEX", _ANY),
    )


def _is_private(prefix: Prefix) -> bool:
    return isinstance(prefix, IPv4Network) and any(prefix.subnet_of(block) for block in _PRIVATE)


def _block(prefix: Prefix) -> Prefix | None:
    if isinstance(prefix, IPv6Network):
        bits = _IPV6_BLOCK_BITS
    elif _is_private(prefix):
        bits = _PRIVATE_BLOCK_BITS
    else:
        bits = _IPV4_BLOCK_BITS
    return None if prefix.prefixlen < bits else prefix.supernet(new_prefix=bits)
