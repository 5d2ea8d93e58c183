"""The name service as packets see it, alone and behind a forwarder."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from struct import unpack

import dns.message
import pytest

from quicether.counters import Counters
from quicether.dataplane.forwarder import Forwarder
from quicether.dataplane.packet import checksum, view
from quicether.model import DropReason, Member, NextHop
from quicether.names.service import BURST, FRESHNESS, NameService
from support.drains import Deaf
from support.fake_device import FakeDevice
from support.fake_link import FakeLink
from support.fake_overlay import FakePolicy, member, snapshot
from support.packets import ipv4, ipv6, tcp, udp

ME = member("cafe", ["100.64.0.1", "fd00::1"])
HOME = member("home", ["100.64.0.2", "fd00::2"], ["100.64.0.0/10", "fd00::/48"])
SERVER = {4: "100.100.1.1", 6: "fd00::53"}
OWN = {4: "100.64.0.1", 6: "fd00::1"}
IP = {4: ipv4, 6: ipv6}


def question(name: str = "home.kin.quicether", kind: str = "A", port: int = 40000) -> bytes:
    query = dns.message.make_query(name, kind, id=7)
    return udp(port, 53, query.to_wire())


def answer_in(packet: bytes) -> dns.message.Message:
    """Return the message in a packet whose checksums are right."""
    about = view(packet)
    segment = packet[about.offset :]
    pseudo = about.source + about.destination + len(segment).to_bytes(4) + (17).to_bytes(4)
    assert checksum(pseudo, segment) == 0
    assert about.version == 6 or checksum(packet[:20]) == 0
    assert unpack("!H", segment[4:6])[0] == len(segment)
    return dns.message.from_wire(segment[8:])


class Host:
    """A node with the service behind its forwarder, and one peer."""

    def __init__(self, policy: FakePolicy | None = None) -> None:
        self.device, self.link, self.counters = FakeDevice(), FakeLink(), Counters()
        self.members: list[Member] = [HOME]
        self.now = 100.0
        service = NameService("kin", ME, lambda: self.members)
        services = {ip_address(each).packed: service for each in SERVER.values()}
        routes = {"100.64.0.0/10": NextHop.to_node(HOME.node_id)}
        self.forwarder = Forwarder(
            self.device,
            self.counters,
            replace(snapshot(ME, routes, {HOME: self.link}, policy=policy), services=services),
            lambda: self.now,
            Deaf(),
        )
        self.device.start(self.forwarder.outbound)


@pytest.mark.parametrize("version", [4, 6])
def test_a_question_of_this_host_is_answered_by_the_device(version: int) -> None:
    host = Host()
    host.device.feed(IP[version](OWN[version], SERVER[version], question(port=40001)))
    (packet,) = host.device.written
    about = view(packet)
    assert ip_address(about.source) == ip_address(SERVER[version])
    assert ip_address(about.destination) == ip_address(OWN[version])
    assert (about.source_port, about.destination_port) == (53, 40001)
    message = answer_in(packet)
    assert message.id == 7
    assert message.answer[0][0].to_text() == "100.64.0.2"
    assert host.link.batches == []
    assert host.counters.sent_packets == 0


def test_a_policy_that_denies_everything_is_not_asked() -> None:
    host = Host(FakePolicy(denied={("cafe", 53)}))
    host.device.feed(ipv4(OWN[4], SERVER[4], question()))
    assert len(host.device.written) == 1
    assert not host.counters.drops


def test_a_new_member_has_a_name_soon() -> None:
    host = Host()
    ask = ipv4(OWN[4], SERVER[4], question("new.kin.quicether"))
    host.device.feed(ask)
    host.members.append(member("new", ["100.64.0.9"]))
    host.now += FRESHNESS
    host.device.feed(ask)
    before, after = map(answer_in, host.device.written)
    assert not before.answer
    assert after.answer[0][0].to_text() == "100.64.0.9"


def test_nobody_but_this_host_is_answered() -> None:
    host = Host()
    host.device.feed(ipv4("192.168.1.9", SERVER[4], question()))
    assert host.counters.drops == {DropReason.UNANSWERED: 1}
    (told,) = host.device.written
    assert view(told).icmp_type == 3
    host.forwarder.inbound(HOME.node_id, [ipv4("100.64.0.2", SERVER[4], question())])
    assert len(host.device.written) == 1


@pytest.mark.parametrize("version", [4, 6])
def test_a_peer_cannot_answer_in_the_services_place(version: int) -> None:
    """Its certificate may cover a block around the service's address."""
    host = Host()
    forged = IP[version](SERVER[version], OWN[version], udp(53, 40000, b"forged"))
    host.forwarder.inbound(HOME.node_id, [forged])
    assert host.device.written == []
    assert host.counters.drops == {DropReason.SPOOFED_SOURCE: 1}


@pytest.mark.parametrize(
    "payload",
    [
        tcp(40000, 53),
        udp(40000, 5353, b"x" * 20),
        udp(0, 53, b"x" * 20),
        udp(40000, 53, b"short"),
        udp(40000, 53, b"x" * 20)[:7],
        udp(40000, 53, b"x" * 20)[:4] + b"\xff\xff" + udp(40000, 53, b"x" * 20)[6:],
    ],
)
def test_what_is_no_question_is_counted_and_refused(payload: bytes) -> None:
    host = Host()
    protocol = 6 if payload == tcp(40000, 53) else 17
    host.device.feed(ipv4(OWN[4], SERVER[4], payload, protocol=protocol))
    assert sum(host.counters.drops.values()) >= 1
    assert all(view(each).icmp_type == 3 for each in host.device.written)


def test_a_flood_of_questions_is_bounded() -> None:
    service = NameService("kin", ME, lambda: [])
    packet = ipv4(OWN[4], SERVER[4], question())
    answered = sum(service.answer(packet, 100.0) is not None for _ in range(int(BURST) + 50))
    assert answered == BURST
