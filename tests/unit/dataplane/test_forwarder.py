"""The forwarder with a device, links and a policy in memory: batches, counters, MTU, verdicts."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from quicether.dataplane import forwarder as forwarder_room
from quicether.dataplane.forwarder import MAX_PATHS, Forwarder
from quicether.dataplane.packet import view
from quicether.model import DropReason
from support.fake_overlay import FakePolicy
from support.forwarder_bench import HOME, HOST4, HOST6, OFFICE, Bench
from support.packets import icmp, ipv4, ipv6, udp


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
