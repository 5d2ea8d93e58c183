"""Nodes that know one address find each other and what each owns: the whole overlay, no wires."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest

from quicether.model import NextHop
from quicether.overlay.discovery import LINGER, LOCATE_AGAIN, MAX_RIVALS
from quicether.overlay.findings import ASKED_FOR
from quicether.overlay.questions import NOTHING_FOR
from quicether.transport.messages import RpcKind
from support.discovering_nodes import LANS, SHARED, Finder, World, all_found, scene, town
from support.virtual_time import passes


async def asked(node: Finder, address: str) -> bool:
    return await node.found.ask(ip_address(address), 5.0)


async def hang_up(node: Finder, other: Finder) -> None:
    """End the connection of two nodes, and let what they said by it be forgotten."""
    await asyncio.sleep(30)  # what there was to ask has been asked
    for one, far in ((node, other), (other, node)):
        connection = one.mesh.peers.active(far.member.node_id)
        if connection is not None:
            one.pool._close(far.member.node_id, connection)
    await asyncio.sleep(LINGER + 3)
    assert not node.reaches(other)


def test_nodes_that_know_one_address_know_each_others_lans_soon() -> None:
    async def told(world: World) -> None:
        nodes = await town(world, 5)
        sixth = await world.node(LANS[5])
        await passes(lambda: all(node.owner("192.168.6.9") == "node6" for node in nodes), 5)
        assert [sixth.owner(str(lan[9])) for lan in LANS[:5]] == [n.member.name for n in nodes]

    scene(told)


def test_who_was_refused_all_its_first_questions_asks_again_within_seconds() -> None:
    """It knew nobody any more, and its connections told it of nobody: it was deaf for minutes."""

    async def told(world: World) -> None:
        a = await world.node(LANS[0])
        service, followers = a.mesh._rpc.pop(RpcKind.DHT), a.mesh._followers
        a.mesh._followers = []
        b = await world.node(LANS[1])
        await passes(lambda: a.reaches(b), 5)
        await asyncio.sleep(1)
        a.mesh._followers = followers
        a.mesh.answer_with(RpcKind.DHT, service)
        await passes(lambda: all_found(a, [b]) and all_found(b, [a]), 8)

    scene(told)


def test_what_is_withdrawn_and_who_leaves_is_gone_within_seconds() -> None:
    async def told(world: World) -> None:
        a, b, c = await town(world, 3)
        b.mesh.serve(())
        await passes(lambda: a.hop("192.168.2.9") is None and c.hop("192.168.2.9") is None, 5)
        await c.leave()
        # Who was connected is believed for a moment longer.
        await passes(lambda: a.hop("192.168.3.9") is None, LINGER + 5)

    scene(told)


def test_who_dies_is_gone_when_its_records_end() -> None:
    async def told(world: World) -> None:
        a, _, c = await town(world, 3)
        await c.die()
        await asyncio.sleep(300)
        assert a.owner("192.168.3.9") == "node3"
        await asyncio.sleep(310)
        assert a.hop("192.168.3.9") is None

    scene(told)


def test_a_withdrawal_counts_also_after_a_lookup_brought_a_renewal() -> None:
    """`quicether lookup` used to keep the route for ASKED_FOR after the withdrawal."""

    async def told(world: World) -> None:
        a, b, _ = await town(world, 3)
        await asyncio.sleep(400)
        await asked(a, "192.168.2.9")
        assert a.owner("192.168.2.9") == "node2"
        b.mesh.serve(())
        await passes(lambda: a.hop("192.168.2.9") is None, 5)

    scene(told)


# -- on demand ---------------------------------------------------------------------------------


def test_with_routes_none_a_packet_waits_until_its_owner_is_found_and_connected() -> None:
    async def told(world: World) -> None:
        await town(world, 3)
        loner = await world.node(routes="none")
        await passes(lambda: loner.dht.joined, 10)
        await hang_up(loner, world.nodes[2])
        assert loner.hop("192.168.3.9") is None
        packets = [loner.send("192.168.3.9", port) for port in range(3)]
        owner = world.nodes[2]
        took = await passes(lambda: len(owner.device.written) == 3, 3)
        assert took < 1
        assert owner.device.written == packets
        assert loner.device.written == []
        assert set(map(str, loner.routes.prefixes())) >= {"192.168.3.0/24"}

    scene(told)


def test_with_a_list_those_inside_are_followed_and_others_found_when_asked_for() -> None:
    async def told(world: World) -> None:
        for lan in (ip_network("10.1.0.0/24"), ip_network("172.16.1.0/24")):
            await world.node(lan)
        chooser = await world.node(routes=(ip_network("10.0.0.0/8"),))
        await passes(lambda: chooser.owner("10.1.0.9") == "node1", 10)
        await asyncio.sleep(LINGER + 200)
        chooser.mesh.routes.unannounced(world.nodes[1].member.node_id)
        assert chooser.hop("172.16.1.9") is None
        await asked(chooser, "172.16.1.9")
        assert chooser.owner("172.16.1.9") == "node2"

    scene(told)


def test_what_a_lookup_brought_is_forgotten_after_a_while() -> None:
    async def told(world: World) -> None:
        owner, loner = await world.node(LANS[0]), await world.node(routes="none")
        await passes(lambda: loner.dht.joined, 10)
        await asyncio.sleep(5)
        hop = NextHop.to_node(owner.member.node_id)
        await asked(loner, "192.168.1.9")
        assert loner.found._findings.routes(owner.member.node_id)[hop] == (LANS[0],)
        await asyncio.sleep(ASKED_FOR + 3)
        assert loner.found._findings.routes(owner.member.node_id)[hop] == ()

    scene(told)


def test_a_lookup_takes_back_what_was_withdrawn_since_the_last() -> None:
    """It used to count until its time was over, although the answer says that it is gone."""

    async def told(world: World) -> None:
        await world.node()
        owner = await world.node(LANS[1])
        loner = await world.node(routes="none")
        await passes(lambda: loner.dht.joined, 10)
        await asyncio.sleep(5)
        await asked(loner, "192.168.2.9")
        assert LANS[1] in loner.found._findings.prefixes(owner.member.node_id)
        owner.mesh.serve(())
        await asyncio.sleep(5)
        await asked(loner, "192.168.2.9")
        assert loner.found._findings.routes(owner.member.node_id) == {
            NextHop.to_node(owner.member.node_id): (),
            NextHop.via_gateway(owner.member.node_id): (),
        }

    scene(told)


def test_an_address_that_nobody_owns_is_answered_and_not_looked_for_again_at_once() -> None:
    async def told(world: World) -> None:
        a, _ = await town(world, 2)
        lookups = count_lookups(a)
        a.send("10.99.0.1")
        assert a.device.written == []
        await passes(lambda: len(a.device.written) == 1, 2)
        first = len(lookups)
        assert first > 0
        a.send("10.99.0.1")
        await passes(lambda: len(a.device.written) == 2, 0.1)
        assert len(lookups) == first
        await asyncio.sleep(NOTHING_FOR)
        a.send("10.99.0.1")
        await passes(lambda: len(a.device.written) == 3, 2)
        assert len(lookups) > first

    scene(told)


# -- where nodes are ---------------------------------------------------------------------------


def count_lookups(node: Finder) -> list[int]:
    """Return a list that grows by one key with every lookup that a node starts."""
    keys: list[int] = []
    find = node.dht.find

    def counting(key: int, now: float) -> int:
        keys.append(key)
        return find(key, now)

    node.found._node = Recording(node.found._node, counting)  # type: ignore[assignment]
    return keys


class Recording:
    """A DHT machine whose lookups are seen."""

    def __init__(self, node: object, find: Callable[[int, float], int]) -> None:
        self._node = node
        self.find = find

    def __getattr__(self, name: str) -> object:
        return getattr(self._node, name)


def test_traffic_moves_to_another_owner_when_one_dies() -> None:
    async def told(world: World) -> None:
        a = await world.node()
        b, c = await world.node(SHARED), await world.node(SHARED)
        await passes(lambda: len(a.routes.candidates(SHARED)) == 2, 20)
        a.send("10.77.0.9")
        await passes(lambda: b.device.written or c.device.written, 5)
        used, other = (b, c) if b.device.written else (c, b)
        await used.die()

        def arrives() -> bool:
            a.send("10.77.0.9")
            return bool(other.device.written)

        await passes(arrives, 10)

    scene(told)


def test_of_many_dead_owners_of_a_prefix_few_are_looked_for_at_a_time() -> None:
    """Each used to look for two more: all of 32 owners, with 64 lookups at once."""

    async def told(world: World) -> None:
        a = await world.node()
        others = [await world.node(SHARED) for _ in range(6)]
        await passes(lambda: len(a.routes.candidates(SHARED)) == 6, 30)
        await asyncio.sleep(150)
        for other in others:
            await other.die()
        await asyncio.sleep(LINGER + 5)
        lookups = count_lookups(a)
        dead = others[0].member.node_id
        seen = set()
        for _ in range(3):
            before = len(lookups)
            a.found.locate(dead)
            assert len(lookups) - before <= 2 * (1 + MAX_RIVALS)
            seen |= set(lookups)
            await asyncio.sleep(LOCATE_AGAIN)
        # The node itself and two others at a time: all five had their turn.
        assert len(seen) == 2 * 6

    scene(told)


# -- what goes wrong ---------------------------------------------------------------------------


def test_a_fault_in_the_upkeep_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """It used to end the sweeping, expiring, advertising and saving, and nobody saw it."""

    async def told(world: World) -> None:
        a = await world.node()

        def faulty() -> None:
            raise KeyError("a fault")

        monkeypatch.setattr(a.pool, "sweep", faulty)
        assert a._runs is not None
        with pytest.raises(KeyError, match="a fault"):
            await a._runs

    scene(told)


def test_a_fault_in_one_question_fails_that_question_and_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The call used to stay open, and its place was never published again."""

    async def told(world: World) -> None:
        a, b = await town(world, 2)
        reach, wrong = a.pool.reach, []

        async def faulty(*_arguments: object) -> object:
            wrong.append(1)
            raise AttributeError("a fault")

        with monkeypatch.context() as patch:
            patch.setattr(a.pool, "reach", faulty)
            a.mesh.serve((LANS[0], SHARED))
            await passes(lambda: wrong, 5)
            await asyncio.sleep(1)
        assert a.pool.reach == reach
        assert "by a fault of our own" in caplog.text
        assert all(not place.open for place in a.dht._publisher._places.values())
        await passes(lambda: b.owner("10.77.0.9") == "node1", 30)

    scene(told)


def test_a_fault_of_who_hears_of_an_event_stops_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def told(world: World) -> None:
        a, b = await town(world, 2)

        def faulty(*_arguments: object) -> None:
            raise KeyError("a fault")

        with monkeypatch.context() as patch:
            patch.setattr(a.found._findings, "follow", faulty)
            b.mesh.serve((LANS[1], SHARED))
            await passes(lambda: "a fault in the discovery" in caplog.text, 5)
        await asyncio.sleep(5)
        b.mesh.serve((LANS[1],))
        await passes(lambda: a.hop("10.77.0.9") is None, 5)

    scene(told)


def test_in_another_network_nothing_of_the_last_one_counts() -> None:
    async def told(world: World) -> None:
        a, b = await town(world, 2)
        assert a.mesh.outside.ways == (b.address.ip,)
        assert a.found._observations.agreed == (a.address,)
        a.found.moved()
        assert a.mesh.outside.ways == ()
        assert a.found._observations.agreed == ()

    scene(told)
