"""The rtnetlink owner on a real kernel, inside a network namespace."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_interface, ip_network

import pytest

from quicether.errors import HostError
from quicether.host.netlink import NetlinkOwner
from support import netns
from support.device_state import CONFIG, FULL, addresses, ip, links, routes, rules
from support.hosts import LightHost
from support.route_watch import RouteWatch

PYTHONPATH = {"PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def host() -> Iterator[LightHost]:
    with LightHost("dp") as one:
        yield one


def test_attach_makes_the_device_with_all_that_it_should_have(host: LightHost) -> None:
    async def scenario() -> None:
        owner = NetlinkOwner()
        device = await owner.attach(CONFIG)
        assert device.name == "quicether0"
        (link,) = ip(host, "-d", "link", "show", "dev", "quicether0")
        assert link["mtu"] == 1400
        assert "UP" in link["flags"]
        assert link["linkinfo"]["info_data"]["persist"] is False
        assert addresses(host) == {"100.64.0.1/32", "fd00::1/128"}, "no link-local address either"
        assert routes(host) == {"10.0.0.0/8", "192.168.7.0/24", "fd01::/48"}
        assert rules(host) == []
        assert not owner.limits
        await owner.remove()
        assert links(host) == {"lo"}
        await owner.remove()

    netns.on_loop(host.netns, scenario)


def test_a_route_that_stays_is_not_touched(host: LightHost) -> None:
    async def scenario() -> None:
        owner = NetlinkOwner()
        await owner.attach(CONFIG)
        changed = replace(CONFIG, prefixes=(ip_network("10.0.0.0/8"), ip_network("172.16.0.0/12")))
        with RouteWatch(host.netns) as watch:
            await owner.apply(changed)
            assert watch.heard() == [("gone", "192.168.7.0/24"), ("new", "172.16.0.0/12")]
            await owner.apply(changed)
            assert watch.heard() == []
        assert routes(host) == {"10.0.0.0/8", "172.16.0.0/12"}
        await owner.remove()

    netns.on_loop(host.netns, scenario)


def test_an_address_and_the_mtu_change_live(host: LightHost) -> None:
    async def scenario() -> None:
        owner = NetlinkOwner()
        await owner.attach(CONFIG)
        changed = replace(
            CONFIG, mtu=1350, addresses=(ip_interface("100.64.0.9/32"), CONFIG.addresses[1])
        )
        await owner.apply(changed)
        assert addresses(host) == {"100.64.0.9/32", "fd00::1/128"}
        assert ip(host, "link", "show", "dev", "quicether0")[0]["mtu"] == 1350
        await owner.remove()

    netns.on_loop(host.netns, scenario)


def test_ipv6_goes_and_comes_back_with_the_mtu(host: LightHost) -> None:
    async def scenario() -> None:
        owner = NetlinkOwner()
        await owner.attach(CONFIG)
        await owner.apply(replace(CONFIG, mtu=1200))
        assert addresses(host) == {"100.64.0.1/32"}
        assert "fd01::/48" not in routes(host)
        assert owner.limits == ("IPv6 needs an MTU of 1280 bytes, quicether0 has 1200",)
        await owner.apply(CONFIG)
        assert addresses(host) == {"100.64.0.1/32", "fd00::1/128"}
        assert "fd01::/48" in routes(host)
        assert not owner.limits
        await owner.remove()

    netns.on_loop(host.netns, scenario)


def test_a_machine_without_ipv6_gets_ipv4_and_is_told(host: LightHost) -> None:
    host.sysctl({"net.ipv6.conf.all.disable_ipv6": "1", "net.ipv6.conf.default.disable_ipv6": "1"})

    async def scenario() -> None:
        owner = NetlinkOwner()
        await owner.attach(replace(CONFIG, full_tunnel=FULL))
        assert addresses(host) == {"100.64.0.1/32"}
        assert routes(host) == {"10.0.0.0/8", "192.168.7.0/24"}
        assert owner.limits == ("IPv6 is switched off on this machine, quicether0 is IPv4 only",)
        await owner.remove()
        assert rules(host) == []
        assert routes(host, "9000") == set()

    netns.on_loop(host.netns, scenario)


def test_networkmanagers_device_gets_neither_addresses_nor_routes(host: LightHost) -> None:
    async def scenario() -> None:
        owner = NetlinkOwner(addressing=False)
        assert owner.name == "networkmanager"
        await owner.attach(replace(CONFIG, full_tunnel=FULL))
        host.run(["ip", "address", "add", "100.64.0.1/32", "dev", "quicether0"])
        host.run(["ip", "route", "add", "10.0.0.0/8", "dev", "quicether0"])
        await owner.apply(replace(CONFIG, mtu=1300))
        assert addresses(host) == {"100.64.0.1/32"}, "what NetworkManager put stays"
        assert [route["dst"] for route in ip(host, "route")] == ["10.0.0.0/8"]
        assert ip(host, "link", "show", "dev", "quicether0")[0]["mtu"] == 1300
        assert rules(host) == []
        await owner.remove()

    netns.on_loop(host.netns, scenario)


def test_the_device_goes_into_a_namespace_of_its_own(host: LightHost) -> None:
    with LightHost("inside") as inside:
        config = replace(CONFIG, netns=inside.netns, full_tunnel=FULL)

        async def scenario() -> None:
            owner = NetlinkOwner()
            await owner.attach(config)
            assert links(host) == {"lo"}
            assert addresses(inside) == {"100.64.0.1/32", "fd00::1/128"}
            assert "default" in routes(inside)
            await owner.apply(replace(config, full_tunnel=None, prefixes=CONFIG.prefixes[:1]))
            assert routes(inside) == {"10.0.0.0/8"}
            assert rules(host) == rules(inside) == []
            await owner.remove()
            assert links(inside) == {"lo"}

        netns.on_loop(host.netns, scenario)


def test_a_namespace_that_does_not_exist_is_named(host: LightHost) -> None:
    async def scenario() -> None:
        owner = NetlinkOwner()
        with pytest.raises(HostError, match=r"'nowhere' does not exist; `ip netns add nowhere`"):
            await owner.attach(replace(CONFIG, netns="nowhere"))
        assert links(host) == {"lo"}

    netns.on_loop(host.netns, scenario)


def test_a_device_that_a_crash_left_is_adopted_and_mended(host: LightHost) -> None:
    host.run(["ip", "tuntap", "add", "quicether0", "mode", "tun"])
    host.run(["ip", "address", "add", "100.64.9.9/32", "dev", "quicether0"])
    host.run(["ip", "link", "set", "quicether0", "up", "mtu", "1200"])
    host.run(["ip", "route", "add", "10.9.0.0/16", "dev", "quicether0", "proto", "209",
              "metric", "50"])  # fmt: skip

    async def scenario() -> None:
        owner = NetlinkOwner()
        await owner.attach(CONFIG)
        assert addresses(host) == {"100.64.0.1/32", "fd00::1/128"}
        assert routes(host) == {"10.0.0.0/8", "192.168.7.0/24", "fd01::/48"}
        await owner.remove()
        assert links(host) == {"lo"}

    netns.on_loop(host.netns, scenario)


def test_a_name_that_is_taken_is_refused_and_left_alone(host: LightHost) -> None:
    host.run(["ip", "link", "add", "quicether0", "type", "veth", "peer", "name", "other"])

    async def scenario() -> None:
        owner = NetlinkOwner()
        with pytest.raises(HostError, match="quicether0: the name belongs to a device"):
            await owner.attach(CONFIG)

    netns.on_loop(host.netns, scenario)
    assert "quicether0" in links(host)


def test_a_device_in_use_is_refused(host: LightHost) -> None:
    async def scenario() -> None:
        first, second = NetlinkOwner(), NetlinkOwner()
        await first.attach(CONFIG)
        with pytest.raises(HostError, match="another process holds it"):
            await second.attach(CONFIG)
        assert routes(host) == {"10.0.0.0/8", "192.168.7.0/24", "fd01::/48"}
        await first.remove()

    netns.on_loop(host.netns, scenario)


def test_a_route_whose_place_is_taken_does_not_stop_the_tunnel(host: LightHost) -> None:
    async def scenario() -> None:
        owner = NetlinkOwner()
        host.run(["ip", "route", "add", "10.0.0.0/8", "dev", "lo", "metric", "50"])
        await owner.attach(CONFIG)
        assert routes(host) == {"192.168.7.0/24", "fd01::/48"}
        (limit,) = owner.limits
        assert limit.startswith("prefix 10.0.0.0/8: somebody else has put a route there")
        host.run(["ip", "route", "del", "10.0.0.0/8", "dev", "lo"])
        await owner.apply(CONFIG)
        assert "10.0.0.0/8" in routes(host)
        assert not owner.limits
        await owner.remove()

    netns.on_loop(host.netns, scenario)


def test_a_device_that_somebody_deletes_is_reported(host: LightHost) -> None:
    async def scenario() -> None:
        owner = NetlinkOwner()
        device = await owner.attach(CONFIG)
        lost: asyncio.Future[HostError] = asyncio.get_running_loop().create_future()
        device.start(lambda batch: None, lost.set_result)
        await asyncio.to_thread(host.run, ["ip", "link", "del", "quicether0"])
        assert "quicether0 was taken away" in str(await lost)
        await owner.remove()

    netns.on_loop(host.netns, scenario)


def test_without_cap_net_admin_the_refusal_is_a_sentence(host: LightHost) -> None:
    program = (
        "import asyncio\n"
        "from ipaddress import ip_interface\n"
        "from quicether.errors import HostError\n"
        "from quicether.host.desired import HostConfig\n"
        "from quicether.host.netlink import NetlinkOwner\n"
        "config = HostConfig('quicether0', 1400, (ip_interface('100.64.0.1/32'),))\n"
        "try:\n"
        "    asyncio.run(NetlinkOwner().attach(config))\n"
        "except HostError as error:\n"
        "    print(error)\n"
    )
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    said = host.run([*nobody, sys.executable, "-c", program], env=PYTHONPATH).stdout
    assert said == "device quicether0: not permitted; the daemon needs CAP_NET_ADMIN\n"


def test_cap_net_admin_alone_is_enough(host: LightHost) -> None:
    """The daemon is an ordinary user with one capability."""
    program = (
        "import asyncio\n"
        "from ipaddress import ip_interface, ip_network\n"
        "from quicether.host.desired import FullTunnel, HostConfig\n"
        "from quicether.host.netlink import NetlinkOwner, clean_leftovers\n"
        f"full = FullTunnel(mark={FULL.mark}, table={FULL.table}, priority=5200, port=9000)\n"
        "addresses = (ip_interface('100.64.0.1/32'), ip_interface('fd00::1/128'))\n"
        "prefixes = (ip_network('10.0.0.0/8'),)\n"
        "async def main():\n"
        "    await clean_leftovers()\n"
        "    owner = NetlinkOwner()\n"
        "    config = HostConfig('quicether0', 1400, addresses, prefixes, full_tunnel=full)\n"
        "    await owner.attach(config)\n"
        "    print(owner.limits, flush=True)\n"
        "    await owner.remove()\n"
        "asyncio.run(main())\n"
    )
    daemon = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs",
              "--bounding-set=-all,+net_admin", "--inh-caps=+net_admin",
              "--ambient-caps=+net_admin"]  # fmt: skip
    said = host.run([*daemon, sys.executable, "-c", program], env=PYTHONPATH).stdout
    assert said == "()\n"
    assert links(host) == {"lo"}
    assert rules(host) == []
