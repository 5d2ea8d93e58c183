"""A node as the DHT knows it: its key and the underlay addresses at which it may answer. Pure."""

from __future__ import annotations

import functools
import ipaddress
import struct
from typing import Final, Self

from quicether.errors import ProtocolError
from quicether.model import NODE_ID_BYTES, NodeId, UnderlayAddress

MAX_ENDPOINTS: Final = 4
"""Most underlay addresses that are kept of one node."""
_MEMO: Final = 16_384
"""How many packed contacts the parser remembers: they repeat from answer to answer."""
_SIZE_OF_VERSION: Final = {4: 4, 6: 16}
_PORT: Final = struct.Struct("!H")


class Contact:
    """A node and where to reach it. Immutable; two are equal when their wire forms are.

    Nothing proves a contact but a TLS handshake with its NodeId: one that was made up costs the
    asker an attempt and never enters a bucket.

    key: the NodeId as a number, the node's place in the key space.
    wire: 20 bytes of NodeId, then for each endpoint the IP version (one byte), the address
    (4 or 16 bytes) and the port (2 bytes, network order); at most four endpoints.
    """

    __slots__ = ("key", "wire")

    key: int
    wire: bytes

    def __init__(self, wire: bytes) -> None:
        """Keep a wire form that is known to be well formed; `unpack` is for all others."""
        self.key = int.from_bytes(wire[:NODE_ID_BYTES])
        self.wire = wire

    @classmethod
    def of(cls, node_id: NodeId, *endpoints: UnderlayAddress) -> Self:
        """Return the contact of a node with its endpoints, best first; those past four go."""
        return cls(node_id.value + b"".join(map(_pack, endpoints[:MAX_ENDPOINTS])))

    @staticmethod
    def unpack(wire: bytes) -> Contact:
        """Return the contact that a peer sent.

        Raises ProtocolError: cut short, no endpoint or more than four, or an endpoint that
        nobody can be reached at (port 0, a multicast or an unspecified address).
        """
        return _unpack(wire)

    @property
    def node_id(self) -> NodeId:
        """Who the contact is."""
        return NodeId(self.wire[:NODE_ID_BYTES])

    @property
    def endpoints(self) -> tuple[UnderlayAddress, ...]:
        """Where the node may answer, best first."""
        return tuple(_endpoints(self.wire))

    def merged(self, newer: Contact) -> Contact:
        """Return the contact with newer's endpoints first and the older ones behind them."""
        if newer.wire == self.wire or len(newer.wire) == NODE_ID_BYTES:
            return self
        both = dict.fromkeys((*newer.endpoints, *self.endpoints))
        return Contact.of(self.node_id, *both)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Contact) and self.wire == other.wire

    def __hash__(self) -> int:
        return hash(self.wire)

    def __repr__(self) -> str:
        return f"Contact({self.node_id.short}… at {', '.join(map(str, self.endpoints))})"


@functools.lru_cache(maxsize=_MEMO)
def _unpack(wire: bytes) -> Contact:
    count = 0
    for endpoint in _endpoints(wire):
        address = endpoint.ip
        if endpoint.port == 0 or address.is_multicast or address.is_unspecified:
            raise ProtocolError(f"contact endpoint {endpoint}; nobody can be reached there")
        count += 1
    if not 1 <= count <= MAX_ENDPOINTS:
        raise ProtocolError(f"a contact with {count} endpoints; it has 1 to {MAX_ENDPOINTS}")
    return Contact(wire)


def pack_endpoint(endpoint: UnderlayAddress) -> bytes:
    """Return an endpoint as IP version (1 byte), address (4 or 16 bytes) and port (2 bytes)."""
    return _pack(endpoint)


def unpack_endpoint(wire: bytes) -> UnderlayAddress:
    """Return the endpoint that `pack_endpoint` wrote.

    Raises ProtocolError: the bytes are no single endpoint.
    """
    endpoints = _endpoints(bytes(NODE_ID_BYTES) + wire)
    if len(endpoints) != 1:
        raise ProtocolError(f"{len(endpoints)} endpoints where one belongs")
    return endpoints[0]


def _pack(endpoint: UnderlayAddress) -> bytes:
    address = endpoint.ip
    return bytes([address.version]) + address.packed + _PORT.pack(endpoint.port)


def _endpoints(wire: bytes) -> list[UnderlayAddress]:
    found: list[UnderlayAddress] = []
    at = NODE_ID_BYTES
    while at < len(wire):
        size = _SIZE_OF_VERSION.get(wire[at])
        if size is None or at + 1 + size + _PORT.size > len(wire):
            raise ProtocolError("a contact whose endpoints are cut short or of no known kind")
        address = ipaddress.ip_address(wire[at + 1 : at + 1 + size])
        (port,) = _PORT.unpack_from(wire, at + 1 + size)
        found.append(UnderlayAddress(str(address), port))
        at += 1 + size + _PORT.size
    if len(wire) < NODE_ID_BYTES:
        raise ProtocolError(f"a contact of {len(wire)} bytes; its NodeId alone has {NODE_ID_BYTES}")
    return found
