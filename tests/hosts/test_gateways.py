"""Gateways: the direct way breaks and comes back, a gateway dies, a link that cannot decide.

          ┌── g1 ──┐
client ─ east ─── west ─ server        each line an underlay network of its own
          └── g2 ──┘
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.cables import Cable
from support.commands import wait_until
from support.hosts import LightHost, Router
from support.node import Network, Node, up
from support.stream import Stream

EAST, WEST = "10.0.0.0/16", "10.1.0.0/16"
OVERLAY = ("100.64.0.0/10", "fd00::/8")
FORWARD = {"role": "gateway", "forward-subnets": f"{EAST} {WEST}"}
CLIENT, SERVER = "10.0.0.50", "10.1.0.50"


@dataclass
class Sites:
    """Two sites with a direct line, and gateways that both reach.

    lan: what is on the LANs knows nothing of the overlay but its default route.
    """

    east: Node
    west: Node
    gateways: list[Node]
    direct: Cable
    client: LightHost
    server: LightHost

    def way(self) -> str | None:
        """Through whom east reaches west's site: the gateway's name, None for directly."""
        found = self.east.lookup(SERVER)
        return found["node_name"] if found["next_hop"] == "gateway" else None

    def wait_for_way(self, *names: str | None, deadline: float) -> float:
        """Wait until both sites use one of these ways; return the seconds it took."""
        began = time.monotonic()

        def there() -> bool:
            back = self.west.lookup(CLIENT)
            way_back = back["node_name"] if back["next_hop"] == "gateway" else None
            return self.way() in names and way_back in names

        logs = lambda: "\n".join(node.log() for node in (self.east, self.west))  # noqa: E731
        wait_until(there, deadline, f"the way is {names}", on_timeout=logs)
        return time.monotonic() - began


@contextmanager
def sites(folder: Path, gateways: int = 1) -> Iterator[Sites]:
    """Two sites and their gateways, all connected."""
    with ExitStack() as stack:
        enter = stack.enter_context
        network = Network(folder)
        east, west = enter(Router("east")), enter(Router("west"))
        client, server = enter(LightHost("client")), enter(LightHost("server"))
        hubs = [enter(LightHost(f"g{number}")) for number in range(1, gateways + 1)]
        enter(network)
        direct = enter(Cable(east, west))
        east.configure_link(direct.a.ifname, ["192.0.2.1/24"])
        west.configure_link(direct.b.ifname, ["192.0.2.2/24"])
        for site, address, host, prefix in (
            (east, "10.0.0.1", client, CLIENT),
            (west, "10.1.0.1", server, SERVER),
        ):
            lan = enter(Cable(site, host))
            site.configure_link(lan.a.ifname, [f"{address}/16"])
            host.configure_link(lan.b.ifname, [f"{prefix}/16"], gateway=address)
        peers = {"east": "west@192.0.2.2", "west": "east@192.0.2.1"}
        for number, hub in enumerate(hubs, 1):
            for side, site in enumerate((east, west)):
                line = enter(Cable(site, hub))
                net = f"203.0.{number}.{16 * side}"
                first, second = (f"{net.rsplit('.', 1)[0]}.{16 * side + i}" for i in (1, 2))
                site.configure_link(line.a.ifname, [f"{first}/28"])
                hub.configure_link(line.b.ifname, [f"{second}/28"])
                peers[site.name] += f" g{number}@{second}"
        nodes = [
            network.node(east, prefixes=[EAST]),
            network.node(west, prefixes=[WEST]),
            *(network.node(hub, prefixes=[EAST, WEST, *OVERLAY]) for hub in hubs),
        ]
        up(
            (nodes[0], {"advertise-subnets": EAST, "peers": peers["east"]}),
            (nodes[1], {"advertise-subnets": WEST, "peers": peers["west"]}),
            *((node, FORWARD) for node in nodes[2:]),
        )
        for node in nodes[:2]:
            for name in ("east", "west", *(hub.name for hub in hubs)):
                if name != node.name:
                    node.wait_for_peer(name)
        nodes[0].wait_for_route(WEST)
        nodes[1].wait_for_route(EAST)
        yield Sites(nodes[0], nodes[1], nodes[2:], direct, client, server)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """Two sites and two gateways; each test finds them on the direct way with nothing amiss."""
    with sites(tmp_path_factory.mktemp("sites"), gateways=2) as found:
        yield found


def test_a_transfer_survives_the_loss_of_the_direct_way_and_returns_to_it(lab: Sites) -> None:
    lab.wait_for_way(None, deadline=5)
    with Stream(lab.server, lab.client, SERVER) as stream:
        wait_until(stream.received, 5, "the transfer begins")
        lab.direct.silence()
        cut = lab.wait_for_way("g1", "g2", deadline=5)
        peer = lab.east.peers()["west"]
        assert (peer["state"], peer["via"]) == ("via-gateway", lab.way())
        before = stream.received()
        wait_until(lambda: stream.received() > before, 5, "the transfer goes on")
        still = stream.stood_still()
        lab.direct.resume()
        back = lab.wait_for_way(None, deadline=10)
        print(f"noticed after {cut:.1f} s, stood still for {still:.1f} s, back after {back:.1f} s")
        assert still < 5
        assert lab.east.peers()["west"]["state"] == "connected"
        before = stream.received()
        wait_until(lambda: stream.received() > before, 5, "the transfer goes on")
        assert stream.stood_still() < 1
        stream.finish()


def test_a_gateway_dies_and_traffic_moves_to_the_other(lab: Sites) -> None:
    with Stream(lab.server, lab.client, SERVER) as stream:
        lab.direct.silence()
        lab.wait_for_way("g1", "g2", deadline=5)
        before = stream.received()
        wait_until(lambda: stream.received() > before, 5, "the transfer goes on")
        # The direct connection is given up meanwhile, so that it has to be made anew later.
        lab.east.wait_for_log("west .* lost", deadline=10)
        in_use = next(node for node in lab.gateways if node.name == lab.way())
        other = next(node for node in lab.gateways if node is not in_use)
        stream.stood_still()
        in_use.kill()
        moved = lab.wait_for_way(other.name, deadline=5)
        before = stream.received()
        wait_until(lambda: stream.received() > before, 5, "the transfer goes on")
        still = stream.stood_still()
        lab.direct.resume()
        back = lab.wait_for_way(None, deadline=10)
        print(f"moved after {moved:.1f} s, stood still for {still:.1f} s, back after {back:.1f} s")
        assert still < 5
        stream.finish()
    in_use.restart()
    in_use.up(FORWARD)
    lab.east.wait_for_peer(in_use.name)
    lab.west.wait_for_peer(in_use.name)


def test_a_link_that_fails_every_few_seconds_does_not_drag_traffic_along(lab: Sites) -> None:
    changes, way = 0, lab.way()
    with Stream(lab.server, lab.client, SERVER) as stream:
        for _ in range(3):
            for act, seconds in ((lab.direct.silence, 2.2), (lab.direct.resume, 2.2)):
                act()
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    now = lab.way()
                    changes, way = changes + (now != way), now
                    time.sleep(0.1)
        assert changes <= 3
        lab.wait_for_way(None, deadline=40)
        stream.finish()
