"""A forwarder between a device and two links in memory."""

from __future__ import annotations

from quicether.counters import Counters
from quicether.dataplane.forwarder import Forwarder
from quicether.dataplane.held import Held
from quicether.dataplane.packet import PacketView
from quicether.dataplane.snapshot import Snapshot
from quicether.model import DropReason, NextHop, NodeId
from support.fake_device import FakeDevice
from support.fake_link import FakeLink
from support.fake_overlay import FakePolicy, member, snapshot

ME = member("me", ["100.64.0.1", "fd00::1"], ["10.0.0.0/16"])
HOME = member("home", ["100.64.0.2", "fd00::2"], ["192.168.1.0/24", "fd01::/64"])
OFFICE = member("office", ["100.64.0.3", "fd00::3"], ["10.1.0.0/16", "fd02::/64"])
ABSENT = member("absent", ["100.64.0.5"], ["10.5.0.0/16"])
ROUTES = {
    "192.168.1.0/24": NextHop.to_node(HOME.node_id),
    "100.64.0.2/32": NextHop.to_node(HOME.node_id),
    "fd01::/64": NextHop.to_node(HOME.node_id),
    "10.1.0.0/16": NextHop.to_node(OFFICE.node_id),
    "fd02::/64": NextHop.to_node(OFFICE.node_id),
    "10.5.0.0/16": NextHop.to_node(ABSENT.node_id),
}
HOST4, HOST6 = "100.64.0.1", "fd00::1"


class Told:
    """Keeps what the forwarder tells the overlay; `holds` is the answer to its questions."""

    def __init__(self) -> None:
        self.holds = False
        self.unknown: list[bytes] = []
        self.wants: list[NodeId] = []
        self.stand_ins: list[NodeId] = []
        self.spoofs: list[tuple[NodeId, PacketView]] = []

    def unknown_destination(self, destination: bytes) -> bool:
        self.unknown.append(destination)
        return self.holds

    def wanted(self, node: NodeId) -> bool:
        self.wants.append(node)
        return self.holds

    def detoured(self, node: NodeId) -> None:
        del node

    def stood_in_for(self, node: NodeId) -> None:
        self.stand_ins.append(node)

    def spoofed(self, node: NodeId, packet: PacketView) -> None:
        self.spoofs.append((node, packet))


class Bench:
    """A forwarder between a fake device and two fake links."""

    def __init__(self, *, forwards: bool = False, policy: FakePolicy | None = None) -> None:
        self.device = FakeDevice()
        self.home = FakeLink()
        self.office = FakeLink()
        self.counters = Counters()
        self.told = Told()
        self.now = 1000.0
        self.snapshot: Snapshot = snapshot(
            ME,
            ROUTES,
            {HOME: self.home, OFFICE: self.office},
            others=[ABSENT],
            forwards=forwards,
            policy=policy,
        )
        self.forwarder = Forwarder(
            self.device,
            self.counters,
            self.snapshot,
            lambda: self.now,
            self.told,
            Held(per_destination=4, total=8, lifetime=3.0),
        )
        self.device.start(self.forwarder.outbound)

    @property
    def drops(self) -> dict[DropReason, int]:
        return dict(self.counters.drops)
