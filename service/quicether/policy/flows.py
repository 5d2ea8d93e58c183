"""The flows that a policy allowed: bounded, fair between initiators, forgotten when idle. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from struct import pack
from typing import Final

from quicether.dataplane.packet import (
    ACK,
    FIN,
    ICMP,
    ICMPV6,
    PORT_PROTOCOLS,
    RST,
    TCP,
    UDP,
    PacketView,
)
from quicether.model import Member, NodeId
from quicether.policy.ruleset import RuleSet

MAX_FLOWS: Final = 32_768
MAX_FLOWS_OF_INITIATOR: Final = 8_192
"""So that one member that opens flows without end pushes out its own."""
TCP_IDLE: Final = 7440.0
"""Seconds; a connection may be silent for 2 hours 4 minutes (RFC 5382 REQ-5)."""
TCP_OVER: Final = 240.0
"""Seconds after a reset or the last word of both sides (RFC 5382 REQ-5)."""
UDP_IDLE: Final = 300.0
"""Seconds (RFC 4787 REQ-5)."""
OTHER_IDLE: Final = 60.0
"""Seconds (RFC 5508 REQ-2)."""
REPORT_IDLE: Final = 60.0
"""Seconds of silence after which a flow's traffic is reported (RFC 5470's inactive timeout)."""
REPORT_ACTIVE: Final = 1800.0
"""Seconds after which a flow that goes on is reported all the same."""
MAX_FRAGMENTED: Final = 1024
"""Packets whose later fragments are let through."""
FRAGMENT_LIFE: Final = 30.0
"""Seconds for a packet's fragments to arrive, as long as Linux waits (RFC 791: at least 15)."""
_EXAMINED: Final = 8
"""Flows looked at when one must go; the one that is silent for longest goes."""

FlowKey = tuple[int, bytes, bytes, int | None, int | None]
"""Protocol, source, destination, source port, destination port: equal to `packet.FiveTuple`.

An ICMP echo has its identifier and its type for ports, so that a request is told from a reply.
"""

_ECHO_REPLY: Final = {8: 0, 128: 129}
_REQUEST_OF: Final = {ICMP: 8, ICMPV6: 128}
_FORWARD_ENDED, _REPLY_ENDED = 1, 2


class Half:
    """One direction of an allowed flow, and on whose word it is allowed.

    source, destination: the members asked about. last: when the last packet passed.
    packets, bytes: since the flow was reported last.
    """

    __slots__ = ("bytes", "destination", "flow", "key", "last", "packets", "rules", "source")

    def __init__(
        self,
        flow: Flow,
        key: FlowKey,
        rules: RuleSet,
        source: Member | None,
        destination: Member | None,
        now: float,
    ) -> None:
        self.flow = flow
        self.key = key
        self.rules = rules
        self.source = source
        self.destination = destination
        self.last = now
        self.packets = 0
        self.bytes = 0

    def count(self, packet: PacketView, now: float) -> None:
        """Note that a packet passed."""
        self.packets += 1
        self.bytes += packet.length
        self.last = now


class Flow:
    """A conversation that a rule allowed in the direction of its first packet.

    That is the first packet of the conversation, or would be: this node may come to it later.

    reply: the way of the answers, None where nothing answers.
    since: when the traffic that was not yet reported began.
    """

    __slots__ = ("_ended", "forward", "reply", "rule_id", "since")

    forward: Half
    reply: Half | None

    def __init__(self, rule_id: str, now: float) -> None:
        self.rule_id = rule_id
        self.since = now
        self._ended = 0

    @property
    def last(self) -> float:
        """When the last packet of either direction passed."""
        return self.forward.last if self.reply is None else max(self.forward.last, self.reply.last)

    @property
    def has_traffic(self) -> bool:
        """Whether anything passed since the flow was reported."""
        return bool(self.forward.packets or (self.reply is not None and self.reply.packets))

    def idle_limit(self) -> float:
        """Seconds of silence after which the flow is over."""
        protocol = self.forward.key[0]
        if protocol == TCP:
            return TCP_OVER if self.is_over else TCP_IDLE
        return UDP_IDLE if protocol == UDP else OTHER_IDLE

    @property
    def is_over(self) -> bool:
        """Whether a TCP connection was reset, or both sides said their last word."""
        return self._ended == _FORWARD_ENDED | _REPLY_ENDED

    def note_flags(self, half: Half, flags: int) -> None:
        """Note what the flags of a TCP segment, which passed in half, say of the connection."""
        if flags & RST:
            self._ended = _FORWARD_ENDED | _REPLY_ENDED
        elif flags & FIN:
            self._ended |= _FORWARD_ENDED if half is self.forward else _REPLY_ENDED

    def halves(self) -> tuple[Half, ...]:
        """Both directions, or the one there is."""
        return (self.forward,) if self.reply is None else (self.forward, self.reply)


