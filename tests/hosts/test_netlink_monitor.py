"""Noticing what happens to the host's own network, and what it consists of."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from quicether.errors import UnreachableError
from quicether.host.desired import FullTunnel, HostConfig
from quicether.host.monitor import UnderlayMonitor
from quicether.host.netlink import NetlinkOwner
from quicether.host.underlay import Underlay, path_to, read_underlay
from support import netns
from support.cables import Cable
from support.commands import wait_until
from support.hosts import LightHost
from support.node import Network

SETTLE = 0.05


@dataclass
class Site:
    """A host with two uplinks, the first one configured."""

    host: LightHost
    first: str
    second: str

    async def do(self, *command: str) -> None:
        await asyncio.to_thread(self.host.run, ["ip", *command])

    def on_loop(self, act: Callable[[], Awaitable[None]]) -> None:
        netns.on_loop(self.host.netns, act)


@pytest.fixture
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        host, isp, other = (stack.enter_context(LightHost(name)) for name in ("dp", "isp", "o"))
        first = stack.enter_context(Cable(host, isp)).a.ifname
        second = stack.enter_context(Cable(host, other)).a.ifname
        host.configure_link(first, ["192.0.2.2/24", "2001:db8:2::2/64"], ["192.0.2.1"])
        host.run(["ip", "-6", "route", "add", "default", "via", "2001:db8:2::1"])
        yield Site(host, first, second)


def own(name: str) -> bool:
    return name.startswith("quicether")


class Reports:
    """Collects reports and lets a test await the next one."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Underlay] = asyncio.Queue()

    def __call__(self, underlay: Underlay) -> None:
        self.queue.put_nowait(underlay)

    async def next(self) -> Underlay:
        async with asyncio.timeout(5):
            return await self.queue.get()


def test_what_the_host_is_connected_to(site: Site) -> None:
    async def scenario() -> None:
        found = await read_underlay(own)
        assert {address for _, address in found.addresses} == {
            ip_interface("192.0.2.2/24"),
            ip_interface("2001:db8:2::2/64"),
        }
        assert found.connected == (ip_network("192.0.2.0/24"), ip_network("2001:db8:2::/64"))
        assert found.gateways == (ip_address("192.0.2.1"), ip_address("2001:db8:2::1"))

    site.on_loop(scenario)


def test_the_way_to_a_peer(site: Site) -> None:
    async def scenario() -> None:
        path = await path_to(ip_address("198.51.100.7"))
        assert (path.device, path.mtu) == (site.first, 1500)
        assert (path.source, path.gateway) == (ip_address("192.0.2.2"), ip_address("192.0.2.1"))
        assert (await path_to(ip_address("192.0.2.77"))).gateway is None
        await site.do("route", "add", "198.51.100.0/24", "via", "192.0.2.1", "mtu", "1380")
        assert (await path_to(ip_address("198.51.100.7"))).mtu == 1380
        await site.do("route", "add", "unreachable", "203.0.113.0/24")
        with pytest.raises(UnreachableError, match=r"no route to 203\.0\.113\.1"):
            await path_to(ip_address("203.0.113.1"))

    site.on_loop(scenario)


def test_a_full_tunnel_does_not_hide_the_underlay(site: Site) -> None:
    async def scenario() -> None:
        owner = NetlinkOwner()
        await owner.attach(
            HostConfig(
                "quicether0",
                1400,
                (ip_interface("100.64.0.1/32"), ip_interface("fd00::1/128")),
                full_tunnel=FullTunnel(mark=0x51, table=9000, priority=5200),
            )
        )
        seen = await read_underlay(own, mark=0x51)
        assert seen.gateways == (ip_address("192.0.2.1"), ip_address("2001:db8:2::1"))
        assert ip_network("100.64.0.1/32") not in seen.connected
        assert (await path_to(ip_address("198.51.100.7"), mark=0x51)).device == site.first
        await owner.remove()

    site.on_loop(scenario)


def test_a_burst_of_changes_is_one_report(site: Site) -> None:
    async def scenario() -> None:
        reports = Reports()
        monitor = UnderlayMonitor(reports, own, settle=0.4)
        before = await monitor.start()
        assert before == monitor.underlay
        await site.do("address", "add", "203.0.113.2/24", "dev", site.second)
        await site.do("link", "set", site.second, "up")
        after = await reports.next()
        assert after.addresses - before.addresses == {(site.second, ip_interface("203.0.113.2/24"))}
        await asyncio.sleep(0.6)
        assert reports.queue.qsize() <= 1, "at most what came after the first report"
        monitor.close()

    site.on_loop(scenario)


def test_roaming_to_another_uplink_is_reported(site: Site) -> None:
    async def scenario() -> None:
        reports = Reports()
        monitor = UnderlayMonitor(reports, own, settle=SETTLE)
        await monitor.start()
        await site.do("link", "set", site.first, "down")
        await site.do("address", "add", "203.0.113.2/24", "dev", site.second)
        await site.do("link", "set", site.second, "up")
        await site.do("route", "add", "default", "via", "203.0.113.1")
        while (await reports.next()).gateways != (ip_address("203.0.113.1"),):
            pass
        assert monitor.underlay.connected == (ip_network("203.0.113.0/24"),)
        monitor.close()

    site.on_loop(scenario)


def test_a_route_to_one_network_alone_is_reported(site: Site) -> None:
    async def scenario() -> None:
        reports = Reports()
        monitor = UnderlayMonitor(reports, own, settle=SETTLE)
        await monitor.start()
        await site.do("route", "add", "198.51.100.0/24", "via", "192.0.2.9")
        assert await reports.next() == monitor.underlay
        monitor.close()

    site.on_loop(scenario)


def test_the_device_has_the_mtu_that_the_uplink_leaves_and_follows_it(
    site: Site, tmp_path: Path
) -> None:
    """Its peers are found by the DHT, so no address says which way packets will take."""

    def mtu() -> int:
        link = site.host.run(["ip", "-j", "link", "show", "dev", "quicether0"]).stdout
        return int(json.loads(link)[0]["mtu"])

    site.host.run(["ip", "link", "set", site.first, "mtu", "1400"])
    with Network(tmp_path) as network:
        node = network.node(site.host)
        assert node.up()["mtu"] == mtu() == 1320
        site.host.run(["ip", "link", "set", site.first, "mtu", "1440"])
        wait_until(lambda: mtu() == 1360, 5, "the device follows the uplink")


def test_our_own_device_is_no_change_of_the_underlay(site: Site) -> None:
    async def scenario() -> None:
        reports = Reports()
        monitor = UnderlayMonitor(reports, own, settle=SETTLE)
        await monitor.start()
        owner = NetlinkOwner()
        await owner.attach(
            HostConfig(
                "quicether0",
                1400,
                (ip_interface("100.64.0.1/32"), ip_interface("fd00::1/128")),
                (ip_network("10.0.0.0/8"),),
            )
        )
        # As NetworkManager would, without our protocol number.
        await site.do("route", "add", "10.7.0.0/16", "dev", "quicether0")
        await owner.remove()
        await site.do("address", "add", "192.0.2.3/24", "dev", site.first)
        found = await reports.next()
        assert (site.first, ip_interface("192.0.2.3/24")) in found.addresses
        assert reports.queue.empty(), "the first report is that of the address"
        monitor.close()

    site.on_loop(scenario)
