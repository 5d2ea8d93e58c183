"""The forwarder of a gateway, and the ICMP errors that it sends."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from quicether.dataplane.icmp import SENDER_BURST
from quicether.dataplane.packet import view
from quicether.model import DropReason
from support.fake_overlay import FakePolicy
from support.forwarder_bench import HOME, HOST4, HOST6, OFFICE, Bench
from support.packets import icmp, ip, ipv4, ipv6, udp


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
