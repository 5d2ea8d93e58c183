"""The immutable view that the data path reads and the control plane swaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from quicether.dataplane.packet import PacketView
from quicether.model import Member, NextHop, NodeId, Prefix


class Fib(Protocol):
    """Longest-prefix match over one immutable set of best routes."""

    def lookup(self, destination: bytes) -> NextHop | None:
        """Return the next hop for a packed address (4 or 16 bytes); None without a route."""

    def longest(self, address: bytes) -> Prefix | None:
        """Return the longest prefix with a route that holds a packed address.

        A default gateway is no route here.
        """


class PacketPolicy(Protocol):
    """Says whether a packet may pass. Holds its own bounded flow cache."""

    def vouches(
        self, packet: bytes, source: Member | None, destination: Member | None, now: float
    ) -> bool:
        """Tell at a glance whether packet goes on in a flow that passed before.

        packet: whole, of the version and length that it says. False: ask `permits`.
        """

    def permits(
        self, packet: PacketView, source: Member | None, destination: Member | None, now: float
    ) -> bool:
        """Tell whether packet may go from source to destination.

        source, destination: the members that own the addresses, None where nobody known does.
        now: monotonic seconds. A denial is audited by the policy itself.
        """


class Link(Protocol):
    """Something that carries packets to one peer. A transport Connection is one."""

    @property
    def max_packet(self) -> int:
        """Largest IP packet, in bytes."""

    def send_packets(self, packets: Sequence[bytes]) -> None:
        """Queue packets; never blocks."""


class Service(Protocol):
    """Answers packets of this host in this process, for an address that no host has."""

    def answer(self, packet: bytes, now: float) -> bytes | None:
        """Return the packet that answers packet, None for what gets no answer.

        now: monotonic seconds. Pure, quick, and bounded by a rate of its own.
        """


class Ownership(Protocol):
    """Which member stands behind an overlay address."""

    def owner(self, address: bytes) -> Member | None:
        """Return the member that owns the packed address, by the best route to it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the data path knows. Replaced whole, never changed.

    links: the connection for each node that can be reached directly now.
    members: every connected member, for the source check.
    candidates: for each of them the prefixes that it is a candidate for, as owner or as gateway,
    in use or not.
    local: the node's own overlay addresses, packed.
    policy: None lets every member reach what is routed to it.
    forwards: this node forwards between peers (role gateway), and only to what is in offered: the
    prefixes that it announces as a gateway, with the nodes that it reaches each at directly. Its
    own way there may be another gateway for a while; for others that would be a way round.
    services: packed address → what answers there. For this host alone, and policy is not asked.
    """

    fib: Fib
    links: Mapping[NodeId, Link]
    members: Mapping[NodeId, Member]
    local: frozenset[bytes]
    me: Member
    owners: Ownership
    candidates: Mapping[NodeId, frozenset[Prefix]] = field(default_factory=dict)
    policy: PacketPolicy | None = None
    forwards: bool = False
    offered: Mapping[Prefix, tuple[NodeId, ...]] = field(default_factory=dict)
    services: Mapping[bytes, Service] = field(default_factory=dict)
