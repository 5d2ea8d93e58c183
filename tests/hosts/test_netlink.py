"""The rtnetlink owner on a real kernel, inside a network namespace."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from ipaddress import ip_interface, ip_network
from typing import Any

import pytest

from quicether.errors import HostError
from quicether.host.desired import FullTunnel, HostConfig
from quicether.host.exits import TABLE, Ours, keep_exits
from quicether.host.netlink import NetlinkOwner, clean_leftovers
from support import netns
from support.cables import Cable
from support.hosts import LightHost
from support.route_watch import RouteWatch

PYTHONPATH = {"PYTHONPATH": os.pathsep.join(sys.path)}
FULL = FullTunnel(mark=0x51, table=9000, priority=5200)
CONFIG = HostConfig(
    device="quicether0",
    mtu=1400,
    addresses=(ip_interface("100.64.0.1/32"), ip_interface("fd00::1/128")),
    prefixes=(ip_network("10.0.0.0/8"), ip_network("192.168.7.0/24"), ip_network("fd01::/48")),
)


@pytest.fixture
def host() -> Iterator[LightHost]:
    with LightHost("dp") as one:
        yield one


def on(host: LightHost, act: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine on a loop in the host's namespace."""

    async def bounded() -> None:
        async with asyncio.timeout(20):
            await act()

    netns.inside(host.netns, lambda: asyncio.run(bounded()))


def ip(host: LightHost, *arguments: str) -> Any:
    return json.loads(host.run(["ip", "-j", *arguments]).stdout or "[]")


def routes(host: LightHost, table: str = "main") -> set[str]:
    """The destinations of our own routes."""
    return {
        route["dst"]
        for family in ("-4", "-6")
        for route in ip(host, family, "route", "show", "table", table, "proto", "209")
    }


