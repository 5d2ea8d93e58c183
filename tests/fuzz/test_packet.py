"""Whatever bytes come: the parser's own error or a view whose fields lie inside the packet."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from quicether.counters import Counters
from quicether.dataplane.forwarder import Forwarder
from quicether.dataplane.icmp import Problem, deserves_error, error
from quicether.dataplane.packet import view
from quicether.dataplane.rewrite import decrement_ttl, fragment
from quicether.errors import ProtocolError
from quicether.model import NextHop, NodeId
from support.drains import Deaf
from support.fake_device import FakeDevice
from support.fake_link import FakeLink
from support.fake_overlay import FakePolicy, member, snapshot
from support.packets import fragment6, icmp, ipv4, ipv6, tcp, udp

SEEDS = [
    ipv4("100.64.0.2", "10.0.0.1", tcp(1, 2, b"data"), protocol=6),
    ipv4("100.64.0.2", "10.0.0.1", udp(1, 2), options=b"\x94\x04\0\0", dont_fragment=False),
    ipv4("100.64.0.2", "10.0.0.1", icmp(3, 4, bytes(4), bytes(40)), protocol=1),
    ipv6("fd00::2", "fd00::1", udp(1, 2, b"data")),
    ipv6("fd00::2", "fd00::1", b"\x3c\0" + bytes(6) + b"\x11\0" + bytes(6) + udp(1, 2), protocol=0),
    ipv6(
        "fd00::2",
        "fd00::1",
        fragment6(udp(1, 2), offset=0, more=True, following=17, ident=1),
        protocol=44,
    ),
    ipv6("fd00::2", "fd00::1", icmp(1, 0, bytes(4), bytes(60)), protocol=58),
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good packet with some bytes changed, cut off or added."""
    packet = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 6))):
        packet[draw(st.integers(0, len(packet) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(packet)))
    if draw(st.booleans()):
        packet = packet[:cut]
    return bytes(packet) + draw(st.sampled_from([b"", b"\0", bytes(100)]))


anything = st.one_of(st.binary(max_size=200), damaged())


@given(anything)
@example(b"\x60" + bytes(39))
@example(b"\x4f" + bytes(70))
def test_view_is_total(packet: bytes) -> None:
    try:
        found = view(packet)
    except ProtocolError:
        return
    assert found.length == len(packet)
    assert found.offset <= len(packet)
    assert len(found.source) == len(found.destination) == (4 if found.version == 4 else 16)
    assert isinstance(repr(found), str)


@given(anything, st.sampled_from(Problem))
def test_an_error_about_anything_is_a_good_packet(packet: bytes, problem: Problem) -> None:
    try:
        about = view(packet)
    except ProtocolError:
        return
    if not deserves_error(about):
        return
    answer = view(error(packet, about, problem, about.destination, mtu=1280))
    assert answer.is_icmp_error
    assert not deserves_error(answer)


@given(anything, st.integers(68, 300))
def test_changes_to_anything_are_good_packets(packet: bytes, mtu: int) -> None:
    try:
        about = view(packet)
    except ProtocolError:
        return
    if about.ttl > 1:
        assert view(decrement_ttl(packet)).ttl == about.ttl - 1
    if about.version == 4 and len(packet) > mtu:
        for piece in fragment(packet, mtu):
            assert len(piece) <= mtu
            assert piece[0] >> 4 == 4


class Searching(Deaf):
    """An overlay that looks for half of all addresses, and for everybody."""

    def unknown_destination(self, destination: bytes) -> bool:
        return destination[-1] % 2 == 0

    def wanted(self, node: NodeId) -> bool:
        return True


@given(st.lists(anything, max_size=20), st.booleans(), st.booleans())
def test_every_packet_is_passed_answered_or_counted(
    batch: list[bytes], with_policy: bool, forwards: bool
) -> None:
    me = member("me", ["100.64.0.1", "fd00::1"], ["10.0.0.0/8"])
    peer = member("peer", ["100.64.0.2", "fd00::2"], ["0.0.0.0/0", "::/0"])
    device, link, counters = FakeDevice(), FakeLink(100), Counters()
    policy = FakePolicy({("peer", 2)}) if with_policy else None
    routes = {"192.168.0.0/16": NextHop.to_node(peer.node_id)}
    forwarder = Forwarder(
        device,
        counters,
        snapshot(me, routes, {peer: link}, policy=policy, forwards=forwards),
        lambda: 0.0,
        Searching(),
    )
    forwarder.inbound(peer.node_id, batch)
    assert counters.received_packets + counters.drops.total() >= len(batch)
    forwarder.outbound(batch)
