"""The way of a packet: device → peers, and peers → device or onward.

The forwarder reads one immutable snapshot, decides once for each pair of addresses, and hands
each link and the device one batch. It knows no socket, no event loop and no control plane; what
the control plane should know it says through `ForwarderEvents`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from quicether.counters import Counters
from quicether.dataplane import icmp, verdict
from quicether.dataplane.device import Device
from quicether.dataplane.held import Held
from quicether.dataplane.icmp import ErrorLimit, Problem
from quicether.dataplane.outlet import Outlet, Path
from quicether.dataplane.packet import PacketView, view
from quicether.dataplane.rewrite import decrement_ttl, fragment
from quicether.dataplane.snapshot import Snapshot
from quicether.dataplane.verdict import Action, Verdict
from quicether.errors import ProtocolError
from quicether.model import DropReason, NextHopKind, NodeId

MAX_PATHS: Final = 4096
"""Pairs of addresses remembered for the device and for each peer; then all are forgotten."""
DETOUR_LOOK: Final = 2.0
"""Seconds after which it is looked again whether packets go by gateways."""


class ForwarderEvents(Protocol):
    """What the data path tells the overlay. Called on the packet's way: must not block."""

    def unknown_destination(self, destination: bytes) -> bool:
        """Nobody known owns a packed address. True: it is looked up, hold packets without a way.

        False: there is no such prefix; the sender gets an ICMP error where there is no way.
        """

    def wanted(self, node: NodeId) -> bool:
        """A packet wants to go to a node without a connection. True: connecting, hold it.

        Packets of other peers are never held, whatever the answer.
        """

    def spoofed(self, node: NodeId, packet: PacketView) -> None:
        """A peer sent from an address that is not its own. A security event."""

    def detoured(self, node: NodeId) -> None:
        """Packets of a node come by a gateway. Called again for the same packets at times."""

    def stood_in_for(self, node: NodeId) -> None:
        """Packets for a node go by a gateway. Called again every few seconds while they do."""


