"""Values that all rooms share. Pure: no socket, no clock, no randomness.

Everything here is immutable and hashable, so it can cross from the control plane to the data
path inside a snapshot without a lock.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from datetime import datetime
from functools import total_ordering
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
)
from typing import Final, Self

from quicether.errors import ConfigError

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Prefix = IPv4Network | IPv6Network

NODE_ID_BYTES: Final = 20
MIN_NODE_ID_DIGITS: Final = 4
"""Shortest beginning of a NodeId that a person may write for it."""
DEFAULT_PORT: Final = 9000
MIN_IPV6_MTU: Final = 1280
"""Smallest MTU of a link that carries IPv6, in bytes (RFC 8200 section 5)."""
DEVICE_FAMILY: Final = "quicether"
"""How the names of all our devices begin; the files that keep network managers off say so too."""
DEFAULT_DEVICE: Final = f"{DEVICE_FAMILY}0"


@total_ordering
@dataclass(frozen=True, slots=True)
class NodeId:
    """Who a node is: the first 160 bits of SHA-256 over its raw Ed25519 public key."""

    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) != NODE_ID_BYTES:
            raise ValueError(f"a NodeId has {NODE_ID_BYTES} bytes, not {len(self.value)}")

    @classmethod
    def of_public_key(cls, raw: bytes) -> Self:
        """Return the id of the node that holds the raw 32-byte Ed25519 public key."""
        return cls(hashlib.sha256(raw).digest()[:NODE_ID_BYTES])

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the id written as 40 hex digits.

        Raises ConfigError: anything else.
        """
        try:
            return cls(bytes.fromhex(text))
        except ValueError:
            raise ConfigError(f"node id {text!r} is not 40 hex digits") from None

    def __lt__(self, other: NodeId) -> bool:
        return self.value < other.value

    def __str__(self) -> str:
        return self.value.hex()

    def __repr__(self) -> str:
        return f"NodeId({self.short}…)"

    @property
    def short(self) -> str:
        """The first ten hex digits, enough to tell nodes apart on a screen."""
        return self.value.hex()[:10]


@dataclass(frozen=True, slots=True, order=True)
class UnderlayAddress:
    """Where a node's UDP socket can be reached: an IP address and a port, no name."""

    host: str
    port: int

    @classmethod
    def of_socket(cls, name: tuple[str, int] | tuple[str, int, int, int]) -> Self:
        """Return the address of a socket name, with IPv4-mapped IPv6 written as IPv4."""
        address = ip_address(name[0].partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return cls(str(address), name[1])

    @property
    def ip(self) -> Address:
        """The address as a number."""
        return ip_address(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Member:
    """A node whose certificate (or pin) was checked, and all that it may do.

    addresses: the node's own overlay addresses (host addresses).
    prefixes: what the node may advertise as owner or forward for, its addresses not included.
    not_after: end of the certificate's validity, UTC; None for a pinned peer.
    serial: the certificate's serial number, what a revocation names; None for a pinned peer.
    """

    node_id: NodeId
    name: str
    public_key: bytes
    addresses: tuple[Address, ...]
    prefixes: tuple[Prefix, ...]
    groups: frozenset[str] = frozenset()
    not_after: datetime | None = None
    serial: int | None = None

    def covers(self, prefix: Prefix) -> bool:
        """Tell whether the member may advertise or forward for the whole of prefix.

        A certificate for 0.0.0.0/0 or ::/0 makes its node an exit to the internet and nothing
        else: it covers the default route itself, and no prefix of the network.
        """
        return any(
            block.version == prefix.version
            and prefix.subnet_of(block)  # type: ignore[arg-type]
            and (block.prefixlen > 0 or prefix == block)
            for block in (*self.prefixes, *self.host_prefixes)
        )

    def is_called(self, reference: str) -> bool:
        """Tell whether reference is the member's name, its NodeId, or the beginning of that."""
        return self.name == reference or (
            len(reference) >= MIN_NODE_ID_DIGITS and str(self.node_id).startswith(reference.lower())
        )

    @property
    def host_prefixes(self) -> tuple[Prefix, ...]:
        """The member's own addresses as /32 and /128 prefixes."""
        return tuple(host_prefix(address) for address in self.addresses)


def host_prefix(address: Address) -> Prefix:
    """Return the /32 or /128 that holds address alone."""
    if isinstance(address, IPv4Address):
        return IPv4Network((address, 32))
    return IPv6Network((address, 128))


class NextHopKind(enum.StrEnum):
    """What the overlay does with a packet whose prefix matched. In order of preference."""

    LOCAL = "local"
    NODE = "node"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class NextHop:
    """Where a packet goes: to this host, to the node that owns its prefix, or to a gateway."""

    kind: NextHopKind
    node: NodeId | None = None

    def __post_init__(self) -> None:
        if (self.node is None) is not (self.kind is NextHopKind.LOCAL):
            raise ValueError(f"next hop {self.kind} with node {self.node}")

    @classmethod
    def to_node(cls, node: NodeId) -> Self:
        """Return the next hop for a prefix that node owns."""
        return cls(NextHopKind.NODE, node)

    @classmethod
    def via_gateway(cls, node: NodeId) -> Self:
        """Return the next hop for a prefix that node forwards for."""
        return cls(NextHopKind.GATEWAY, node)

    def __str__(self) -> str:
        return str(self.kind) if self.node is None else f"{self.kind} {self.node.short}"


LOCAL: Final = NextHop(NextHopKind.LOCAL)


class RouteSource(enum.StrEnum):
    """Who says that a prefix is reached over a next hop. In order of preference."""

    CONFIGURED = "configured"
    ANNOUNCED = "announced"
    """Said by the connected peer itself, within its certificate."""
    DISCOVERED = "discovered"
    """Found in the DHT in a signed record."""


@dataclass(frozen=True, slots=True)
class Route:
    """One candidate for a prefix.

    rtt: smoothed round-trip time to the next hop in seconds; None while unknown.
    reachable: whether a connection to the next hop works now; Local always is.
    """

    prefix: Prefix
    next_hop: NextHop
    source: RouteSource
    reachable: bool = True
    rtt: float | None = None


class DropReason(enum.StrEnum):
    """Why a packet, message or record was not passed on. Every drop is counted under one."""

    MALFORMED = "malformed"
    NO_ROUTE = "no-route"
    UNREACHABLE = "peer-unreachable"
    TOO_BIG = "too-big"
    TTL_EXPIRED = "ttl-expired"
    SPOOFED_SOURCE = "spoofed-source"
    POLICY = "policy-denied"
    QUEUE_FULL = "queue-full"
    LINK_LOCAL = "link-local"
    LOOP = "loop"
    DEVICE = "device-refused"
    HELD = "held-expired"
    UNANSWERED = "service-unanswered"
    UNKNOWN_CONNECTION = "unknown-connection"
    UNKNOWN_MESSAGE = "unknown-message"
    CONNECTION_LIMIT = "connection-limit"
    ICMP_LIMITED = "icmp-rate-limited"
    RPC_LIMITED = "rpc-rate-limited"
    RECORD_SIGNATURE = "record-signature"
    RECORD_TIME = "record-time"
    RECORD_NOT_COVERED = "record-not-covered"
    RECORD_MALFORMED = "record-malformed"
    RECORD_LIMIT = "record-limit"
    REVOKED = "revoked"


class PeerState(enum.StrEnum):
    """What `quicether peers` says of a peer."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    VIA_GATEWAY = "via-gateway"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
