"""A gateway stands in for an owner that was found, and is left when the direct way is there.

laptop ── cloud (the gateway) ── home        laptop ── home: cut and mended
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_network

import pytest

from quicether.model import NextHop
from quicether.overlay.gateways import Forwarding
from support.fake_endpoint import FakeUnderlay
from support.mesh_nodes import Node
from support.packets import ipv4, udp
from support.virtual_time import passes, play

LAN = ip_network("192.168.1.0/24")
HOST = "192.168.1.9"
PACKET = ipv4("100.64.0.3", HOST, udp(1, 2))


class Scene:
    """Home is known to the laptop as from the DHT, and can't be reached at first."""

    def __init__(self) -> None:
        self.underlay = FakeUnderlay()
        self.home = Node(self.underlay, 1, LAN)
        self.cloud = Node(
            self.underlay,
            2,
            LAN,
            ip_network("100.64.0.0/10"),
            forwarding=Forwarding((LAN,), ("*",)),
        )
        self.laptop = Node(self.underlay, 3)
        self.by_cloud = NextHop.via_gateway(self.cloud.member.node_id)
        self.direct = NextHop.to_node(self.home.member.node_id)

    async def start(self) -> None:
        self.cut()
        await self.cloud.start()
        await self.home.start(self.cloud)
        await self.laptop.start(self.cloud)
        member = self.home.member
        self.laptop.discovery.known[member.node_id] = self.home.address
        self.laptop.routes.discovered(member, self.direct, [LAN, *member.host_prefixes])
        await passes(lambda: self.way == self.by_cloud, 5)

    @property
    def way(self) -> NextHop | None:
        return self.laptop.hop(HOST)

    def cut(self) -> None:
        self.underlay.cut(self.laptop.address, self.home.address)

    def mend(self) -> None:
        self.underlay.mend(self.laptop.address, self.home.address)

    async def send(self, seconds: float) -> None:
        """Send a packet every half second; each arrives, whichever way."""
        before = len(self.home.device.written)
        for _ in range(int(seconds * 2)):
            self.laptop.device.feed(PACKET)
            await asyncio.sleep(0.5)
        assert len(self.home.device.written) - before == int(seconds * 2)

    def attempts(self) -> int:
        """How often the laptop tried to connect to home."""
        return sum(address == self.home.address for address, _ in self.laptop.endpoint.attempts)

    async def back(self) -> float:
        """Mend the direct way while packets flow; return how long it took to be used."""
        self.mend()
        sending = asyncio.create_task(self.send(20))
        took = await passes(lambda: self.way == self.direct, 20)
        await sending
        return took


def scene(told: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        here = Scene()
        await here.start()
        await told(here)
        for node in (here.laptop, here.home, here.cloud):
            await node.stop()

    play(run)


@pytest.mark.parametrize("away", [2.0, 15.0, 100.0, 1000.0])
def test_an_owner_that_was_found_is_returned_to_within_ten_seconds(away: float) -> None:
    async def told(here: Scene) -> None:
        await here.send(away)
        assert here.way == here.by_cloud
        assert await here.back() < 10

    scene(told)


def test_an_owner_that_was_lost_is_returned_to_within_ten_seconds() -> None:
    async def told(here: Scene) -> None:
        assert await here.back() < 10
        here.cut()
        await asyncio.sleep(0.1)  # packets of this very moment are lost
        await here.send(1000)
        assert here.way == here.by_cloud
        assert await here.back() < 10

    scene(told)


def test_an_owner_is_tried_for_its_packets_alone_and_no_more_than_needed() -> None:
    async def told(here: Scene) -> None:
        await asyncio.sleep(60)
        assert here.attempts() == 0
        await here.send(300)
        assert 300 / 8 < here.attempts() <= 300 / 2
        await asyncio.sleep(60)
        before = here.attempts()
        await asyncio.sleep(600)
        assert here.attempts() == before

    scene(told)