class FlowTable:
    """All flows, found by the key of a packet of either direction.

    halves: what the data path looks up; changed only here.
    at_a_glance: of TCP and UDP, the same by the bytes of a packet that tell its flow: source,
    destination and ports, which lie together where no option or extension header is between.
    """

    def __init__(
        self, max_flows: int = MAX_FLOWS, max_of_initiator: int = MAX_FLOWS_OF_INITIATOR
    ) -> None:
        self.halves: dict[FlowKey, Half] = {}
        self.at_a_glance: dict[int, dict[bytes, Half]] = {TCP: {}, UDP: {}}
        self._max_flows = max_flows
        self._max_of_initiator = max_of_initiator
        self._all: OrderedDict[Flow, NodeId | None] = OrderedDict()
        self._by_initiator: dict[NodeId | None, OrderedDict[Flow, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Flow]:
        """Iterate over all flows; they may be removed meanwhile."""
        return iter(list(self._all))

    def add(
        self,
        key: FlowKey,
        rule_id: str,
        rules: RuleSet,
        members: tuple[Member | None, Member | None],
        now: float,
        *,
        is_answered: bool = False,
    ) -> tuple[Flow, list[Flow]]:
        """Remember a flow by the key of its first packet.

        members: who owns the source and the destination. is_answered: an answer is at hand, not
        the first packet; its sender counts as the initiator, for it could make up any number.
        Returns the flow, and those that had to go for it.
        """
        source, destination = members
        gone: list[Flow] = []
        sender = destination if is_answered else source
        initiator = None if sender is None else sender.node_id
        own = self._by_initiator.setdefault(initiator, OrderedDict())
        if len(own) >= self._max_of_initiator:
            gone.append(self._least_active(own))
        elif len(self._all) >= self._max_flows:
            gone.append(self._least_active(self._all))
        answer = answer_key(key)
        for each in (key, answer):
            if each is not None and each in self.halves and self.halves[each].flow not in gone:
                gone.append(self.halves[each].flow)
        for each_flow in gone:
            self.remove(each_flow)
        flow = Flow(rule_id, now)
        flow.forward = Half(flow, key, rules, source, destination, now)
        flow.reply = None
        if answer is not None and answer != key:
            flow.reply = Half(flow, answer, rules, destination, source, now)
        for half in flow.halves():
            self.halves[half.key] = half
            if half.key[0] in self.at_a_glance:
                self.at_a_glance[half.key[0]][_bytes_of(half.key)] = half
        self._all[flow] = initiator
        self._by_initiator.setdefault(initiator, OrderedDict())[flow] = None
        return flow, gone

    def remove(self, flow: Flow) -> None:
        """Forget a flow. Idempotent."""
        if flow not in self._all:
            return
        initiator = self._all.pop(flow)
        own = self._by_initiator[initiator]
        del own[flow]
        if not own:
            del self._by_initiator[initiator]
        for half in flow.halves():
            del self.halves[half.key]
            if half.key[0] in self.at_a_glance:
                del self.at_a_glance[half.key[0]][_bytes_of(half.key)]

    def next_of(self, count: int) -> Iterator[Flow]:
        """Yield up to count flows, others at each call until all had their turn."""
        for _ in range(min(count, len(self._all))):
            if not self._all:
                return
            flow = next(iter(self._all))
            self._all.move_to_end(flow)
            yield flow

    def _least_active(
        self, flows: OrderedDict[Flow, NodeId | None] | OrderedDict[Flow, None]
    ) -> Flow:
        """Return a flow to give up: of the next few, the one that was silent for longest."""
        examined = []
        for _ in range(min(_EXAMINED, len(flows))):
            flow = next(iter(flows))
            flows.move_to_end(flow)
            examined.append(flow)
        return min(examined, key=lambda each: each.last)


class FragmentTable:
    """Which fragmented packets may go on, by what their fragments have in common. Bounded."""

    def __init__(self, capacity: int = MAX_FRAGMENTED) -> None:
        self._capacity = capacity
        self._allowed: dict[tuple[bytes, bytes, int, int | None], tuple[float, Half | None]] = {}
        self._order: deque[tuple[bytes, bytes, int, int | None]] = deque()

    def __len__(self) -> int:
        return len(self._allowed)

    def allow(self, first: PacketView, half: Half | None, now: float) -> None:
        """Let the later fragments of a first fragment through for FRAGMENT_LIFE seconds.

        half: of the flow that they belong to, None where they belong to none.
        """
        key = _fragment_key(first)
        if key not in self._allowed:
            while len(self._order) >= self._capacity:
                del self._allowed[self._order.popleft()]
            self._order.append(key)
        self._allowed[key] = (now + FRAGMENT_LIFE, half)

    def allows(self, later: PacketView, now: float) -> bool:
        """Tell whether the first fragment of the same packet was allowed, and count in its flow."""
        until, half = self._allowed.get(_fragment_key(later), (now, None))
        if until <= now:
            return False
        if half is not None:
            half.count(later, now)
        return True

    def clear(self) -> None:
        """Forget everything."""
        self._allowed.clear()
        self._order.clear()


def flow_key(packet: PacketView) -> FlowKey:
    """Return what tells the flow of a packet that is no later fragment."""
    if packet.echo is not None:
        return (packet.protocol, packet.source, packet.destination, packet.echo, packet.icmp_type)
    return (
        packet.protocol,
        packet.source,
        packet.destination,
        packet.source_port,
        packet.destination_port,
    )


def answer_key(key: FlowKey) -> FlowKey | None:
    """Return the key of what answers a flow, None where an answer is no right.

    Of ICMP only an echo request is answered. Errors are judged by the flow that they quote.
    """
    protocol, source, destination, source_port, destination_port = key
    if protocol in _REQUEST_OF:
        if destination_port != _REQUEST_OF[protocol]:
            return None
        return (protocol, destination, source, source_port, _ECHO_REPLY[destination_port])
    if protocol in PORT_PROTOCOLS and destination_port is None:
        return None
    return (protocol, destination, source, destination_port, source_port)


def opens(packet: PacketView) -> bool:
    """Tell whether a TCP segment could begin a connection, or find out whether one could begin.

    No host takes a segment with ACK or RST for a beginning (RFC 9293 section 3.10.7.2), and only
    those two belong to a connection that began.
    """
    return packet.tcp_flags is not None and not packet.tcp_flags & (ACK | RST)


def question_key(packet: PacketView, key: FlowKey) -> FlowKey | None:
    """Return the key of what a packet with this key can only be an answer to.

    None where it could as well begin something: any datagram of UDP does.
    """
    protocol, source, destination, source_port, destination_port = key
    if packet.tcp_flags is not None and not opens(packet):
        return (protocol, destination, source, destination_port, source_port)
    request = _REQUEST_OF.get(protocol)
    if request is not None and destination_port == _ECHO_REPLY[request]:
        return (protocol, destination, source, source_port, request)
    return None


def quoted_keys(packet: PacketView) -> tuple[FlowKey, ...]:
    """Return the keys that the packet quoted by an ICMP error may have had."""
    quoted = packet.related
    if quoted is None or quoted.source != packet.destination:
        return ()
    request = _REQUEST_OF.get(quoted.protocol)
    if request is None or quoted.source_port is None:
        return (quoted,)
    return tuple(
        (quoted.protocol, quoted.source, quoted.destination, quoted.source_port, kind)
        for kind in (request, _ECHO_REPLY[request])
    )


def _bytes_of(key: FlowKey) -> bytes:
    """Return the bytes of a packet of TCP or UDP that tell its flow."""
    _, source, destination, source_port, destination_port = key
    return b"".join((source, destination, pack("!HH", source_port, destination_port)))


def _fragment_key(packet: PacketView) -> tuple[bytes, bytes, int, int | None]:
    # IPv6 tells fragments by addresses and identification alone (RFC 8200 section 4.5); a later
    # fragment need not name the protocol that the first one turns out to carry.
    protocol = packet.protocol if packet.version == 4 else None
    return packet.source, packet.destination, packet.identification, protocol
