"""The stories of the routing chapter, each with its own hosts and LANs.

What stands in a LAN knows nothing of the overlay: it has an address and a default route.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.cables import Cable, Switch
from support.commands import CommandError, wait_until
from support.hosts import Host, LightHost, Router
from support.nat import NatBox, NatKind
from support.node import Network, up


def between(stack: ExitStack, near: Host, far: Host) -> None:
    """A line from near, which is 198.51.100.1, to far, which is 198.51.100.2."""
    line = stack.enter_context(Cable(near, far))
    near.configure_link(line.a.ifname, ["198.51.100.1/24"])
    far.configure_link(line.b.ifname, ["198.51.100.2/24"])


def lan(stack: ExitStack, router: Host, gateway: str, address: str) -> LightHost:
    """A host of its own LAN behind a router; both addresses with their prefix length."""
    host = stack.enter_context(LightHost(f"at-{address.partition('/')[0].replace('.', '-')}"))
    cable = stack.enter_context(Cable(router, host))
    router.configure_link(cable.a.ifname, [gateway])
    host.configure_link(cable.b.ifname, [address], gateway=gateway.partition("/")[0])
    return host


def lan_with_a_router(stack: ExitStack, node: Host, prefix: str) -> tuple[LightHost, Router]:
    """A LAN /16: a node at .0.1, the LAN's own router at .0.254, and a host that knows only that.

    prefix: the first two numbers.
    """
    switch = stack.enter_context(Switch(f"lan-{prefix.replace('.', '-')}"))
    router = stack.enter_context(Router(f"router-{prefix.replace('.', '-')}"))
    host = stack.enter_context(LightHost(f"at-{prefix.replace('.', '-')}"))
    node.configure_link(switch.plug(node).ifname, [f"{prefix}.0.1/16"])
    router.configure_link(switch.plug(router).ifname, [f"{prefix}.0.254/16"])
    host.configure_link(switch.plug(host).ifname, [f"{prefix}.0.50/16"], gateway=f"{prefix}.0.254")
    return host, router


def reaches(host: Host, address: str, *options: str) -> None:
    """Wait until a host pings an address."""

    def pings() -> bool:
        host.run(["ping", "-c", "1", "-W", "1", *options, address])
        return True

    wait_until(pings, 10, f"{host.name} reaches {address}")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def test_a_laptop_reaches_the_server_at_home(stack: ExitStack, tmp_path: Path) -> None:
    enter = stack.enter_context
    home, cafe = enter(Router("home")), enter(LightHost("cafe"))
    between(stack, home, cafe)
    server = lan(stack, home, "192.168.1.1/24", "192.168.1.10/24")
    network = enter(Network(tmp_path))
    at_home = network.node(home, prefixes=["192.168.1.0/24"])
    laptop = network.node(cafe)
    up(
        (at_home, {"advertise-subnets": "192.168.1.0/24"}),
        (laptop, {"peers": "home@198.51.100.1"}),
    )
    laptop.wait_for_route("192.168.1.0/24")
    reaches(cafe, "192.168.1.10")
    reaches(server, laptop.address())
    found = laptop.lookup("192.168.1.10")
    assert (found["prefix"], found["next_hop"], found["node_name"]) == (
        "192.168.1.0/24",
        "node",
        "home",
    )
    assert at_home.lookup("192.168.1.10")["next_hop"] == "local"
    # Whoever places routes by hand types the route himself.
    laptop.down()
    laptop.up({"peers": "home@198.51.100.1", "routes": "none"})
    laptop.wait_for_peer("home")
    assert "192.168.1.0/24" not in cafe.run(["ip", "route"]).stdout
    cafe.run(["ip", "route", "add", "192.168.1.0/24", "dev", "quicether0"])
    reaches(cafe, "192.168.1.10")


def test_two_sites_and_the_more_special_prefix_of_a_third(stack: ExitStack, tmp_path: Path) -> None:
    """HQ 10.0.0.0/16 and factory 10.1.0.0/16; then 10.0.0.0/8 to HQ, 10.1.1.0/24 to the lab.

    HQ's LAN has a router of its own, which is told two routes; the others' nodes are the routers.
    """
    enter = stack.enter_context
    hq, factory, third = enter(Router("hq")), enter(Router("factory")), enter(Router("lab"))
    internet = enter(Switch("internet"))
    for number, router in enumerate((hq, factory, third), 1):
        port = internet.plug(router)
        router.configure_link(port.ifname, [f"198.51.100.{number}/24"])
    at_hq, router = lan_with_a_router(stack, hq, "10.0")
    router.run(["ip", "route", "add", "10.1.0.0/16", "via", "10.0.0.1"])
    router.run(["ip", "route", "add", "100.64.0.0/10", "via", "10.0.0.1"])
    at_factory = lan(stack, factory, "10.1.0.1/16", "10.1.0.50/16")
    at_lab = lan(stack, third, "10.9.1.1/24", "10.9.1.42/24")
    # HQ stands for all of 10/8, so it has something outside of its own LAN too.
    hq.run(["ip", "address", "add", "10.9.0.7/32", "dev", "lo"])
    network = enter(Network(tmp_path))
    nodes = [
        network.node(hq, prefixes=["10.0.0.0/8"]),
        network.node(factory, prefixes=["10.1.0.0/16"]),
        network.node(third, prefixes=["10.9.1.0/24"]),
    ]
    peers = "hq@198.51.100.1 lab@198.51.100.3"
    up(
        (nodes[0], {"advertise-subnets": "10.0.0.0/16 10.0.0.0/8"}),
        (nodes[1], {"advertise-subnets": "10.1.0.0/16", "peers": peers,
                    "accept-conflicts": "10.0.0.0/8"}),
        (nodes[2], {"advertise-subnets": "10.9.1.0/24", "peers": "hq@198.51.100.1"}),
    )  # fmt: skip
    nodes[0].wait_for_route("10.1.0.0/16")
    nodes[1].wait_for_route("10.0.0.0/16")
    reaches(at_hq, "10.1.0.50")
    reaches(at_factory, "10.0.0.50")
    # From the node itself: with its overlay address.
    reaches(factory, "10.0.0.50", "-I", nodes[1].address())
    assert "ttl=62" in at_hq.run(["ping", "-c", "1", "10.1.0.50"]).stdout
    for address, owner in (("10.0.3.3", "hq"), ("10.9.0.7", "hq"), ("10.9.1.42", "lab")):
        assert nodes[1].lookup(address)["node_name"] == owner
    nodes[1].wait_for_route("10.9.1.0/24")
    reaches(at_factory, "10.9.0.7")
    reaches(at_factory, "10.9.1.42")
    reaches(at_lab, "10.1.0.50")


def test_a_gateway_in_the_cloud_leads_to_a_home_behind_nat(
    stack: ExitStack, tmp_path: Path
) -> None:
    enter = stack.enter_context
    internet = enter(Switch("internet"))
    cloud, cafe, home = enter(LightHost("cloud")), enter(LightHost("cafe")), enter(Router("home"))
    line = internet.plug(cloud)
    cloud.configure_link(line.ifname, ["198.51.100.1/24"])
    for number, host, kind in ((2, home, NatKind.PORT_RESTRICTED), (3, cafe, NatKind.SYMMETRIC)):
        # Two such boxes let no direct connection through in either direction.
        box = enter(NatBox(f"box-{number}", kind))
        outside, inside = internet.plug(box), enter(Cable(box, host))
        box.configure_link(outside.ifname, [f"198.51.100.{number}/24"])
        box.configure_link(inside.a.ifname, [f"172.16.{number}.1/24"])
        host.configure_link(
            inside.b.ifname, [f"172.16.{number}.2/24"], gateway=f"172.16.{number}.1"
        )
        box.translate(outside)
    server = lan(stack, home, "192.168.1.1/24", "192.168.1.10/24")
    network = enter(Network(tmp_path))
    overlay = ["100.64.0.0/10", "fd00::/8"]
    gateway = network.node(cloud, prefixes=["192.168.1.0/24", *overlay])
    at_home = network.node(home, prefixes=["192.168.1.0/24"])
    laptop = network.node(cafe)
    up(
        (gateway, {"role": "gateway", "forward-subnets": "192.168.1.0/24"}),
        (at_home, {"advertise-subnets": "192.168.1.0/24", "peers": "cloud@198.51.100.1"}),
        (laptop, {"peers": "cloud@198.51.100.1"}),
    )
    laptop.wait_for_route("192.168.1.0/24")
    found = laptop.lookup("192.168.1.10")
    assert (found["next_hop"], found["node_name"]) == ("gateway", "cloud")
    reaches(cafe, "192.168.1.10")
    reaches(server, laptop.address())
    # The gateway is a hop: home's LAN is one further than without it.
    with pytest.raises(CommandError):
        cafe.run(["ping", "-c", "1", "-W", "2", "-t", "1", "192.168.1.10"])
    reaches(cafe, "192.168.1.10", "-t", "3")
    # What the gateway cannot reach any more it offers no more.
    at_home.down()
    wait_until(lambda: not laptop.lookup("192.168.1.10")["reachable"], 10, "it is offered no more")


def test_a_gateway_that_stands_in_the_lan_forwards_into_it(
    stack: ExitStack, tmp_path: Path
) -> None:
    enter = stack.enter_context
    router, cafe = enter(Router("router")), enter(LightHost("cafe"))
    between(stack, router, cafe)
    server = lan(stack, router, "192.168.1.1/24", "192.168.1.10/24")
    network = enter(Network(tmp_path))
    gateway = network.node(router, prefixes=["192.168.1.0/24"])
    laptop = network.node(cafe)
    up(
        (gateway, {"role": "gateway", "forward-subnets": "192.168.1.0/24"}),
        (laptop, {"peers": "router@198.51.100.1"}),
    )
    laptop.wait_for_route("192.168.1.0/24")
    assert gateway.lookup("192.168.1.10")["next_hop"] == "local"
    assert laptop.lookup("192.168.1.10")["next_hop"] == "gateway"
    reaches(cafe, "192.168.1.10")
    reaches(server, laptop.address())


def test_a_namespace_holds_the_device_and_only_what_runs_there_uses_the_overlay(
    stack: ExitStack, tmp_path: Path
) -> None:
    enter = stack.enter_context
    home, cafe, inside = enter(Router("home")), enter(LightHost("cafe")), enter(LightHost("inside"))
    between(stack, home, cafe)
    network = enter(Network(tmp_path))
    at_home, laptop = network.node(home, prefixes=["0.0.0.0/0", "::/0"]), network.node(cafe)
    up(
        (at_home, {"role": "gateway", "forward-subnets": "0.0.0.0/0 ::/0"}),
        (laptop, {"peers": "home@198.51.100.1", "netns": inside.netns, "default-gateway": "home"}),
    )
    laptop.wait_for_peer("home")
    reaches(inside, at_home.address())
    home.run(["ip", "address", "add", "192.0.2.80/32", "dev", "lo"])
    reaches(inside, "192.0.2.80")
    assert "quicether0" not in cafe.run(["ip", "link"]).stdout
    with pytest.raises(CommandError):
        cafe.run(["ping", "-c", "1", "-W", "1", at_home.address()])
    laptop.down()
    assert "quicether0" not in inside.run(["ip", "link"]).stdout
