"""Nodes find each other, learn each other's prefixes, and pass packets: over a fake endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_network

import pytest

from quicether.errors import ConfigError, UnreachableError
from quicether.model import (
    DropReason,
    NextHop,
    NodeId,
    PeerState,
)
from quicether.overlay.gateways import Forwarding
from support.fake_endpoint import FakeUnderlay
from support.mesh_nodes import Node, until
from support.packets import ipv4, udp

LAN = ip_network("192.168.1.0/24")
OTHER_LAN = ip_network("192.168.2.0/24")
FOREIGN = ip_network("172.16.0.0/12")


def play(scene: Callable[[Node, Node], Awaitable[None]]) -> None:
    """Run a scene of two nodes; a is told of b, b of nobody."""

    async def run() -> None:
        underlay = FakeUnderlay()
        a, b = Node(underlay, 1, OTHER_LAN), Node(underlay, 2, LAN)
        try:
            await scene(a, b)
        finally:
            await a.stop()
            await b.stop()

    asyncio.run(run())


async def join(a: Node, b: Node) -> None:
    await b.start()
    await a.start(b)
    await until(lambda: a.reaches(b) and b.reaches(a))
    await until(lambda: a.hop("192.168.1.9") and b.hop("192.168.2.9"))
    await asyncio.sleep(0)  # what was learned is published at the end of the turn


def test_prefixes_of_a_connected_peer_lead_to_it() -> None:
    async def scene(a: Node, b: Node) -> None:
        await join(a, b)
        assert a.hop("192.168.1.9") == NextHop.to_node(b.member.node_id)
        assert b.hop("100.64.0.1") == NextHop.to_node(a.member.node_id)
        assert a.hop("172.16.0.1") is None

    play(scene)


def test_a_packet_crosses_and_its_answer_comes_back() -> None:
    async def scene(a: Node, b: Node) -> None:
        await join(a, b)
        asked = ipv4("100.64.0.1", "192.168.1.9", b"ask")
        answered = ipv4("192.168.1.9", "100.64.0.1", b"answer")
        a.device.feed(asked)
        await until(lambda: b.device.written)
        b.device.feed(answered)
        await until(lambda: a.device.written)
        assert (b.device.written, a.device.written) == ([asked], [answered])

    play(scene)


def test_a_prefix_announced_later_appears_and_one_withdrawn_goes() -> None:
    async def scene(a: Node, b: Node) -> None:
        await join(a, b)
        b.mesh.serve([])
        await until(lambda: a.hop("192.168.1.9") is None)
        b.mesh.serve([LAN])
        await until(lambda: a.hop("192.168.1.9") is not None)

    play(scene)


def test_what_a_certificate_does_not_cover_is_no_route_and_a_security_event() -> None:
    async def scene(a: Node, b: Node) -> None:
        await join(a, b)
        b.mesh.serve([LAN, FOREIGN])
        await until(lambda: a.audit.prefixes)
        assert a.audit.prefixes == [FOREIGN]
        assert a.hop("172.16.0.1") is None
        assert a.hop("192.168.1.9") is not None

    play(scene)


def test_a_source_that_is_not_the_peers_gets_nothing_through() -> None:
    async def scene(a: Node, b: Node) -> None:
        await join(a, b)
        a.endpoint.connections[0].send_packets([ipv4("172.16.0.1", "192.168.1.9", udp(1, 2))])
        await until(lambda: b.audit.spoofers)
        assert b.audit.spoofers == [a.member]
        assert b.device.written == []
        assert b.counters.drops[DropReason.SPOOFED_SOURCE] == 1

    play(scene)


def test_both_connecting_at_once_end_in_one_connection() -> None:
    async def scene(a: Node, b: Node) -> None:
        await asyncio.gather(a.start(b), b.start(a))
        await until(lambda: a.reaches(b) and b.reaches(a))
        await until(lambda: len(a.endpoint.connections) == len(b.endpoint.connections) == 1)
        (kept,) = a.endpoint.connections
        assert kept.initiated, "the lower node's connection is kept"

    play(scene)


def test_the_prefixes_of_a_lost_peer_stay_and_count_as_unreachable() -> None:
    async def scene(a: Node, b: Node) -> None:
        await join(a, b)
        a.device.feed(ipv4("100.64.0.1", "192.168.1.9", b"ask"))
        await until(lambda: b.device.written)
        a.endpoint.underlay.cut(a.address, b.address)
        await until(lambda: not a.reaches(b))
        assert a.hop("192.168.1.9") == NextHop.to_node(b.member.node_id)
        (target,) = a.mesh.peers.targets()
        assert a.mesh.peers.state(target) is PeerState.UNREACHABLE
        assert a.audit.connections == ["node2 came", "node2 went after 23 and 0 bytes"]

    play(scene)


def test_a_changed_underlay_probes_paths_and_tries_again_at_once() -> None:
    async def scene(a: Node, b: Node) -> None:
        await a.start(b)
        await until(lambda: a.mesh.peers.settled())
        await b.start()
        a.mesh.underlay_changed()
        await until(lambda: a.reaches(b))
        assert a.endpoint.probes == 1

    play(scene)


def test_a_peer_of_another_name_is_refused() -> None:
    async def scene(a: Node, b: Node) -> None:
        await b.start()
        await a.start(b, named="somebody")
        await until(lambda: a.mesh.peers.settled())
        (target,) = a.mesh.peers.targets()
        assert a.mesh.peers.state(target) is PeerState.REFUSED
        assert a.hop("192.168.1.9") is None

    play(scene)


def test_a_ping_measures_the_way_and_back() -> None:
    async def scene(a: Node, b: Node) -> None:
        await join(a, b)
        assert await a.mesh.ping(b.member.node_id, 1.0) >= 0.0
        with pytest.raises(UnreachableError, match="not connected"):
            await a.mesh.ping(NodeId(bytes(20)), 1.0)

    play(scene)


def test_a_node_is_found_by_name_by_id_and_by_the_beginning_of_it() -> None:
    async def scene(a: Node, b: Node) -> None:
        await join(a, b)
        for reference in ("node2", str(b.member.node_id), "0202020202"):
            assert a.routes.only(reference) == b.member
        with pytest.raises(ConfigError, match="'nobody' is not known"):
            a.routes.only("nobody")

    play(scene)


def test_a_peer_that_is_no_longer_configured_is_no_longer_tried() -> None:
    async def scene(a: Node, b: Node) -> None:
        await a.start(b)
        await until(lambda: a.mesh.peers.settled())
        a.mesh.want_configured([])
        assert a.mesh.peers.targets() == ()

    play(scene)


def test_a_burst_of_announcements_is_published_once() -> None:
    async def scene(a: Node, b: Node) -> None:
        await join(a, b)
        before = a.changes
        for number in range(50):
            b.mesh.serve([LAN] if number % 2 else [])
        await until(lambda: a.changes > before)
        assert a.changes - before <= 2
        assert a.hop("192.168.1.9") is not None

    play(scene)


def test_packets_wait_for_a_path_that_is_not_measured_yet() -> None:
    async def scene(a: Node, b: Node) -> None:
        await join(a, b)
        (connection,) = a.endpoint.connections
        connection.change_path(max_packet=1223)
        await asyncio.sleep(0)
        packet = ipv4("100.64.0.1", "192.168.1.9", udp(1, 2, bytes(1300)))
        a.device.feed(packet)
        await asyncio.sleep(0)
        assert (a.device.written, b.device.written) == ([], [])
        connection.change_path(max_packet=1420)
        await until(lambda: b.device.written)
        assert b.device.written == [packet]

    play(scene)


def test_a_member_that_is_not_known_is_looked_up_beside_the_default_gateway() -> None:
    async def run() -> None:
        underlay = FakeUnderlay()
        everything = ip_network("0.0.0.0/0")
        way_out = Node(underlay, 1, everything, forwarding=Forwarding((everything,)))
        laptop = Node(underlay, 2, default_gateway="node1")
        await way_out.start()
        await laptop.start(way_out)
        await until(lambda: laptop.hop("8.8.8.8"))
        await until(lambda: way_out.hop("8.8.8.8"))
        await asyncio.sleep(0)
        for node in (laptop, way_out):
            source = str(node.member.addresses[0])
            node.device.feed(ipv4(source, "100.64.0.9", udp(1, 2)), ipv4(source, "8.8.8.8"))
            await until(lambda node=node: node.discovery.looked_up)
            assert node.discovery.looked_up == ["100.64.0.9"]
        await laptop.stop()
        await way_out.stop()

    asyncio.run(run())


def test_a_path_that_stays_small_is_used_all_the_same() -> None:
    async def scene(a: Node, b: Node) -> None:
        await join(a, b)
        (connection,) = a.endpoint.connections
        connection.change_path(max_packet=1223)
        packet = ipv4("100.64.0.1", "192.168.1.9", udp(1, 2, b"small"))
        await asyncio.sleep(0)
        a.device.feed(packet)
        await until(lambda: b.device.written)
        assert b.device.written == [packet]

    play(scene)
