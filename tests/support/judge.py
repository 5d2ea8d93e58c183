"""A policy that is asked by packets alone, and the packets that its tests are about."""

from __future__ import annotations

from ipaddress import ip_address

from quicether.dataplane.packet import PacketView, view
from quicether.model import Member
from quicether.policy.audit import Audit
from quicether.policy.decision import Policy
from quicether.policy.ruleset import RuleSet
from support.fake_audit import FakeAuditSink
from support.packets import ipv4, udp
from support.policies import (
    HOME,
    HOME_IP,
    LAPTOP,
    LAPTOP_IP,
    PHONE,
    PHONE_IP,
    tcp_packet,
    udp_packet,
)

OUT = tcp_packet(LAPTOP_IP, HOME_IP, 5000, 443)
BACK = tcp_packet(HOME_IP, LAPTOP_IP, 443, 5000)
WEB_ONLY = "allow laptop home tcp 443"
QUESTION = udp_packet(LAPTOP_IP, HOME_IP, 5000, 53)
ANSWER = udp_packet(HOME_IP, LAPTOP_IP, 53, 5000)
DNS_ONLY = "allow laptop home udp 53"


class Judge:
    """A policy with its audit trail, asked by packets alone."""

    owners: dict[bytes, Member]

    def __init__(self, ruleset: RuleSet, max_flows: int = 100, max_of_initiator: int = 50) -> None:
        self.sink = FakeAuditSink()
        self.now = 1000.0
        audit = Audit(self.sink, lambda: self.now, lambda: 0.0)
        self.policy = Policy(ruleset, audit, max_flows, max_of_initiator)
        self.owners = {
            ip_address(address).packed: owner
            for address, owner in ((LAPTOP_IP, LAPTOP), (HOME_IP, HOME), (PHONE_IP, PHONE))
        }

    def permits(self, packet: PacketView) -> bool:
        source, destination = (
            self.owners.get(address) for address in (packet.source, packet.destination)
        )
        return self.policy.permits(packet, source, destination, self.now)


def out(flags: int) -> PacketView:
    """A segment of the client that WEB_ONLY is about."""
    return tcp_packet(LAPTOP_IP, HOME_IP, 5000, 443, flags)


def back(flags: int) -> PacketView:
    """A segment of the server that WEB_ONLY is about."""
    return tcp_packet(HOME_IP, LAPTOP_IP, 443, 5000, flags)


def fragments(port: int, identification: int = 9) -> tuple[PacketView, PacketView]:
    """The first and a later fragment of a datagram that the laptop sends home."""
    first = ipv4(
        LAPTOP_IP, HOME_IP, udp(5000, port, bytes(24)), identification=identification,
        dont_fragment=False, more_fragments=True,
    )  # fmt: skip
    later = ipv4(
        LAPTOP_IP, HOME_IP, bytes(16), identification=identification, dont_fragment=False, offset=32
    )
    return view(first), view(later)