class Forwarder:
    """Moves packets between one device and the connections of one tunnel."""

    def __init__(
        self,
        device: Device,
        counters: Counters,
        snapshot: Snapshot,
        clock: Callable[[], float],
        events: ForwarderEvents,
        held: Held | None = None,
    ) -> None:
        """Begin with snapshot. clock: monotonic seconds, asked once a batch."""
        self._device = device
        self._counters = counters
        self._clock = clock
        self._events = events
        self._held = Held() if held is None else held
        self._errors = ErrorLimit()
        # Counted apart, so that nothing starves Packet Too Big.
        self._too_big_errors = ErrorLimit()
        self._outbound_paths: dict[bytes, Path] = {}
        self._absent: set[NodeId] = set()
        self._detours_until = 0.0
        self._use(snapshot)

    def swap(self, snapshot: Snapshot) -> None:
        """Use another snapshot from the next packet on; held packets that it can send go now."""
        self._use(snapshot)
        if self._held:
            ready = self._held.take(self._has_way)
            if ready:
                self.outbound(ready)

    def give_up(self, destination: bytes) -> None:
        """Answer the packets held for a packed address: its lookup found no prefix."""
        self._abandon(lambda held: held == destination, DropReason.NO_ROUTE, Problem.NO_ROUTE)

    def give_up_node(self, node: NodeId) -> None:
        """Answer the packets held for a node: it cannot be reached."""

        def leads_to_node(destination: bytes) -> bool:
            hop = self._snapshot.fib.lookup(destination)
            return hop is not None and hop.node == node

        self._abandon(leads_to_node, DropReason.UNREACHABLE, Problem.UNREACHABLE)

    def expire(self) -> None:
        """Answer the packets that were held too long. To be called about once a second.

        Tells of the nodes that gateways stood in for meanwhile, too.
        """
        now = self._clock()
        absent, self._absent = self._absent, set()
        for node in absent:
            self._events.stood_in_for(node)
        if now >= self._detours_until:
            # Judged anew, a packet shows that the gateway is still used.
            self._detours_until = now + DETOUR_LOOK
            self._outbound_paths = {
                key: path
                for key, path in self._outbound_paths.items()
                if path.verdict.stands_in_for is None
            }
        for packet in self._held.expire(now):
            self._counters.drop(DropReason.HELD)
            self._answer(packet, Problem.UNREACHABLE, None, now)

    def outbound(self, batch: Sequence[bytes]) -> None:
        """Send packets that the kernel routed to the device."""
        now = self._clock()
        paths = self._outbound_paths
        policy = self._snapshot.policy
        used: list[Outlet] = []
        for packet in batch:
            key = _address_pair(packet)
            if key is None:
                self._counters.drop(DropReason.MALFORMED)
                continue
            path = paths.get(key)
            if path is None:
                path = self._learn(paths, key, verdict.outbound(self._snapshot, *_halves(key)))
            outlet = path.outlet
            if policy is not None and not self._permitted(packet, path.verdict, None, now):
                continue
            if outlet is None:
                self._stop_outbound(packet, path.verdict, now)
                continue
            if not outlet.packets:
                outlet.open()
                used.append(outlet)
            if len(packet) <= outlet.limit:
                outlet.packets.append(packet)
            else:
                outlet.packets += self._too_big(packet, outlet.limit, None, now)
        counters = self._counters
        for outlet in used:
            packets, size = outlet.flush()
            counters.sent_packets += packets
            counters.sent_bytes += size

    def inbound(self, node: NodeId, batch: Sequence[bytes]) -> None:
        """Take packets that came from a peer: to the device, or onward to another peer."""
        now = self._clock()
        paths = self._inbound_paths.get(node)
        if paths is None:
            paths = self._inbound_paths[node] = {}
        policy = self._snapshot.policy
        used: list[Outlet] = []
        delivered: list[bytes] = []
        for packet in batch:
            key = _address_pair(packet)
            if key is None:
                self._counters.drop(DropReason.MALFORMED)
                continue
            path = paths.get(key)
            if path is None:
                path = self._learn(paths, key, verdict.inbound(self._snapshot, node, *_halves(key)))
                sender = path.verdict.source
                if sender is not None and sender.node_id != node:
                    self._events.detoured(sender.node_id)
            if policy is not None and not self._permitted(packet, path.verdict, node, now):
                continue
            if path.verdict.action is Action.DELIVER:
                delivered.append(packet)
            elif path.outlet is None:
                self._stop_inbound(packet, path.verdict, node, now)
            else:
                self._forward(packet, path.outlet, used, node, now)
        if delivered:
            self._device.write(delivered, self._counters)
        self._count_received(delivered, used)

    def _use(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._outbound_paths = {}
        self._inbound_paths: dict[NodeId, dict[bytes, Path]] = {}
        self._outlets: dict[tuple[NodeId, int], Outlet] = {}
        self._own_address: dict[int, bytes] = {
            address.version: address.packed for address in reversed(snapshot.me.addresses)
        }

    def _learn(self, paths: dict[bytes, Path], key: bytes, found: Verdict) -> Path:
        for address in verdict.strangers(self._snapshot, found, *_halves(key)):
            self._events.unknown_destination(address)
        outlet = None
        if found.action in (Action.SEND, Action.FORWARD) and found.node is not None:
            version = 4 if len(key) == 8 else 6
            outlet = self._outlets.get((found.node, version))
            if outlet is None:
                outlet = Outlet(self._snapshot.links[found.node], version)
                self._outlets[found.node, version] = outlet
        if found.stands_in_for is not None:
            self._absent.add(found.stands_in_for)
        if len(paths) >= MAX_PATHS:
            paths.clear()
        path = paths[key] = Path(found, outlet)
        return path

    def _permitted(self, packet: bytes, found: Verdict, node: NodeId | None, now: float) -> bool:
        """Ask the policy; a denial is counted and answered. node: the peer it came from."""
        policy = self._snapshot.policy
        if policy is None or found.before_policy:
            return True
        if policy.vouches(packet, found.source, found.destination, now):
            return True
        try:
            about = view(packet)
        except ProtocolError:
            self._counters.drop(DropReason.MALFORMED)
            return False
        if policy.permits(about, found.source, found.destination, now):
            return True
        self._counters.drop(DropReason.POLICY)
        self._answer(packet, Problem.PROHIBITED, node, now)
        return False

    def _stop_outbound(self, packet: bytes, found: Verdict, now: float) -> None:
        """Hold, answer or drop a packet of the device that goes to no peer."""
        _, destination = _addresses(packet)
        if found.action is Action.ANSWER:
            answer = self._snapshot.services[destination].answer(packet, now)
            if answer is not None:
                self._device.write([answer], self._counters)
                return
        if found.reason is DropReason.NO_ROUTE:
            hold = destination in self._held or self._events.unknown_destination(destination)
        elif found.reason is DropReason.UNREACHABLE and found.node is not None:
            hold = self._events.wanted(found.node)
        else:
            hold = False
        if hold:
            pushed_out = self._held.put(destination, packet, now)
            if pushed_out:
                self._counters.drop(DropReason.QUEUE_FULL, pushed_out)
        else:
            self._drop(packet, found, None, now)

    def _stop_inbound(self, packet: bytes, found: Verdict, node: NodeId, now: float) -> None:
        """Drop a packet of a peer. Packets of others are not held: they could fill the queue."""
        if found.reason is DropReason.SPOOFED_SOURCE:
            try:
                self._events.spoofed(node, view(packet))
            except ProtocolError:
                self._counters.drop(DropReason.MALFORMED)
                return
        elif found.reason is DropReason.UNREACHABLE and found.node is not None:
            self._events.wanted(found.node)
        self._drop(packet, found, node, now)

    def _drop(self, packet: bytes, found: Verdict, node: NodeId | None, now: float) -> None:
        if found.reason is not None:
            self._counters.drop(found.reason)
        if found.problem is not None:
            self._answer(packet, found.problem, node, now)

    def _forward(
        self, packet: bytes, outlet: Outlet, used: list[Outlet], node: NodeId, now: float
    ) -> None:
        """Put a peer's packet on the way to another peer (RFC 9484 section 4.7.2)."""
        if packet[8 if outlet.version == 4 else 7] <= 1:
            self._counters.drop(DropReason.TTL_EXPIRED)
            self._answer(packet, Problem.TTL_EXPIRED, node, now)
            return
        if not outlet.packets:
            outlet.open()
            used.append(outlet)
        if len(packet) <= outlet.limit:
            outlet.packets.append(decrement_ttl(packet))
        else:
            outlet.packets += map(decrement_ttl, self._too_big(packet, outlet.limit, node, now))

    def _too_big(self, packet: bytes, limit: int, node: NodeId | None, now: float) -> list[bytes]:
        """Return the fragments of a packet that is larger than limit, or none and answer it."""
        try:
            about = view(packet)
        except ProtocolError:
            self._counters.drop(DropReason.MALFORMED)
            return []
        if not about.dont_fragment:
            return fragment(packet, limit)
        self._counters.drop(DropReason.TOO_BIG)
        if limit:
            self._answer(packet, Problem.TOO_BIG, node, now, limit)
        else:
            # A host takes no path MTU below 1280 (RFC 8201 section 4), so say the truth.
            self._answer(packet, Problem.UNREACHABLE, node, now)
        return []

    def _answer(
        self, packet: bytes, problem: Problem, node: NodeId | None, now: float, mtu: int = 0
    ) -> None:
        """Tell the sender of a packet what is wrong. node: the peer it came from."""
        try:
            about = view(packet)
        except ProtocolError:
            return
        if node is None:
            # The kernel takes a packet from its own address for a martian, and a strict
            # rp_filter takes anything that is not routed to the device for one. The address
            # the packet was meant for is neither.
            source: bytes | None = about.destination
        else:
            source = self._own_address.get(about.version)
        link = None if node is None else self._snapshot.links.get(node)
        if source is None or (node is not None and link is None):
            return
        if not icmp.deserves_error(about):
            return
        limit = self._too_big_errors if problem is Problem.TOO_BIG else self._errors
        # A peer can have any number of addresses, and a site's hosts have one each.
        if not limit.take(about.source if node is None else node, now):
            self._counters.drop(DropReason.ICMP_LIMITED)
            return
        answer = icmp.error(packet, about, problem, source, mtu)
        if link is None:
            self._device.write([answer], self._counters)
        else:
            link.send_packets([answer])

    def _abandon(
        self, chosen: Callable[[bytes], bool], reason: DropReason, problem: Problem
    ) -> None:
        now = self._clock()
        for packet in self._held.take(chosen):
            self._counters.drop(reason)
            self._answer(packet, problem, None, now)

    def _has_way(self, destination: bytes) -> bool:
        hop = self._snapshot.fib.lookup(destination)
        return hop is not None and (
            hop.kind is NextHopKind.LOCAL or hop.node in self._snapshot.links
        )

    def _count_received(self, delivered: list[bytes], used: list[Outlet]) -> None:
        counters = self._counters
        counters.received_packets += len(delivered)
        counters.received_bytes += sum(map(len, delivered))
        for outlet in used:
            packets, size = outlet.flush()
            counters.received_packets += packets
            counters.received_bytes += size
            counters.forwarded_packets += packets
            counters.forwarded_bytes += size


def _address_pair(packet: bytes) -> bytes | None:
    """Return source and destination as one key of 8 or 32 bytes; None for what is no IP packet.

    Only what the fast path stands on is checked: version, and a length that is the packet's.
    """
    size = len(packet)
    if size >= 20:
        version = packet[0] >> 4
        if version == 4:
            if packet[2] << 8 | packet[3] == size:
                return packet[12:20]
        elif version == 6 and size >= 40 and (packet[4] << 8 | packet[5]) + 40 == size:
            return packet[8:40]
    return None


def _halves(pair: bytes) -> tuple[bytes, bytes]:
    middle = len(pair) // 2
    return pair[:middle], pair[middle:]


def _addresses(packet: bytes) -> tuple[bytes, bytes]:
    """Return source and destination of a packet that _address_pair took."""
    if packet[0] >> 4 == 4:
        return packet[12:16], packet[16:20]
    return packet[8:24], packet[24:40]
