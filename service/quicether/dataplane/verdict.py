"""What becomes of a packet, from its two addresses and one snapshot alone. Pure.

Policy, size and TTL differ from packet to packet and are judged by the forwarder; everything
here is the same for all packets of a pair of addresses, so the forwarder keeps it.

The order is that of the decisions: what may not cross a router, then the source check, then
(in the forwarder) policy, then the route.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import ip_address

from quicether.dataplane.icmp import Problem
from quicether.dataplane.packet import is_confined
from quicether.dataplane.snapshot import Snapshot
from quicether.model import DropReason, Member, NextHopKind, NodeId, host_prefix


class Action(enum.Enum):
    """What is done with a packet that policy lets pass."""

    SEND = "send"
    """From this host's device to a node."""
    DELIVER = "deliver"
    """From a node to this host's device."""
    ANSWER = "answer"
    """From this host's device to a service in this process."""
    FORWARD = "forward"
    """From one node to another: the TTL goes down."""
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of the packets from one address to another.

    node: to whom SEND and FORWARD go, and whom a DROP for UNREACHABLE lacks a connection to.
    source, destination: the members that policy is asked about.
    stands_in_for: the owner that a gateway, which SEND goes to, stands in for.
    reason: of a DROP, or where an ANSWER has none. problem: what the sender of a dropped packet is
    told, None for nothing.
    before_policy: a DROP or ANSWER that policy is not asked about.
    """

    action: Action
    node: NodeId | None = None
    source: Member | None = None
    destination: Member | None = None
    stands_in_for: NodeId | None = None
    reason: DropReason | None = None
    problem: Problem | None = None
    before_policy: bool = False


_CONFINED = Verdict(Action.DROP, reason=DropReason.LINK_LOCAL, before_policy=True)
_UNKNOWN = Verdict(Action.DROP, reason=DropReason.UNKNOWN_CONNECTION, before_policy=True)
_ANSWERED = Verdict(
    Action.ANSWER, reason=DropReason.UNANSWERED, problem=Problem.PROHIBITED, before_policy=True
)
_NOT_FOR_OTHERS = Verdict(
    Action.DROP, reason=DropReason.UNANSWERED, problem=Problem.PROHIBITED, before_policy=True
)
_SPOOFED = Verdict(Action.DROP, reason=DropReason.SPOOFED_SOURCE, before_policy=True)


def outbound(snapshot: Snapshot, source: bytes, destination: bytes) -> Verdict:
    """Judge packets that the kernel routed to the device. Addresses are packed."""
    if is_confined(destination) or is_confined(source):
        return _CONFINED
    if destination in snapshot.local:
        return Verdict(Action.DROP, reason=DropReason.LOOP, before_policy=True)
    if destination in snapshot.services:
        return _ANSWERED if source in snapshot.local else _NOT_FOR_OTHERS
    sender = snapshot.me if _stands_for(snapshot, source) else None
    owner = snapshot.owners.owner(destination)
    hop = snapshot.fib.lookup(destination)
    if hop is None:
        reason, problem, node = DropReason.NO_ROUTE, Problem.NO_ROUTE, None
    elif hop.kind is NextHopKind.LOCAL:
        # Written back to the device it would come here again.
        reason, problem, node = DropReason.LOOP, Problem.NO_ROUTE, None
    elif hop.node not in snapshot.links:
        reason, problem, node = DropReason.UNREACHABLE, Problem.UNREACHABLE, hop.node
    else:
        absent = None
        if hop.kind is NextHopKind.GATEWAY and owner is not None and owner.node_id != hop.node:
            absent = owner.node_id
        return Verdict(Action.SEND, hop.node, sender, owner, absent)
    return _undelivered(sender, owner, reason, problem, node)


def inbound(snapshot: Snapshot, peer: NodeId, source: bytes, destination: bytes) -> Verdict:
    """Judge packets that came from a peer. Addresses are packed."""
    if peer not in snapshot.members:
        # It connected or went a moment ago, and the snapshot is of another moment.
        return _UNKNOWN
    if is_confined(destination) or is_confined(source):
        return _CONFINED
    if not accepts_source(snapshot, peer, source):
        return _SPOOFED
    sender = _sender(snapshot, peer, source)
    hop = snapshot.fib.lookup(destination)
    if destination in snapshot.local:
        return Verdict(Action.DELIVER, None, sender, snapshot.me)
    owner = snapshot.owners.owner(destination)
    if hop is not None and hop.kind is NextHopKind.LOCAL:
        return Verdict(Action.DELIVER, None, sender, owner)
    if not snapshot.forwards:
        return Verdict(Action.DROP, None, sender, owner, reason=DropReason.NO_ROUTE)
    longest = snapshot.fib.longest(destination)
    reached = () if longest is None else snapshot.offered.get(longest, ())
    if not reached:
        return _undelivered(sender, owner, DropReason.NO_ROUTE, Problem.NO_ROUTE)
    node = hop.node if hop is not None and hop.node in reached else reached[0]
    if node == peer:
        return _undelivered(sender, owner, DropReason.LOOP, Problem.NO_ROUTE)
    if node not in snapshot.links:
        return _undelivered(sender, owner, DropReason.UNREACHABLE, Problem.UNREACHABLE, node)
    return Verdict(Action.FORWARD, node, sender, owner)


def _undelivered(
    source: Member | None,
    destination: Member | None,
    reason: DropReason,
    problem: Problem,
    node: NodeId | None = None,
) -> Verdict:
    return Verdict(Action.DROP, node, source, destination, reason=reason, problem=problem)


def strangers(snapshot: Snapshot, found: Verdict, source: bytes, destination: bytes) -> list[bytes]:
    """Return which of two addresses a gateway forwards for without anybody known who owns it.

    Policy cannot say who that is, and nobody tries to reach it directly. Addresses to which
    nothing but a default route leads are the internet's.
    """
    if found.before_policy:
        return []
    unowned = [(source, found.source), (destination, found.destination)]
    return [
        address for address, owner in unowned if owner is None and _is_inside(snapshot, address)
    ]


def _is_inside(snapshot: Snapshot, address: bytes) -> bool:
    prefix = snapshot.fib.longest(address)
    return prefix is not None and prefix.prefixlen > 0


def accepts_source(snapshot: Snapshot, peer: NodeId, source: bytes) -> bool:
    """Tell whether a peer may send packets from a packed address.

    This is feasible-path reverse path forwarding (RFC 8704): what counts is not only the way in
    use to the address but every way that could be, for the two sides may choose different ones.

    - An address of its own is the peer's, an address of ours or of our services nobody else's.
    - Otherwise the longest prefix known for the address decides. That is the address alone where
      it is a known member's own. The peer may use it where it is a candidate for that prefix, as
      an owner or as a gateway that offers it now, which its certificate has to cover; or where a
      block of its certificate holds the address and is no shorter than that prefix. So a block
      as wide as 100.64.0.0/10 or 0.0.0.0/0 lets nobody send as a member, or from a prefix of
      another's, unless it offers to forward for just that.
    - An address that no prefix holds is free for whoever's certificate covers it (an exit to the
      internet has 0.0.0.0/0), and for the default gateway.
    """
    member = snapshot.members.get(peer)
    if member is None or source in snapshot.local or source in snapshot.services:
        return False
    address = ip_address(source)
    if address in member.addresses:
        return True
    blocks = [block for block in member.prefixes if address in block]
    owner = snapshot.owners.owner(source)
    is_a_members = owner is not None and address in owner.addresses
    longest = host_prefix(address) if is_a_members else snapshot.fib.longest(source)
    if longest is None:
        hop = snapshot.fib.lookup(source)
        return bool(blocks) or (hop is not None and hop.node == peer)
    return longest in snapshot.candidates.get(peer, ()) or any(
        block.prefixlen >= longest.prefixlen for block in blocks
    )


def _stands_for(snapshot: Snapshot, source: bytes) -> bool:
    """Tell whether packets of this host from a packed address are this node's own.

    Those from the internet behind an exit are nobody's, as they are for the node they go to.
    """
    return source in snapshot.local or snapshot.owners.owner(source) is not None


def _sender(snapshot: Snapshot, peer: NodeId, source: bytes) -> Member | None:
    """Return the member behind a source address: a gateway sends for others than itself.

    None where nobody known owns it, so that the address is the same member's as a destination.
    Where the best route says that the address is ours (two gateways of one site), the peer
    that sent it stands for it.
    """
    owner = snapshot.owners.owner(source)
    if owner is not None and owner.node_id == snapshot.me.node_id:
        return snapshot.members.get(peer)
    return owner