def addresses(host: LightHost, device: str = "quicether0") -> set[str]:
    (link,) = ip(host, "address", "show", "dev", device)
    return {f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"]}


def rules(host: LightHost) -> list[str]:
    """Our own rules, both versions."""
    return [
        line
        for family in ("-4", "-6")
        for line in host.run(["ip", family, "rule"]).stdout.splitlines()
        if "proto 209" in line
    ]


def links(host: LightHost) -> set[str]:
    return {link["ifname"] for link in ip(host, "link")}


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

    on(host, scenario)


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

    on(host, scenario)


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

    on(host, scenario)


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

    on(host, scenario)


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

    on(host, scenario)


def test_ipv6_only_on_other_devices_does_not_leak_past_a_full_tunnel(host: LightHost) -> None:
    """A distribution that disables IPv6 by default on new devices, but not on the uplink."""
    with LightHost("isp") as isp, Cable(host, isp) as cable:
        host.configure_link(cable.a.ifname, ["2001:db8::2/64"], "2001:db8::1")
        isp.configure_link(cable.b.ifname, ["2001:db8::1/64"])
        host.sysctl({"net.ipv6.conf.default.disable_ipv6": "1"})

        async def scenario() -> None:
            owner = NetlinkOwner()
            await owner.attach(replace(CONFIG, full_tunnel=FULL))
            found = host.run(["ip", "-6", "route", "get", "2001:db8:9::1"], check=False)
            assert found.returncode != 0
            ours = host.run(["ip", "-6", "route", "get", "2001:db8:9::1", "mark", "0x51"]).stdout
            assert cable.a.ifname in ours
            local = host.run(["ip", "-6", "route", "get", "2001:db8::1"]).stdout
            assert cable.a.ifname in local, "local networks stay local"
            await owner.remove()

        on(host, scenario)


def test_full_tunnel_takes_all_but_marked_and_local_packets(host: LightHost) -> None:
    with LightHost("isp") as isp, Cable(host, isp) as cable:
        uplink = cable.a.ifname
        host.configure_link(
            uplink, ["192.0.2.2/24", "2001:db8::2/64"], ["192.0.2.1", "2001:db8::1"]
        )
        isp.configure_link(cable.b.ifname, ["192.0.2.1/24", "2001:db8::1/64"])

        def way(destination: str, *more: str) -> str:
            return str(ip(host, "route", "get", destination, *more)[0]["dev"])

        async def scenario() -> None:
            owner = NetlinkOwner()
            full = replace(FULL, uid=65534)
            await owner.attach(replace(CONFIG, full_tunnel=full))
            assert way("198.51.100.1") == "quicether0"
            assert way("198.51.100.1", "uid", "65534") == uplink, "who looks up peers' names"
            assert way("2001:db8:9::1", "uid", "65534") == uplink
            assert way("2001:db8:9::1") == "quicether0"
            assert way("198.51.100.1", "mark", "0x51") == uplink
            assert way("2001:db8:9::1", "mark", "0x51") == uplink
            assert way("192.0.2.77") == uplink
            await owner.apply(replace(CONFIG, full_tunnel=replace(full, lan_access=False)))
            assert way("192.0.2.77") == way("2001:db8::77") == "quicether0"
            assert way("192.0.2.77", "mark", "0x51") == uplink
            await owner.apply(CONFIG)
            assert way("198.51.100.1") == uplink
            assert rules(host) == []
            assert routes(host, "9000") == set()
            await owner.apply(replace(CONFIG, full_tunnel=full))
            assert len(rules(host)) == 6
            await owner.remove()
            assert rules(host) == []
            assert way("198.51.100.1") == uplink

        on(host, scenario)


def test_what_is_ours_finds_out_beside_a_default_route_into_the_overlay(host: LightHost) -> None:
    """Whatever the overlay's own packets are told by, and for the halves of a default route too."""
    with LightHost("isp") as isp, Cable(host, isp) as cable:
        uplink = cable.a.ifname
        host.configure_link(uplink, ["192.0.2.2/24", "2001:db8::2/64"])
        isp.configure_link(cable.b.ifname, ["192.0.2.1/24", "2001:db8::1/64"])
        ours = Ours(FULL.mark, 9000, 65534)
        what = (["mark", "0x51"], ["ipproto", "udp", "sport", "9000"], ["uid", "65534"])

        def ways(destination: str) -> list[str]:
            found = [ip(host, "route", "get", destination, *each)[0]["dev"] for each in what]
            return [*found, ip(host, "route", "get", destination)[0]["dev"]]

        async def scenario() -> None:
            owner = NetlinkOwner()
            await owner.attach(CONFIG)
            for gateway in ("192.0.2.1", "2001:db8::1"):
                host.run(["ip", "route", "add", "default", "via", gateway, "metric", "600"])
            await keep_exits(lambda name: name == "quicether0", ours)
            assert rules(host) == []
            for prefix in ("default", "::/1", "8000::/1"):
                host.run(["ip", "route", "add", prefix, "dev", "quicether0"])
            assert ways("198.51.100.1") == ["quicether0"] * 4
            for _ in range(2):
                await keep_exits(lambda name: name == "quicether0", ours)
                assert ways("198.51.100.1") == [uplink] * 3 + ["quicether0"]
                assert ways("2001:db8:9::1") == [uplink] * 3 + ["quicether0"]
                assert ways("10.1.2.3") == ["quicether0"] * 4
            await owner.remove()
            await keep_exits(lambda name: name == "quicether0", ours)
            assert rules(host) == []
            assert routes(host, str(TABLE)) == set()

        on(host, scenario)


@pytest.mark.parametrize("rp_filter", ["0", "1", "2"])
def test_answers_of_peers_pass_a_reverse_path_check_beside_a_full_tunnel(
    host: LightHost, rp_filter: str
) -> None:
    """Strict rp_filter drops them with mark and rules alone, with src_valid_mark set or not."""
    with LightHost("isp") as isp, Cable(host, isp) as cable:
        host.configure_link(cable.a.ifname, ["192.0.2.2/24"], ["192.0.2.1"])
        isp.configure_link(cable.b.ifname, ["192.0.2.1/24", "198.51.100.1/32"])
        host.sysctl(
            {
                "net.ipv4.conf.all.rp_filter": rp_filter,
                f"net.ipv4.conf.{cable.a.ifname}.rp_filter": rp_filter,
            }
        )

        def bound(address: str) -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, FULL.mark)
            made.settimeout(5)
            made.bind((address, 9000))
            return made

        async def scenario() -> None:
            owner = NetlinkOwner()
            await owner.attach(replace(CONFIG, full_tunnel=replace(FULL, port=9000)))
            with (
                bound("0.0.0.0") as ours,
                netns.inside(isp.netns, lambda: bound("198.51.100.1")) as peer,
            ):
                ours.sendto(b"hello", ("198.51.100.1", 9000))
                peer.sendto(*peer.recvfrom(100))
                assert ours.recv(100) == b"hello"
            await owner.apply(replace(CONFIG, full_tunnel=replace(FULL, port=9001)))
            assert len(rules(host)) == 6
            await owner.remove()
            assert rules(host) == []

        on(host, scenario)


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

    on(host, scenario)


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

        on(host, scenario)


