"""Two nodes that connect to each other at the same moment end with one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from cryptography.hazmat.primitives.serialization import Encoding

from quicether.counters import Counters
from quicether.dataplane.forwarder import Forwarder
from quicether.overlay.mesh import Mesh
from quicether.overlay.routes import OverlayRoutes
from quicether.transport.aioquic_endpoint import AioquicEndpoint
from quicether.transport.endpoint import Connection
from support.certificates import Network
from support.endpoints import LOOPBACK
from support.fake_device import FakeDevice
from support.mesh_nodes import FakeAudit
from support.packets import ipv4, udp


class MeetingMesh(Mesh):
    """A mesh that keeps all connections whose peers were accepted, as they came."""

    met: list[Connection]

    def connected(self, connection: Connection) -> None:
        self.met.append(connection)
        super().connected(connection)


class Node:
    """One node on the real endpoint."""

    def __init__(self, network: Network, name: str) -> None:
        identity, trust = network.member(name), network.trust()
        self.counters, self.device = Counters(), FakeDevice()
        self.member = trust.judge(identity.certificate.public_bytes(Encoding.DER), network.now)
        self.endpoint = AioquicEndpoint(
            LOOPBACK,
            certificate=identity.certificate,
            key=identity.key.private,
            trust=trust,
            counters=self.counters,
            hello=lambda: self.mesh.hello(),
        )
        self.mesh = MeetingMesh(
            self.member,
            self.endpoint,
            OverlayRoutes(self.member),
            instance=name.encode(),
            entropy=Random(name),
            clock=asyncio.get_running_loop().time,
            changed=lambda: None,
            audit=FakeAudit(),
        )
        self.mesh.met = []

    async def start(self) -> None:
        self.endpoint.open(self.mesh)
        clock = asyncio.get_running_loop().time
        forwarder = Forwarder(self.device, self.counters, self.mesh.snapshot(), clock, self.mesh)
        self.device.start(forwarder.outbound)
        self.mesh.start(forwarder, [])

    async def stop(self) -> None:
        await self.mesh.close()
        await self.endpoint.close()

    def connect(self, other: Node) -> None:
        self.endpoint.connect(other.endpoint.local_address, other.member.node_id)

    def sessions(self) -> int:
        """How many connections there are, those that are closing not counted."""
        return sum(not session.closed for session in self.endpoint._opened.sessions())

    def packet_to(self, other: Node) -> bytes:
        source, destination = (str(node.member.addresses[0]) for node in (self, other))
        return ipv4(source, destination, udp(4000, 5000, b"across"))


def test_connects_that_cross_end_in_the_one_that_the_lower_node_opened() -> None:
    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - several sessions have no common event
                await asyncio.sleep(0.01)

    async def main() -> None:
        network = Network()
        low, high = sorted(
            (Node(network, "a"), Node(network, "b")), key=lambda node: node.member.node_id
        )
        await low.start()
        await high.start()
        try:
            # In one turn of the event loop: neither has heard of the other when it begins.
            low.connect(high)
            high.connect(low)
            await until(lambda: len(low.mesh.met) == len(high.mesh.met) == 2)
            await until(lambda: low.sessions() == high.sessions() == 1)
            kept = low.mesh.peers.active(high.member.node_id)
            other = high.mesh.peers.active(low.member.node_id)
            assert kept is not None
            assert other is not None
            assert kept.initiated
            assert not other.initiated
            # Both sides kept the same one: what either sends arrives.
            for sender, receiver in ((low, high), (high, low)):
                packet = sender.packet_to(receiver)

                def arrives(
                    sender: Node = sender, receiver: Node = receiver, packet: bytes = packet
                ) -> bool:
                    sender.device.feed(packet)
                    return any(each[12:] == packet[12:] for each in receiver.device.written)

                await until(arrives)
            assert len(low.mesh.met) == len(high.mesh.met) == 2
            assert low.sessions() == high.sessions() == 1
        finally:
            await low.stop()
            await high.stop()

    asyncio.run(main())
