"""Whole nodes of the overlay, from device to endpoint, over a fake underlay in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from random import Random

from quicether.config.values import HostPort, PeerAddress
from quicether.counters import Counters
from quicether.dataplane.forwarder import Forwarder
from quicether.dataplane.packet import PacketView
from quicether.errors import QuicEtherError
from quicether.model import Member, NextHop, NodeId, Prefix, UnderlayAddress
from quicether.overlay.gateways import Forwarding, Offers
from quicether.overlay.mesh import Mesh
from quicether.overlay.routes import OverlayRoutes
from support.fake_device import FakeDevice
from support.fake_endpoint import FakeEndpoint, FakeUnderlay


class FakeAudit:
    """Implements AuditEvents by keeping what it is told."""

    def __init__(self) -> None:
        self.errors: list[QuicEtherError] = []
        self.spoofers: list[Member | None] = []
        self.prefixes: list[Prefix] = []
        self.connections: list[str] = []
        self.records: list[str] = []

    def connected(self, member: Member, remote: UnderlayAddress) -> None:
        self.connections.append(f"{member.name} came")

    def disconnected(
        self,
        member: Member,
        remote: UnderlayAddress,
        reason: str,
        duration: float,
        carried: tuple[int, int],
    ) -> None:
        sent, received = carried
        self.connections.append(f"{member.name} went after {sent} and {received} bytes")

    def refused(self, remote: UnderlayAddress, error: QuicEtherError) -> None:
        self.errors.append(error)

    def spoofed(self, member: Member | None, packet: PacketView) -> None:
        self.spoofers.append(member)

    def uncovered(self, member: Member, prefixes: Sequence[Prefix]) -> None:
        self.prefixes += prefixes

    def record_refused(self, sender: Member | NodeId | None, reason: str) -> None:
        self.records.append(reason)


class FakeDiscovery:
    """Implements neighbours.Discovery: knows where the nodes are that it was told of."""

    def __init__(self, mesh: Mesh) -> None:
        self.known: dict[NodeId, UnderlayAddress] = {}
        self.looked_up: list[str] = []
        self.located: list[NodeId] = []
        self._mesh = mesh

    def look_up(self, destination: bytes) -> bool:
        self.looked_up.append(str(ip_address(destination)))
        return True

    def locate(self, node: NodeId) -> bool:
        self.located.append(node)
        address = self.known.get(node)
        if address is not None:
            self._mesh.want(node, [HostPort(address.host, address.port)])
        return address is not None

    def seek(self, node: NodeId) -> None:
        self.locate(node)

    def advertise(self, owned: Sequence[Prefix], offers: Offers) -> None:
        pass

    def observed(self, peer: NodeId, address: UnderlayAddress) -> None:
        pass

    def forget(self, node: NodeId) -> None:
        self.known.pop(node, None)

    def renewed(self, certificate: bytes) -> None:
        pass


class Node:
    """One node of the overlay, on a fake underlay.

    prefixes: what its certificate covers; it owns them unless it forwards for them as a gateway.
    """

    def __init__(
        self,
        underlay: FakeUnderlay,
        number: int,
        *prefixes: Prefix,
        forwarding: Forwarding | None = None,
        default_gateway: str | None = None,
    ) -> None:
        self.address = UnderlayAddress(f"192.0.2.{number}", 9000)
        self.member = Member(
            NodeId(bytes([number]) * 20),
            f"node{number}",
            b"",
            (ip_address(f"100.64.0.{number}"),),
            prefixes,
        )
        self.counters = Counters()
        self.device = FakeDevice()
        self.audit = FakeAudit()
        self.changes = 0
        self.endpoint = FakeEndpoint(
            underlay, self.address, self.member, lambda: self.mesh.hello(), self.counters
        )
        self.routes = OverlayRoutes(self.member, default_gateway=default_gateway)
        self.mesh = Mesh(
            self.member,
            self.endpoint,
            self.routes,
            instance=bytes([number]),
            entropy=Random(number),
            clock=asyncio.get_running_loop().time,
            changed=self._changed,
            audit=self.audit,
        )
        self.discovery = FakeDiscovery(self.mesh)
        self.mesh.discovery = self.discovery
        self.mesh.serve(() if forwarding else prefixes, forwarding=forwarding)

    async def start(self, *peers: Node, named: str | None = None) -> None:
        self.endpoint.open(self.mesh)
        clock = asyncio.get_running_loop().time
        forwarder = Forwarder(self.device, self.counters, self.mesh.snapshot(), clock, self.mesh)
        self.device.start(forwarder.outbound)
        self.mesh.start(
            forwarder,
            [PeerAddress(HostPort(peer.address.host, peer.address.port), named) for peer in peers],
        )

    async def stop(self) -> None:
        await self.mesh.close()
        await self.endpoint.close()

    def reaches(self, other: Node) -> bool:
        return self.mesh.peers.active(other.member.node_id) is not None

    def hop(self, address: str) -> NextHop | None:
        return self.routes.fib.lookup(ip_address(address).packed)

    def _changed(self) -> None:
        self.changes += 1


async def until(condition: Callable[[], object]) -> None:
    """Give the event loop turns until condition holds, two seconds at most."""
    async with asyncio.timeout(2):
        while not condition():  # noqa: ASYNC110 - a turn of the loop is what is waited for
            await asyncio.sleep(0)
