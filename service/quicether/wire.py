"""How values stand in CBOR, in records and in control messages alike. Pure.

Each is a type for the fields of a pydantic model: bytes there, a value of `model` here.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer, StringConstraints

from quicether.model import NodeId, Prefix

_PACKED_IPV4: Final = 5
_PACKED_IPV6: Final = 17


def _unpack_prefix(value: object) -> object:
    if not isinstance(value, bytes):
        return value
    if len(value) == _PACKED_IPV4:
        return IPv4Network((value[:-1], value[-1]))
    if len(value) == _PACKED_IPV6:
        return IPv6Network((value[:-1], value[-1]))
    raise ValueError(f"a prefix has {_PACKED_IPV4} or {_PACKED_IPV6} bytes, not {len(value)}")


def pack_prefix(prefix: Prefix) -> bytes:
    """Return a prefix as its address (4 or 16 bytes) and its length (1 byte)."""
    return prefix.network_address.packed + bytes([prefix.prefixlen])


def _node_id(value: object) -> object:
    return NodeId(value) if isinstance(value, bytes) else value


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


WirePrefix = Annotated[
    IPv4Network | IPv6Network,
    BeforeValidator(_unpack_prefix),
    PlainSerializer(pack_prefix, return_type=bytes),
]
"""As `pack_prefix` writes it."""
WireNodeId = Annotated[
    NodeId,
    BeforeValidator(_node_id),
    PlainSerializer(lambda node_id: node_id.value, return_type=bytes),
]
Capability = Annotated[str, StringConstraints(pattern=r"\A[a-z0-9-]{1,32}\z")]
"""The name of an optional feature: lower case with dashes."""
AsTuple: Final = BeforeValidator(_tuple)
"""For a field that is a tuple, which CBOR has as an array."""
