"""Nodes get into the network by whichever address answers, and back into it after they lost it."""

from __future__ import annotations

import asyncio

from quicether.config.values import HostPort
from support.discovering_nodes import LANS, Finder, World, scene, town
from support.virtual_time import passes


def test_one_address_of_several_that_answers_is_enough() -> None:
    async def told(world: World) -> None:
        (a,) = await town(world, 1)
        nobody, home = HostPort("192.0.2.250", 9000), HostPort(a.address.host, 9000)
        for order in ((nobody, home), (home, nobody)):
            node = await world.node(bootstrap=order)
            assert await passes(lambda node=node: node.dht.joined, 5) < 1  # type: ignore[misc]

    scene(told)


def test_an_address_that_answers_later_is_found_then() -> None:
    async def told(world: World) -> None:
        early = await world.node(bootstrap=[HostPort("192.0.2.2", 9000)])
        await asyncio.sleep(100)
        assert not early.dht.joined
        late = await world.node(LANS[1], bootstrap=[])
        await passes(lambda: early.owner("192.168.2.9") == "node2", 10)
        assert late.dht.joined

    scene(told)


def test_a_node_finds_the_peers_of_its_last_run_when_no_address_answers() -> None:
    async def told(world: World) -> None:
        a, b, c = await town(world, 3)
        await b.leave()
        assert {each.node_id for each in world.kept["node2"]} == {
            a.member.node_id,
            c.member.node_id,
        }
        await a.die()
        again = Finder(world, 2, LANS[1])
        world.nodes.append(again)
        await again.begin("auto", [])
        await passes(lambda: again.owner("192.168.3.9") == "node3", 10)

    scene(told)


def test_two_halves_of_a_network_become_one_again() -> None:
    async def told(world: World) -> None:
        nodes = await town(world, 4)
        halves = nodes[:2], nodes[2:]
        pairs = [(one, other) for one in halves[0] for other in halves[1]]
        for one, other in pairs:
            world.underlay.cut(one.address, other.address)
        await asyncio.sleep(620)
        assert nodes[0].hop("192.168.4.9") is None
        assert nodes[0].owner("192.168.2.9") == "node2"
        for one, other in pairs:
            world.underlay.mend(one.address, other.address)
        await asyncio.sleep(400)
        everything = [str(lan[9]) for lan in LANS[:4]]
        assert all(node.hop(each) for node in nodes for each in everything)

    scene(told)
