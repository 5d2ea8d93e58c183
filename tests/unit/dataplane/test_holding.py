"""The forwarder where there is no way yet: asking, holding, giving up, and new snapshots."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

from quicether.dataplane.forwarder import DETOUR_LOOK
from quicether.dataplane.packet import view
from quicether.model import DropReason, NextHop
from support.fake_link import FakeLink
from support.fake_overlay import FakeFib
from support.forwarder_bench import ABSENT, HOME, HOST4, OFFICE, ROUTES, Bench
from support.packets import ipv4, udp


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
