"""The forwarder with a device, links and a policy in memory: batches, counters, ICMP, holding."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from quicether.counters import Counters
from quicether.dataplane import forwarder as forwarder_room
from quicether.dataplane.forwarder import DETOUR_LOOK, MAX_PATHS, Forwarder
from quicether.dataplane.held import Held
from quicether.dataplane.icmp import SENDER_BURST
from quicether.dataplane.packet import PacketView, view
from quicether.dataplane.snapshot import Snapshot
from quicether.model import DropReason, NextHop, NodeId
from support.fake_device import FakeDevice
from support.fake_link import FakeLink
from support.fake_overlay import FakeFib, FakePolicy, member, snapshot
from support.packets import icmp, ip, ipv4, ipv6, udp

ME = member("me", ["100.64.0.1", "fd00::1"], ["10.0.0.0/16"])
HOME = member("home", ["100.64.0.2", "fd00::2"], ["192.168.1.0/24", "fd01::/64"])
OFFICE = member("office", ["100.64.0.3", "fd00::3"], ["10.1.0.0/16", "fd02::/64"])
ABSENT = member("absent", ["100.64.0.5"], ["10.5.0.0/16"])

ROUTES = {
    "192.168.1.0/24": NextHop.to_node(HOME.node_id),
    "100.64.0.2/32": NextHop.to_node(HOME.node_id),
    "fd01::/64": NextHop.to_node(HOME.node_id),
    "10.1.0.0/16": NextHop.to_node(OFFICE.node_id),
    "fd02::/64": NextHop.to_node(OFFICE.node_id),
    "10.5.0.0/16": NextHop.to_node(ABSENT.node_id),
}
HOST4, HOST6 = "100.64.0.1", "fd00::1"


class Told:
    """Keeps what the forwarder tells the overlay; `holds` is the answer to its questions."""

    def __init__(self) -> None:
        self.holds = False
        self.unknown: list[bytes] = []
        self.wants: list[NodeId] = []
        self.stand_ins: list[NodeId] = []
        self.spoofs: list[tuple[NodeId, PacketView]] = []

    def unknown_destination(self, destination: bytes) -> bool:
        self.unknown.append(destination)
        return self.holds

    def wanted(self, node: NodeId) -> bool:
        self.wants.append(node)
        return self.holds

    def detoured(self, node: NodeId) -> None:
        del node

    def stood_in_for(self, node: NodeId) -> None:
        self.stand_ins.append(node)

    def spoofed(self, node: NodeId, packet: PacketView) -> None:
        self.spoofs.append((node, packet))


class Bench:
    """A forwarder between a fake device and two fake links."""

    def __init__(self, *, forwards: bool = False, policy: FakePolicy | None = None) -> None:
        self.device = FakeDevice()
        self.home = FakeLink()
        self.office = FakeLink()
        self.counters = Counters()
        self.told = Told()
        self.now = 1000.0
        self.snapshot: Snapshot = snapshot(
            ME,
            ROUTES,
            {HOME: self.home, OFFICE: self.office},
            others=[ABSENT],
            forwards=forwards,
            policy=policy,
        )
        self.forwarder = Forwarder(
            self.device,
            self.counters,
            self.snapshot,
            lambda: self.now,
            self.told,
            Held(per_destination=4, total=8, lifetime=3.0),
        )
        self.device.start(self.forwarder.outbound)

    @property
    def drops(self) -> dict[DropReason, int]:
        return dict(self.counters.drops)


def test_a_batch_becomes_one_batch_a_link() -> None:
    bench = Bench()
    home = [ipv4(HOST4, f"192.168.1.{n}", udp(1, 2)) for n in range(5)]
    office = [ipv4(HOST4, f"10.1.0.{n}", udp(1, 2)) for n in range(3)]
    bench.device.feed(home[0], office[0], home[1], home[2], office[1], office[2], *home[3:])
    assert bench.home.batches == [home]
    assert bench.office.batches == [office]
    assert (bench.counters.sent_packets, bench.counters.sent_bytes) == (8, 8 * 28)
    assert bench.drops == {}


def test_a_batch_from_a_peer_becomes_one_write() -> None:
    bench = Bench()
    packets = [ipv4("192.168.1.9", f"10.0.0.{n}", udp(1, 2)) for n in range(4)]
    bench.forwarder.inbound(HOME.node_id, packets)
    assert bench.device.written == packets
    assert bench.device.batches == 1
    assert (bench.counters.received_packets, bench.counters.received_bytes) == (4, 112)
    assert bench.counters.forwarded_packets == 0


@pytest.mark.parametrize(
    "rubbish",
    [b"", b"\x45", b"\x00" * 60, ipv4(HOST4, "10.1.0.1", udp(1, 2)) + b"!", b"\x60" + bytes(45)],
)
def test_rubbish_is_counted_in_both_directions(rubbish: bytes) -> None:
    bench = Bench()
    good = ipv4(HOST4, "192.168.1.9", udp(1, 2))
    bench.device.feed(rubbish, good)
    bench.forwarder.inbound(HOME.node_id, [rubbish])
    assert bench.drops == {DropReason.MALFORMED: 2}
    assert bench.home.sent == [good]
    assert bench.device.written == []


def test_what_is_link_local_is_counted_and_not_answered() -> None:
    bench = Bench(policy=FakePolicy({("me", 2)}))
    bench.device.feed(ipv6("fe80::1", "ff02::2", icmp(133), protocol=58))
    assert bench.drops == {DropReason.LINK_LOCAL: 1}
    assert bench.device.written == []


def test_too_big_for_the_path_is_told_the_mtu() -> None:
    bench = Bench()
    bench.home.max_packet = 1300
    packet = ipv4(HOST4, "192.168.1.9", udp(1, 2, bytes(1273)))
    bench.device.feed(packet)
    (answer,) = bench.device.written
    found = view(answer)
    assert (found.icmp_type, found.icmp_code) == (3, 4)
    assert int.from_bytes(answer[26:28], "big") == 1300
    assert found.destination == ip_address(HOST4).packed
    # Not from our own address, which the kernel would take for a martian.
    assert found.source == ip_address("192.168.1.9").packed
    assert bench.drops == {DropReason.TOO_BIG: 1}
    assert bench.home.sent == []


def test_too_big_ipv6_is_told_the_mtu() -> None:
    bench = Bench()
    bench.home.max_packet = 1300
    bench.device.feed(ipv6(HOST6, "fd01::9", udp(1, 2, bytes(1300))))
    (answer,) = bench.device.written
    assert view(answer).icmp_type == 2
    assert int.from_bytes(answer[44:48], "big") == 1300


def test_the_largest_packet_fits() -> None:
    bench = Bench()
    packet = ipv4(HOST4, "192.168.1.9", udp(1, 2, bytes(1372)))
    bench.device.feed(packet)
    assert len(packet) == 1400
    assert bench.home.sent == [packet]


def test_too_big_without_df_is_fragmented() -> None:
    bench = Bench()
    bench.home.max_packet = 600
    packet = ipv4(HOST4, "192.168.1.9", udp(1, 2, bytes(1400)), dont_fragment=False)
    bench.device.feed(packet)
    assert [len(p) for p in bench.home.sent] == [596, 596, 276]
    assert bench.device.written == []
    assert bench.drops == {}


def test_the_limit_is_the_links_at_that_moment() -> None:
    bench = Bench()
    packet = ipv4(HOST4, "192.168.1.9", udp(1, 2, bytes(1300)))
    bench.device.feed(packet)
    bench.home.max_packet = 1200
    bench.device.feed(packet)
    bench.home.max_packet = 1400
    bench.device.feed(packet)
    assert bench.home.sent == [packet, packet]


def test_ipv6_is_off_on_a_path_below_its_least_mtu() -> None:
    bench = Bench()
    bench.home.max_packet = 1279
    bench.device.feed(
        ipv6(HOST6, "fd01::9", udp(1, 2)), ipv4(HOST4, "192.168.1.9", udp(1, 2, bytes(500)))
    )
    (answer,) = bench.device.written
    assert (view(answer).icmp_type, view(answer).icmp_code) == (1, 3)
    assert len(bench.home.sent) == 1
    assert bench.drops == {DropReason.TOO_BIG: 1}


def test_policy_is_asked_with_both_members_and_a_denial_is_answered() -> None:
    policy = FakePolicy({("me", 22)})
    bench = Bench(policy=policy)
    bench.device.feed(
        ipv4(HOST4, "192.168.1.9", udp(1, 22)), ipv4(HOST4, "192.168.1.9", udp(1, 80))
    )
    assert [(asked[1], asked[2], asked[3]) for asked in policy.asked] == [
        ("me", "home", 1000.0)
    ] * 2
    assert len(bench.home.sent) == 1
    (answer,) = bench.device.written
    assert (view(answer).icmp_type, view(answer).icmp_code) == (3, 13)
    assert bench.drops == {DropReason.POLICY: 1}


def test_policy_is_asked_before_the_route() -> None:
    bench = Bench(policy=FakePolicy({("me", 22)}))
    bench.told.holds = True
    bench.device.feed(ipv4(HOST4, "172.16.0.1", udp(1, 22)))
    assert bench.told.unknown == []
    assert bench.drops == {DropReason.POLICY: 1}


def test_a_denial_of_what_arrives_is_answered_through_the_link() -> None:
    bench = Bench(policy=FakePolicy({("home", 22)}))
    bench.forwarder.inbound(HOME.node_id, [ipv4("192.168.1.9", "10.0.0.1", udp(1, 22))])
    assert bench.device.written == []
    (answer,) = bench.home.sent
    found = view(answer)
    assert (found.icmp_type, found.icmp_code) == (3, 13)
    assert found.source == ip_address(HOST4).packed
    assert found.destination == ip_address("192.168.1.9").packed


def test_a_malformed_packet_never_reaches_policy() -> None:
    policy = FakePolicy()
    bench = Bench(policy=policy)
    bench.device.feed(ipv4(HOST4, "192.168.1.9", b"xy"))
    assert policy.asked == []
    assert bench.drops == {DropReason.MALFORMED: 1}


def test_a_spoofed_source_is_dropped_counted_and_told() -> None:
    policy = FakePolicy()
    bench = Bench(policy=policy)
    packet = ipv4("10.1.0.1", "10.0.0.1", udp(1, 2))
    bench.forwarder.inbound(HOME.node_id, [packet, packet])
    assert bench.drops == {DropReason.SPOOFED_SOURCE: 2}
    assert [node for node, _ in bench.told.spoofs] == [HOME.node_id] * 2
    assert bench.told.spoofs[0][1].source == ip_address("10.1.0.1").packed
    assert (bench.device.written, bench.home.sent, policy.asked) == ([], [], [])


def test_the_same_pair_is_judged_for_each_peer_on_its_own() -> None:
    """A verdict kept for one peer must not let another one through."""
    bench = Bench()
    packet = ipv4("192.168.1.9", "10.0.0.1", udp(1, 2))
    bench.forwarder.inbound(HOME.node_id, [packet])
    bench.forwarder.inbound(OFFICE.node_id, [packet])
    assert bench.device.written == [packet]
    assert bench.drops == {DropReason.SPOOFED_SOURCE: 1}


@pytest.mark.parametrize(
    ("source", "destination", "ttl"),
    [("192.168.1.9", "10.1.0.1", "ttl"), ("fd01::9", "fd02::1", "hop_limit")],
)
def test_a_gateway_forwards_with_ttl_less_one(source: str, destination: str, ttl: str) -> None:
    bench = Bench(forwards=True)
    packet = ip(source, destination, udp(1, 2), **{ttl: 7})
    bench.forwarder.inbound(HOME.node_id, [packet, packet])
    assert bench.office.batches == [[ip(source, destination, udp(1, 2), **{ttl: 6})] * 2]
    assert bench.counters.forwarded_packets == 2
    assert bench.counters.forwarded_bytes == 2 * len(packet)
    assert bench.counters.received_packets == 2
    assert bench.counters.sent_packets == 0
    assert bench.device.written == []


def test_what_is_delivered_or_sent_keeps_its_ttl_dscp_and_ecn() -> None:
    bench = Bench(forwards=True)
    sent = ipv4(HOST4, "192.168.1.9", udp(1, 2), ttl=1, tos=0xBB)
    got = ipv4("192.168.1.9", "10.0.0.1", udp(1, 2), ttl=1, tos=0xBB)
    onward = ipv6("fd01::9", "fd02::1", udp(1, 2), hop_limit=9, traffic_class=0xBB)
    bench.device.feed(sent)
    bench.forwarder.inbound(HOME.node_id, [got, onward])
    assert bench.home.sent == [sent]
    assert bench.device.written == [got]
    assert bench.office.sent[0][:4] == onward[:4]


@pytest.mark.parametrize(
    ("source", "destination", "ttl", "kind"),
    [("192.168.1.9", "10.1.0.1", "ttl", 11), ("fd01::9", "fd02::1", "hop_limit", 3)],
)
def test_an_expired_packet_is_answered_by_the_gateway(
    source: str, destination: str, ttl: str, kind: int
) -> None:
    bench = Bench(forwards=True)
    bench.forwarder.inbound(
        HOME.node_id, [ip(source, destination, udp(1, 2), **{ttl: n}) for n in (1, 0)]
    )
    assert bench.office.sent == []
    assert [view(answer).icmp_type for answer in bench.home.sent] == [kind, kind]
    own = HOST4 if kind == 11 else HOST6
    assert view(bench.home.sent[0]).source == ip_address(own).packed
    assert bench.drops == {DropReason.TTL_EXPIRED: 2}


def test_a_gateway_tells_the_sender_what_does_not_fit_the_next_link() -> None:
    bench = Bench(forwards=True)
    bench.office.max_packet = 1290
    bench.forwarder.inbound(HOME.node_id, [ipv4("192.168.1.9", "10.1.0.1", udp(1, 2, bytes(1300)))])
    (answer,) = bench.home.sent
    assert int.from_bytes(answer[26:28], "big") == 1290


def test_a_gateway_fragments_what_may_be() -> None:
    bench = Bench(forwards=True)
    bench.office.max_packet = 1290
    bench.forwarder.inbound(
        HOME.node_id,
        [ipv4("192.168.1.9", "10.1.0.1", udp(1, 2, bytes(1300)), dont_fragment=False, ttl=9)],
    )
    assert [view(p).ttl for p in bench.office.sent] == [8, 8]


def test_no_error_about_an_error() -> None:
    bench = Bench(forwards=True)
    bench.forwarder.inbound(
        HOME.node_id,
        [ipv4("192.168.1.9", "172.16.0.1", icmp(3, 1, bytes(4), bytes(28)), protocol=1)],
    )
    assert bench.home.sent == []
    assert bench.drops == {DropReason.NO_ROUTE: 1}


def test_who_is_denied_a_thousand_times_silences_nobody_else() -> None:
    bench = Bench(policy=FakePolicy({(name, 2) for name in ("home", "office", "me")}))
    for source in (f"192.168.1.{n}" for n in range(1, 255)):
        bench.forwarder.inbound(HOME.node_id, [ipv4(source, "10.0.0.1", udp(1, 2))] * 4)
    bench.forwarder.inbound(OFFICE.node_id, [ipv4("10.1.0.9", "10.0.0.1", udp(1, 2))])
    assert len(bench.home.sent) == SENDER_BURST
    assert len(bench.office.sent) == 1
    bench.forwarder.outbound([ipv4("10.0.0.7", "10.1.0.9", udp(1, 2))] * 1000)
    bench.forwarder.outbound([ipv4("10.0.0.8", "10.1.0.9", udp(1, 2))])
    assert len(bench.device.written) == SENDER_BURST + 1


def test_errors_are_limited_and_too_big_is_not_starved() -> None:
    bench = Bench()
    bench.home.max_packet = 600
    lost = [ipv4(HOST4, "172.16.0.1", udp(1, n)) for n in range(200)]
    bench.device.feed(*lost)
    assert len(bench.device.written) == SENDER_BURST
    assert bench.drops == {
        DropReason.NO_ROUTE: 200,
        DropReason.ICMP_LIMITED: 200 - SENDER_BURST,
    }
    bench.device.feed(ipv4(HOST4, "192.168.1.9", udp(1, 2, bytes(1000))))
    assert view(bench.device.written[-1]).icmp_code == 4


def test_who_is_behind_a_gateway_is_looked_up_and_the_internet_is_not() -> None:
    """Without its owner a rule about an address says nothing, whichever way its packets go."""
    bench = Bench()
    routes = {
        **ROUTES,
        "0.0.0.0/0": NextHop.via_gateway(HOME.node_id),
        "10.6.0.0/16": NextHop.via_gateway(HOME.node_id),
    }
    bench.forwarder.swap(
        replace(
            bench.snapshot,
            fib=FakeFib(routes),
            candidates={HOME.node_id: frozenset(map(ip_network, routes))},
        )
    )
    bench.forwarder.inbound(HOME.node_id, [ipv4("10.6.0.1", HOST4, udp(1, 2))] * 2)
    bench.device.feed(ipv4(HOST4, "10.6.0.2", udp(1, 2)), ipv4(HOST4, "10.1.0.2", udp(1, 2)))
    bench.device.feed(ipv4(HOST4, "8.8.8.8", udp(1, 2)))
    bench.forwarder.inbound(HOME.node_id, [ipv4("8.8.8.8", HOST4, udp(1, 2))])
    assert bench.told.unknown == [ip_address(each).packed for each in ("10.6.0.1", "10.6.0.2")]
    assert bench.drops == {}


def test_no_route_is_told_unless_it_is_being_looked_up() -> None:
    bench = Bench()
    packet = ipv4(HOST4, "172.16.0.1", udp(1, 2))
    bench.device.feed(packet)
    assert bench.told.unknown == [ip_address("172.16.0.1").packed]
    assert view(bench.device.written[0]).icmp_code == 0
    assert bench.drops == {DropReason.NO_ROUTE: 1}


def test_held_packets_go_when_the_route_comes() -> None:
    bench = Bench()
    bench.told.holds = True
    packets = [ipv4(HOST4, "172.16.0.1", udp(1, n)) for n in range(3)]
    bench.device.feed(*packets)
    assert bench.told.unknown == [ip_address("172.16.0.1").packed], "asked once while held"
    assert (bench.device.written, bench.drops) == ([], {})
    fib = FakeFib({**ROUTES, "172.16.0.0/12": NextHop.to_node(HOME.node_id)})
    bench.forwarder.swap(replace(bench.snapshot, fib=fib))
    assert bench.home.batches == [packets]
    assert bench.counters.sent_packets == 3


def test_held_packets_go_when_the_peer_connects() -> None:
    bench = Bench()
    bench.told.holds = True
    packet = ipv4(HOST4, "10.5.0.1", udp(1, 2))
    bench.device.feed(packet)
    assert bench.told.wants == [ABSENT.node_id]
    bench.forwarder.swap(bench.snapshot)
    absent = FakeLink()
    assert bench.device.written == []
    bench.forwarder.swap(
        replace(bench.snapshot, links={**bench.snapshot.links, ABSENT.node_id: absent})
    )
    assert absent.sent == [packet]


def test_held_packets_are_bounded_and_the_rest_is_counted() -> None:
    bench = Bench()
    bench.told.holds = True
    bench.device.feed(*[ipv4(HOST4, "172.16.0.1", udp(1, n)) for n in range(10)])
    assert bench.drops == {DropReason.QUEUE_FULL: 6}


def test_held_packets_expire_with_an_answer() -> None:
    bench = Bench()
    bench.told.holds = True
    bench.device.feed(ipv4(HOST4, "172.16.0.1", udp(1, 2)))
    bench.now += 2.9
    bench.forwarder.expire()
    assert bench.drops == {}
    bench.now += 0.2
    bench.forwarder.expire()
    assert bench.drops == {DropReason.HELD: 1}
    assert view(bench.device.written[0]).icmp_code == 1


def test_giving_up_answers_what_was_held_for_it_alone() -> None:
    bench = Bench()
    bench.told.holds = True
    bench.device.feed(
        ipv4(HOST4, "172.16.0.1", udp(1, 2)),
        ipv4(HOST4, "172.16.0.2", udp(1, 2)),
        ipv4(HOST4, "10.5.0.1", udp(1, 2)),
    )
    bench.forwarder.give_up(ip_address("172.16.0.1").packed)
    assert bench.drops == {DropReason.NO_ROUTE: 1}
    bench.forwarder.give_up_node(ABSENT.node_id)
    assert bench.drops == {DropReason.NO_ROUTE: 1, DropReason.UNREACHABLE: 1}
    assert [view(answer).icmp_code for answer in bench.device.written] == [0, 1]


def test_a_peers_packets_are_never_held() -> None:
    bench = Bench(forwards=True)
    bench.told.holds = True
    bench.forwarder.inbound(
        HOME.node_id,
        [ipv4("192.168.1.9", "10.5.0.1", udp(1, 2)), ipv4("192.168.1.9", "172.16.0.1", udp(1, 2))],
    )
    assert bench.told.wants == [ABSENT.node_id]
    assert bench.drops == {DropReason.UNREACHABLE: 1, DropReason.NO_ROUTE: 1}
    assert [view(answer).icmp_code for answer in bench.home.sent] == [1, 0]


def test_a_swap_inside_a_hook_is_safe() -> None:
    """The overlay may have the answer at once and swap while a batch is under way."""
    bench = Bench()
    fib = FakeFib({**ROUTES, "172.16.0.0/12": NextHop.to_node(OFFICE.node_id)})

    def found_at_once(destination: bytes) -> bool:
        bench.forwarder.swap(replace(bench.snapshot, fib=fib))
        return False

    bench.told.unknown_destination = found_at_once  # type: ignore[method-assign]
    known = ipv4(HOST4, "192.168.1.9", udp(1, 2))
    bench.device.feed(known, ipv4(HOST4, "172.16.0.1", udp(1, 2)), known)
    assert bench.home.sent == [known, known]
    bench.device.feed(ipv4(HOST4, "172.16.0.1", udp(1, 2)))
    assert len(bench.office.sent) == 1


def test_a_swap_forgets_every_verdict() -> None:
    bench = Bench()
    packet = ipv4("192.168.1.9", "10.0.0.1", udp(1, 2))
    bench.forwarder.inbound(HOME.node_id, [packet])
    bench.forwarder.swap(replace(bench.snapshot, members={}))
    bench.forwarder.inbound(HOME.node_id, [packet])
    assert bench.device.written == [packet]
    assert bench.drops == {DropReason.UNKNOWN_CONNECTION: 1}


def test_remembered_pairs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    largest = 0
    learn = Forwarder._learn

    def watched(self: Forwarder, paths: dict[bytes, object], *rest: object) -> object:
        nonlocal largest
        path = learn(self, paths, *rest)  # type: ignore[arg-type]
        largest = max(largest, len(paths))
        return path

    monkeypatch.setattr(forwarder_room.Forwarder, "_learn", watched)
    for number in range(MAX_PATHS + 10):
        source = f"192.168.1.{number % 256}"
        destination = f"10.0.{number // 256}.{number % 256}"
        bench.forwarder.inbound(HOME.node_id, [ipv4(source, destination, udp(1, 2))])
    assert largest == MAX_PATHS
    assert len(bench.device.written) == MAX_PATHS + 10


def test_who_is_stood_in_for_is_told_while_packets_go_by_the_gateway() -> None:
    bench = Bench()
    by_office = NextHop.via_gateway(OFFICE.node_id)
    bench.forwarder.swap(replace(bench.snapshot, fib=FakeFib({**ROUTES, "10.5.0.0/16": by_office})))
    packets = [ipv4(HOST4, f"10.5.0.{n}", udp(1, 2)) for n in range(3)]
    told: list[int] = []
    for sending in (True, True, False, True):
        if sending:
            bench.device.feed(*packets)
        bench.now += DETOUR_LOOK
        bench.forwarder.expire()
        told.append(len(bench.told.stand_ins))
    assert bench.told.stand_ins == [ABSENT.node_id] * 3
    assert told == [1, 2, 2, 3]
    assert len(bench.office.sent) == 9
