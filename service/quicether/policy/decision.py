"""The policy on the packet's way: rules for the first packet of a flow, memory for the rest. Pure.

Order of judgement: a flow that is known, then an ICMP error about one, then the rules. A rule that
is asked allows the flow and its answers; a denial is remembered too, so that the rules and the
audit trail see the first packet of a flood alone.

A node may see an answer without the question before it: a gateway to which traffic moves, one of
two gateways that each see one direction, any node after a restart. So what can only be an answer
(a TCP segment with ACK or RST, an ICMP echo reply) and belongs to no known flow passes where the
rules allow the question, whichever node it is. That lets nobody begin anything: no host opens a
connection or does more than reset one for such a packet. What it costs: the rules say nothing of
who began a TCP connection whose middle is all that is seen, so one that the rules allow in either
direction goes on. Whatever could begin something stays strictly directional: a TCP segment without
ACK and RST, even in the way of a known flow's answers, and every datagram of UDP or of any other
protocol, whose answers hence need a rule of their own where they come over another gateway than
the questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from quicether.dataplane.packet import ACK, FIN, PORT_PROTOCOLS, RST, SYN, TCP, UDP, PacketView
from quicether.model import Address, Member
from quicether.policy.audit import Audit, protocol_label
from quicether.policy.denials import Denials
from quicether.policy.flows import (
    MAX_FLOWS,
    MAX_FLOWS_OF_INITIATOR,
    REPORT_ACTIVE,
    REPORT_IDLE,
    Flow,
    FlowKey,
    FlowTable,
    FragmentTable,
    Half,
    flow_key,
    opens,
    question_key,
    quoted_keys,
)
from quicether.policy.ruleset import ALLOWED_WITHOUT_POLICY, DENIED_BY_DEFAULT, Decision, RuleSet

EXPIRY_BATCH: Final = 1024
"""Flows looked at by one call of `expire`."""
_REDIRECTS: Final = frozenset(((4, 5), (6, 137)))
"""ICMP redirects quote a packet like errors do, but change routes: they need a rule."""

_NOTABLE: Final = FIN | SYN | RST | ACK
"""TCP flags of which a known flow takes note, unless ACK stands alone."""
_IPV4_WITHOUT_OPTIONS: Final = 0x45
_IPV6: Final = 0x60
_LATER_FRAGMENT: Final = -1
"""Stands for the port in the key of a denied fragment, which must not deny whole packets."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a policy does with a packet, and why, for a person.

    rule_id: of the rule that decided, or `default` or `no-policy`. sentence: says it in words.
    """

    allowed: bool
    rule_id: str
    sentence: str


class Policy:
    """Judges packets. A `dataplane.snapshot.PacketPolicy`.

    One object for the life of a tunnel: `use` changes the rules below the flows, so that a flow
    that they still allow goes on.
    """

    def __init__(
        self,
        rules: RuleSet,
        audit: Audit | None = None,
        max_flows: int = MAX_FLOWS,
        max_flows_of_initiator: int = MAX_FLOWS_OF_INITIATOR,
    ) -> None:
        self._rules = rules
        self._audit = audit
        self._flows = FlowTable(max_flows, max_flows_of_initiator)
        self._halves = self._flows.halves
        self._tcp, self._udp = (self._flows.at_a_glance[protocol] for protocol in (TCP, UDP))
        self._denials = Denials(audit)
        self._fragments = FragmentTable()

    @property
    def rules(self) -> RuleSet:
        """The rules in force."""
        return self._rules

    @property
    def flows(self) -> int:
        """How many flows are remembered."""
        return len(self._flows)

    def use(self, rules: RuleSet) -> None:
        """Judge by other rules from the next packet on; known flows are judged again by it."""
        self._rules = rules
        self._denials.clear()
        self._fragments.clear()

    def vouches(
        self, packet: bytes, source: Member | None, destination: Member | None, now: float
    ) -> bool:
        """Tell at a glance whether packet goes on in a known flow; see `PacketPolicy`.

        Most packets do, and cost a fifth of what a look at all their headers does. What it does
        not know: fragments, IPv4 options, extension headers, TCP flags besides ACK, and other
        protocols than TCP and UDP.
        """
        first = packet[0]
        if first == _IPV4_WITHOUT_OPTIONS:
            if packet[6] & 0x3F or packet[7]:
                return False
            protocol, flow, flags = packet[9], packet[12:24], 33
        elif first >= _IPV6:
            protocol, flow, flags = packet[6], packet[8:44], 53
        else:
            return False
        if protocol == TCP:
            if len(packet) <= flags + 6 or packet[flags] & _NOTABLE != ACK:
                return False
            half = self._tcp.get(flow)
        else:
            half = self._udp.get(flow) if protocol == UDP else None
        if (
            half is None
            or half.rules is not self._rules
            or half.source is not source
            or half.destination is not destination
        ):
            return False
        half.packets += 1
        half.bytes += len(packet)
        half.last = now
        return True

    def permits(
        self, packet: PacketView, source: Member | None, destination: Member | None, now: float
    ) -> bool:
        """Tell whether packet may go from source to destination.

        source, destination: the members that own the addresses, None where nobody known does.
        now: monotonic seconds.
        """
        if packet.fragment_offset:
            return self._permits_fragment(packet, source, destination, now)
        key = flow_key(packet)
        half = self._halves.get(key)
        flags = packet.tcp_flags
        if (
            half is not None
            and half.rules is self._rules
            and half.source is source
            and half.destination is destination
            and (flags is None or flags & _NOTABLE == ACK)
        ):
            half.count(packet, now)
        elif not self._permits_anew(packet, key, half, source, destination, now):
            return False
        if packet.more_fragments:
            self._fragments.allow(packet, self._halves.get(key), now)
        return True

    def explain(
        self,
        source: Member | None,
        destination: Member | None,
        address: Address,
        protocol: int,
        port: int | None = None,
    ) -> Explanation:
        """Say what the rules do with the first packet of a flow, and which of them decides."""
        return explain(self._rules, source, destination, address, protocol, port)

    def expire(self, now: float) -> None:
        """Report and forget flows and denials that fell silent. To be called about once a second.

        Looks at EXPIRY_BATCH flows and goes on where it stopped.
        """
        for flow in self._flows.next_of(EXPIRY_BATCH):
            silent = now - flow.last
            if silent >= flow.idle_limit():
                self._end(flow, now)
            elif silent >= REPORT_IDLE or now - flow.since >= REPORT_ACTIVE:
                self._report(flow, now)
        self._denials.expire(now)
        if self._audit is not None:
            self._audit.tell_left_out()

    def close(self, now: float) -> None:
        """Report and forget every flow and denial."""
        for flow in self._flows:
            self._end(flow, now)
        self._denials.clear()
        if self._audit is not None:
            self._audit.tell_left_out(at_once=True)

    def _permits_anew(
        self,
        packet: PacketView,
        key: FlowKey,
        half: Half | None,
        source: Member | None,
        destination: Member | None,
        now: float,
    ) -> bool:
        """Judge a packet that no unchanged flow vouches for, or that changes one."""
        if half is not None and self._admits(half, packet, source, destination, now):
            half.count(packet, now)
            return True
        if self._is_error_about_a_flow(packet, now):
            return True
        rules = self._rules
        denied = (key, opens(packet))
        if self._denials.repeats(denied, rules, source, destination):
            return False
        members = (source, destination)
        decision = self._decide(members, key)
        begun = None
        if not decision.allowed:
            begun = question_key(packet, key)
            question = None if begun is None else self._decide(members[::-1], begun)
            if question is None or not question.allowed:
                self._denials.add(denied, rules, source, destination, decision.rule_id, now)
                return False
            decision, members = question, members[::-1]
        self._denials.forget(denied)
        flow, gone = self._flows.add(
            begun or key, decision.rule_id, rules, members, now, is_answered=begun is not None
        )
        for each in gone:
            self._report(each, now)
        half = self._halves[key]
        if packet.tcp_flags is not None:
            flow.note_flags(half, packet.tcp_flags)
        half.count(packet, now)
        return True

    def _decide(self, members: tuple[Member | None, Member | None], key: FlowKey) -> Decision:
        """Ask the rules about the first packet of a flow."""
        protocol, _, address, _, port = key
        # The key of an ICMP echo has its type for a port, of which rules know nothing.
        return self._rules.decide(
            *members, address, protocol, port if protocol in PORT_PROTOCOLS else None
        )

    def _admits(
        self,
        half: Half,
        packet: PacketView,
        source: Member | None,
        destination: Member | None,
        now: float,
    ) -> bool:
        """Tell whether a known flow lets a packet of it through, and note what that says of it."""
        flow = half.flow
        if opens(packet):
            if half is not flow.forward:
                return False
            if flow.is_over:
                self._end(flow, now)
                return False
        if not (
            half.rules is self._rules and half.source is source and half.destination is destination
        ) and not self._is_confirmed(half, source, destination, now):
            return False
        if packet.tcp_flags is not None:
            flow.note_flags(half, packet.tcp_flags)
        return True

    def _is_confirmed(
        self, half: Half, source: Member | None, destination: Member | None, now: float
    ) -> bool:
        """Judge a known flow again, because the rules or the members are others now.

        The question is always whether the flow's first packet would be allowed: its answers have
        no rule of their own. A flow that is no longer allowed ends.
        """
        flow = half.flow
        members = (source, destination) if half is flow.forward else (destination, source)
        decision = self._decide(members, flow.forward.key)
        if not decision.allowed:
            self._end(flow, now)
            return False
        flow.rule_id = decision.rule_id
        half.rules, half.source, half.destination = self._rules, source, destination
        return True

    def _is_error_about_a_flow(self, packet: PacketView, now: float) -> bool:
        if not packet.is_icmp_error or (packet.version, packet.icmp_type) in _REDIRECTS:
            return False
        for key in quoted_keys(packet):
            half = self._halves.get(key)
            if half is not None and (
                half.rules is self._rules
                or self._is_confirmed(half, half.source, half.destination, now)
            ):
                return True
        return False

    def _permits_fragment(
        self, packet: PacketView, source: Member | None, destination: Member | None, now: float
    ) -> bool:
        """Judge a fragment without ports: by the first one, or by what no port could change."""
        if self._fragments.allows(packet, now):
            return True
        protocol = packet.protocol if packet.version == 4 else None
        rules = self._rules
        decision = rules.decide_fragment(source, destination, packet.destination, protocol)
        if decision.allowed:
            return True
        key = (packet.protocol, packet.source, packet.destination, None, _LATER_FRAGMENT)
        denied = (key, False)
        if not self._denials.repeats(denied, rules, source, destination):
            self._denials.add(denied, rules, source, destination, decision.rule_id, now)
        return False

    def _end(self, flow: Flow, now: float) -> None:
        self._flows.remove(flow)
        self._report(flow, now)

    def _report(self, flow: Flow, now: float) -> None:
        if not flow.has_traffic:
            return
        if self._audit is not None:
            self._audit.flow(flow, now)
        flow.since = now
        for half in flow.halves():
            half.packets = half.bytes = 0


def explain(
    rules: RuleSet,
    source: Member | None,
    destination: Member | None,
    address: Address,
    protocol: int,
    port: int | None = None,
) -> Explanation:
    """Say what rules do with the first packet of a flow, and which of them decides.

    source, destination: the members behind the addresses, None for an unknown one. address: the
    destination. port: the destination's, None where the protocol has none.
    """
    found = rules.decide(source, destination, address.packed, protocol, port)
    who = "an unknown node" if source is None else source.name or source.node_id.short
    whose = "" if destination is None else f" ({destination.name or destination.node_id.short})"
    service = protocol_label(protocol) + ("" if port is None else f" port {port}")
    outcome = "is allowed" if found.allowed else "is denied"
    if found.rule_id == DENIED_BY_DEFAULT:
        reason = "because no rule matches"
    elif found.rule_id == ALLOWED_WITHOUT_POLICY:
        reason = "because there is no policy file: members reach what is routed to them"
    else:
        rule = next(each for each in rules.rules if each.id == found.rule_id)
        reason = f"by rule {rule.id!r} ({rule.action} {rule.subject} to {rule.object})"
    sentence = f"{who} to {ip_address(address)}{whose}, {service}, {outcome} {reason}."
    return Explanation(found.allowed, found.rule_id, sentence)