def test_a_namespace_that_does_not_exist_is_named(host: LightHost) -> None:
    async def scenario() -> None:
        owner = NetlinkOwner()
        with pytest.raises(HostError, match=r"'nowhere' does not exist; `ip netns add nowhere`"):
            await owner.attach(replace(CONFIG, netns="nowhere"))
        assert links(host) == {"lo"}

    on(host, scenario)


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

    on(host, scenario)


def test_what_a_killed_process_left_is_cleaned(host: LightHost) -> None:
    """The kernel takes the device and its routes; rules and unreachable routes stay."""

    program = (
        "import asyncio, os, signal\n"
        "from ipaddress import ip_interface\n"
        "from quicether.host.desired import FullTunnel, HostConfig\n"
        "from quicether.host.netlink import NetlinkOwner\n"
        f"full = FullTunnel(mark={FULL.mark}, table={FULL.table}, priority={FULL.priority})\n"
        "addresses = (ip_interface('100.64.0.1/32'),)\n"
        "config = HostConfig('quicether0', 1200, addresses, full_tunnel=full)\n"
        "asyncio.run(NetlinkOwner().attach(config))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    died = host.run([sys.executable, "-c", program], check=False, env=PYTHONPATH)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert links(host) == {"lo"}
    assert len(rules(host)) == 4
    assert routes(host, "9000") == {"default"}
    host.run(["ip", "rule", "add", "fwmark", "7", "lookup", "77"])
    on(host, clean_leftovers)
    assert rules(host) == []
    assert routes(host, "9000") == set()
    assert "lookup 77" in host.run(["ip", "rule"]).stdout, "somebody else's"


def test_rules_that_somebody_takes_away_are_put_back(host: LightHost) -> None:
    def all_are_there() -> bool:
        return len(rules(host)) == 4

    async def scenario() -> None:
        owner = NetlinkOwner()
        await owner.attach(replace(CONFIG, full_tunnel=FULL))
        for priority in ("5201", "5202"):
            assert all_are_there()
            host.run(["ip", "rule", "del", "priority", priority])
            await asyncio.to_thread(host.wait_until, all_are_there, 2, "the rules to be back")
        await owner.remove()
        assert rules(host) == []

    on(host, scenario)


def test_cleaning_spares_a_tunnel_that_runs(host: LightHost) -> None:
    async def scenario() -> None:
        owner = NetlinkOwner()
        await owner.attach(replace(CONFIG, full_tunnel=FULL))
        await clean_leftovers()
        assert len(rules(host)) == 4
        await owner.remove()

    on(host, scenario)


def test_a_name_that_is_taken_is_refused_and_left_alone(host: LightHost) -> None:
    host.run(["ip", "link", "add", "quicether0", "type", "veth", "peer", "name", "other"])

    async def scenario() -> None:
        owner = NetlinkOwner()
        with pytest.raises(HostError, match="quicether0: the name belongs to a device"):
            await owner.attach(CONFIG)

    on(host, scenario)
    assert "quicether0" in links(host)


def test_a_device_in_use_is_refused(host: LightHost) -> None:
    async def scenario() -> None:
        first, second = NetlinkOwner(), NetlinkOwner()
        await first.attach(CONFIG)
        with pytest.raises(HostError, match="another process holds it"):
            await second.attach(CONFIG)
        assert routes(host) == {"10.0.0.0/8", "192.168.7.0/24", "fd01::/48"}
        await first.remove()

    on(host, scenario)


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

    on(host, scenario)


def test_a_device_that_somebody_deletes_is_reported(host: LightHost) -> None:
    async def scenario() -> None:
        owner = NetlinkOwner()
        device = await owner.attach(CONFIG)
        lost: asyncio.Future[HostError] = asyncio.get_running_loop().create_future()
        device.start(lambda batch: None, lost.set_result)
        await asyncio.to_thread(host.run, ["ip", "link", "del", "quicether0"])
        assert "quicether0 was taken away" in str(await lost)
        await owner.remove()

    on(host, scenario)


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
