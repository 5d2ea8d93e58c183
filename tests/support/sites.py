"""Two sites with a direct line between them, and gateways that both reach.

          ┌── g1 ──┐
client ─ east ─── west ─ server        each line an underlay network of its own
          └── g2 ──┘

Every node has a policy by which the client's site may open connections to the server's, and nobody
else to anybody: what moves to another way in its midst has to pass there all the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.cables import Cable
from support.commands import wait_until
from support.hosts import LightHost, Router
from support.node import Network, Node, up
from support.stream import Stream

EAST, WEST = "10.0.0.0/16", "10.1.0.0/16"
OVERLAY = ("100.64.0.0/10", "fd00::/8")
FORWARD = {"role": "gateway", "forward-subnets": f"{EAST} {WEST}"}
POLICY = """
[[rules]]
id = "there"
subject = "east"
object = "west"
action = "allow"
protocols = "tcp"
"""
CLIENT, SERVER = "10.0.0.50", "10.1.0.50"


@dataclass
class Sites:
    """Two sites with a direct line, and gateways that both reach.

    client, server: on the LANs, and know nothing of the overlay but their default route.
    forward: the settings of a gateway.
    """

    east: Node
    west: Node
    gateways: list[Node]
    direct: Cable
    client: LightHost
    server: LightHost
    forward: Mapping[str, str]

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

    def wait_until_moved(
        self, stream: Stream, *gateways: str, deadline: float
    ) -> tuple[float, float]:
        """Wait until a transfer goes on by one of these gateways.

        Return after how many seconds the way was in use, and for how many the transfer stood still.
        """
        after = self.wait_for_way(*gateways, deadline=deadline)
        before = stream.received()
        wait_until(lambda: stream.received() > before, 5, "the transfer goes on")
        return after, stream.stood_still()


@contextmanager
def sites(folder: Path, gateways: int = 1, *, named: bool = True) -> Iterator[Sites]:
    """Two sites and their gateways, all connected.

    named: the gateways are among the sites' peers. Else they know west, and east finds them.
    """
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
        seeds: dict[str, dict[str, str]] = {}
        for number, hub in enumerate(hubs, 1):
            for side, site in enumerate((east, west)):
                line = enter(Cable(site, hub))
                net = f"203.0.{number}.{16 * side}"
                first, second = (f"{net.rsplit('.', 1)[0]}.{16 * side + i}" for i in (1, 2))
                site.configure_link(line.a.ifname, [f"{first}/28"])
                hub.configure_link(line.b.ifname, [f"{second}/28"])
                if named:
                    peers[site.name] += f" g{number}@{second}"
                elif site is west:
                    seeds[hub.name] = {"peers": f"west@{first}"}
                    # What west tells of where east and the gateway are has to be the truth.
                    near = first.rsplit(".", 1)[0]
                    east.run(["ip", "route", "add", f"{second}/32", "via", f"{near}.2"])
                    hub.run(["ip", "route", "add", "192.0.2.1/32", "via", f"{near}.1"])
        nodes = [
            network.node(east, prefixes=[EAST]),
            network.node(west, prefixes=[WEST]),
            *(network.node(hub, prefixes=[EAST, WEST, *OVERLAY]) for hub in hubs),
        ]
        (folder / "policy.toml").write_text(POLICY)
        policy = {"policy-file": str(folder / "policy.toml")}
        forward = {**FORWARD, **policy}
        up(
            (nodes[0], {"advertise-subnets": EAST, "peers": peers["east"], **policy}),
            (nodes[1], {"advertise-subnets": WEST, "peers": peers["west"], **policy}),
            *((node, {**forward, **seeds.get(node.name, {})}) for node in nodes[2:]),
        )
        for node in nodes[:2]:
            others = [hub.name for hub in hubs] if named or node is nodes[1] else []
            for name in ("east", "west", *others):
                if name != node.name:
                    node.wait_for_peer(name)
        nodes[0].wait_for_route(WEST)
        nodes[1].wait_for_route(EAST)
        yield Sites(nodes[0], nodes[1], nodes[2:], direct, client, server, forward)
