"""Whole nodes of the overlay that find each other by the DHT, in one process and virtual time."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from random import Random

from quicether.config.values import HostPort
from quicether.dht.contact import Contact
from quicether.dht.contents import Content
from quicether.dht.core import DhtConfig
from quicether.dht.node import DhtNode
from quicether.model import Prefix
from quicether.overlay.advertise import RenewableSigner
from quicether.overlay.bootstrap import Bootstrap, PeerCache
from quicether.overlay.dht_driver import AuditedVerifier, DhtDriver
from quicether.overlay.discovery import Discovery
from quicether.overlay.gateways import Forwarding
from quicether.overlay.pool import Pool
from support.fake_endpoint import FakeUnderlay
from support.fake_records import FakeSeals, FakeSigner
from support.mesh_nodes import Node
from support.packets import ipv4, udp
from support.virtual_time import passes, play

NETWORK_ID = hashlib.sha256(b"discovering nodes").digest()
WALL = 1_700_000_000.0
"""Seconds since 1970 when the loop's clock shows 0."""
LANS = [ip_network(f"192.168.{number}.0/24") for number in range(1, 9)]
SHARED = ip_network("10.77.0.0/24")
"""What the certificates of all nodes of `town` cover."""


class _Signer(RenewableSigner):
    """Seals without keys."""

    def __init__(self, fake: FakeSigner) -> None:
        super().__init__(NETWORK_ID, fake.member.node_id, b"", lambda _: b"")
        self._fake = fake

    def seal(self, content: Content, issued: int, ttl: int) -> bytes:
        return self._fake.seal(content, issued, ttl)


class _Cache(PeerCache):
    """Keeps the peers in memory: a thread that writes would see virtual time rush by."""

    def __init__(self, kept: dict[str, list[Contact]], name: str) -> None:
        super().__init__(Path(name))
        self._peers = kept
        self._name = name

    def load(self) -> list[Contact]:
        return self._peers.get(self._name, [])

    async def save(self, contacts: Iterable[Contact]) -> None:
        self._peers[self._name] = list(contacts)


class World:
    """What the nodes of one test share. kept: the peers that each node keeps, by its name."""

    def __init__(self) -> None:
        self.kept: dict[str, list[Contact]] = {}
        self.underlay = FakeUnderlay()
        self.seals = FakeSeals(NETWORK_ID)
        self.nodes: list[Finder] = []

    async def node(
        self,
        *prefixes: Prefix,
        bootstrap: Iterable[HostPort] | None = None,
        routes: str | tuple[Prefix, ...] = "auto",
        forwarding: Forwarding | None = None,
    ) -> Finder:
        """Start a node. bootstrap: by default the first node's address."""
        node = Finder(self, len(self.nodes) + 1, *prefixes, forwarding=forwarding)
        self.nodes.append(node)
        if bootstrap is None:
            first = self.nodes[0].address
            bootstrap = [] if node is self.nodes[0] else [HostPort(first.host, first.port)]
        await node.begin(routes, bootstrap)
        return node

    async def close(self) -> None:
        """Stop every node that still runs."""
        for node in self.nodes:
            await node.leave()


class Finder(Node):
    """A node with a DHT of its own. It knows no peer but whom it finds."""

    found: Discovery
    """Its discovery, once it has begun."""

    def __init__(
        self, world: World, number: int, *prefixes: Prefix, forwarding: Forwarding | None = None
    ) -> None:
        super().__init__(world.underlay, number, *prefixes, forwarding=forwarding)
        self.world = world
        self._runs: asyncio.Task[None] | None = None

    async def begin(self, routes: str | tuple[Prefix, ...], bootstrap: Iterable[HostPort]) -> None:
        await self.start()
        clock, mesh = asyncio.get_running_loop().time, self.mesh
        signer = _Signer(FakeSigner(self.world.seals, self.member))
        verifier = AuditedVerifier(self.world.seals, self.audit)
        me = self.member.node_id
        self.dht = DhtNode(
            Contact.of(me),
            NETWORK_ID,
            verifier,
            signer,
            self.counters,
            Random(me.value),
            WALL,
            DhtConfig(longest_ttl=600),
        )
        self.pool = Pool(mesh.peers, mesh.wake, clock)
        cache = _Cache(self.world.kept, self.member.name)
        self.found = Discovery(
            mesh,
            self.pool,
            Bootstrap(mesh.peers, mesh.wake, cache, clock),
            lambda told: DhtDriver(
                self.dht,
                self.pool,
                verifier,
                clock=clock,
                wall=lambda: clock() + WALL,
                told=told,
            ),
            signer,
            NETWORK_ID,
            endpoints=lambda: [self.address],
            clock=clock,
            wall=lambda: clock() + WALL,
        )
        self.found.start(routes, bootstrap)
        self._runs = asyncio.get_running_loop().create_task(self.found.run())

    async def leave(self) -> None:
        """Go, with everything withdrawn. Nothing where it is gone already."""
        if self._runs is not None:
            self._runs.cancel()
            await asyncio.gather(self._runs, return_exceptions=True)
            self._runs = None
            await self.found.close()
            await self.stop()

    async def die(self) -> None:
        """Go without a word."""
        for other in self.world.nodes:
            if other is not self:
                self.world.underlay.cut(self.address, other.address)
        await self.leave()

    def owner(self, address: str) -> str | None:
        """Return the name of the node that packets to an address go to."""
        hop = self.hop(address)
        member = None if hop is None or hop.node is None else self.routes.member(hop.node)
        return None if member is None else member.name

    def send(self, destination: str, port: int = 53) -> bytes:
        """Let this host send a packet; return it."""
        packet = ipv4(str(self.member.addresses[0]), destination, udp(1, port))
        self.device.feed(packet)
        return packet


def scene(told: Callable[[World], Awaitable[None]]) -> None:
    """Play, in virtual time, what happens in a world that is empty at first."""

    async def run() -> None:
        world = World()
        await told(world)
        await world.close()

    play(run)


async def town(world: World, count: int) -> list[Finder]:
    """Start nodes that each own a LAN and know, by its record, what each other owns.

    Their certificates cover SHARED too.
    """
    nodes = []
    for lan in LANS[:count]:
        nodes.append(await world.node(lan, SHARED))
        nodes[-1].mesh.serve((lan,))
    for node in nodes:
        others = [other for other in nodes if other is not node]
        await passes(partial(all_found, node, others), 30)
    return nodes


def all_found(node: Finder, others: Iterable[Finder]) -> bool:
    """Tell whether records say to a node what each of the others owns."""
    return all(
        other.member.prefixes[0] in node.found._findings.prefixes(other.member.node_id)
        for other in others
    )


def packed(address: str) -> bytes:
    """Return an address as the data path has it."""
    return ip_address(address).packed
