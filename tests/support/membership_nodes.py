"""Nodes whose certificates end and are revoked: real files and signatures, fake wires."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random

from quicether.counters import Counters
from quicether.identity.authority import Authority
from quicether.identity.registrar import Registrar
from quicether.identity.store import NetworkStore
from quicether.identity.trust import AuthorityTrust
from quicether.model import NodeId, Prefix, UnderlayAddress
from quicether.overlay.gateways import Offers
from quicether.overlay.membership import Membership
from quicether.overlay.mesh import Mesh
from quicether.overlay.routes import OverlayRoutes
from quicether.policy.audit import Audit
from support.fake_audit import FakeAuditSink
from support.fake_endpoint import FakeEndpoint, FakeUnderlay

YEAR = timedelta(days=365)


class InProcess:
    """The registrar without a process of its own."""

    def __init__(self, store: NetworkStore) -> None:
        self._store = store
        self.asked = 0

    async def answer(self, body: bytes) -> bytes:
        self.asked += 1
        key = self._store.node_key()
        return Registrar(self._store).answer(body, key.public_raw, datetime.now(UTC))


class FakeDiscovery:
    """A DHT that only keeps what it is told."""

    def __init__(self) -> None:
        self.certificates: list[bytes] = []
        self.forgotten: list[NodeId] = []

    def renewed(self, certificate: bytes) -> None:
        self.certificates.append(certificate)

    def forget(self, node: NodeId) -> None:
        self.forgotten.append(node)

    def look_up(self, destination: bytes) -> bool:
        return False

    def locate(self, node: NodeId) -> bool:
        return False

    def advertise(self, owned: Sequence[Prefix], offers: Offers) -> None:
        pass

    def observed(self, peer: NodeId, address: UnderlayAddress) -> None:
        pass


class Node:
    """A node that runs; `start` after every change of its files."""

    def __init__(self, network: Network, name: str, number: int) -> None:
        self.name, self.network = name, network
        self.store = NetworkStore(network.root / name / "etc", network.root / name / "var", "home")
        self.address = UnderlayAddress(f"192.0.2.{number}", 9000)
        self.registrar = InProcess(self.store)

    def certify(self, age: timedelta = timedelta(0)) -> None:
        """Give the node a certificate of a year that was made some time ago."""
        made = datetime.now(UTC) - age
        key = self.store.node_key().public_raw
        certificate = self.network.authority.sign(key, self.name, now=made, validity=YEAR)
        self.store.install(certificate, self.network.authority.certificate, datetime.now(UTC))

    async def start(self) -> Node:
        identity = self.store.load_identity(datetime.now(UTC))
        assert isinstance(identity.trust, AuthorityTrust)
        self.trust, self.member = identity.trust, identity.member
        self.endpoint = FakeEndpoint(
            self.network.underlay, self.address, self.member, lambda: self.mesh.hello()
        )
        self.endpoint.accepts = lambda member: not self.trust.is_revoked(member)
        clock = asyncio.get_running_loop().time
        self.mesh = Mesh(
            self.member,
            self.endpoint,
            OverlayRoutes(self.member),
            instance=self.name.encode(),
            entropy=Random(7),
            clock=clock,
            changed=lambda: None,
            audit=Audit(FakeAuditSink(), clock, clock),
        )
        self.endpoint.open(self.mesh)
        self.membership = Membership(
            self.store,
            identity,
            self.trust,
            self.mesh,
            self.endpoint,
            load=lambda: self.store.load_identity(datetime.now(UTC)),
            registrar=self.registrar if self.store.has_authority else None,
            counters=Counters(),
            clock=clock,
        )
        self.membership.start()
        self.renewing = asyncio.create_task(self.membership.run())
        return self

    async def stop(self) -> None:
        self.renewing.cancel()
        await asyncio.gather(self.renewing, return_exceptions=True)
        await self.membership.close()
        await self.mesh.close()
        await self.endpoint.close()

    async def connect(self, *others: Node) -> None:
        for other in others:
            self.endpoint.connect(other.address, other.member.node_id)
            await until(partial(self._meets, other))

    def _meets(self, other: Node) -> bool:
        return self.reaches(other) and other.reaches(self)

    def reaches(self, other: Node) -> bool:
        return self.mesh.peers.active(other.member.node_id) is not None

    @property
    def list_number(self) -> int:
        return 0 if self.trust.revocations is None else self.trust.revocations.number

    @property
    def kept_number(self) -> int:
        kept = self.store.load_revocations(self.trust.authority)
        return 0 if kept is None else kept.number


class Network:
    """A network whose authority is on the node home."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.underlay = FakeUnderlay()
        store = NetworkStore(root / "home" / "etc", root / "home" / "var", "home")
        made = datetime.now(UTC) - YEAR
        self.authority = Authority.create(store.directory, "home", made)
        self.nodes: list[Node] = []

    def node(self, name: str, age: timedelta = timedelta(0)) -> Node:
        node = Node(self, name, len(self.nodes) + 1)
        node.certify(age)
        self.nodes.append(node)
        return node

    def revoke(self, name: str) -> None:
        self.authority.revoke(name, datetime.now(UTC))


def play(tmp_path: Path, scene: Callable[[Network], Awaitable[None]]) -> None:
    """Run a scene and stop every node that it started."""

    async def run() -> None:
        network = Network(tmp_path)
        try:
            await scene(network)
        finally:
            for node in network.nodes:
                if hasattr(node, "membership"):
                    await node.stop()

    asyncio.run(run())


async def until(condition: Callable[[], object]) -> None:
    """Wait until condition holds, five seconds at most: files are read and written meanwhile."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.001)
