"""The stories of the routing chapter, each with its own hosts and LANs."""

from __future__ import annotations

from pathlib import Path

from support.cables import Cable
from support.hosts import LightHost, Router
from support.node import Network, up


def test_remote_access(tmp_path: Path) -> None:
    with (
        Network(tmp_path) as network,
        Router("home") as home,
        LightHost("cafe") as cafe,
        LightHost("server") as server,
        Cable(home, cafe) as line,
        Cable(home, server) as lan,
    ):
        home.configure_link(line.a.ifname, ["198.51.100.1/24"])
        cafe.configure_link(line.b.ifname, ["198.51.100.2/24"])
        home.configure_link(lan.a.ifname, ["192.168.1.1/24"])
        server.configure_link(lan.b.ifname, ["192.168.1.10/24"], gateway="192.168.1.1")
        at_home = network.node(home, prefixes=["192.168.1.0/24"])
        laptop = network.node(cafe)
        up(
            (at_home, {"advertise-subnets": "192.168.1.0/24"}),
            (laptop, {"peers": "home@198.51.100.1"}),
        )
        laptop.wait_for_route("192.168.1.0/24")
        cafe.run(["ping", "-c", "2", "-i", "0.2", "-W", "5", "192.168.1.10"])
        print(laptop.peers(), laptop.lookup("192.168.1.10"))
