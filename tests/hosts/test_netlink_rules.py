"""The rtnetlink owner's routing rules: what goes through a full tunnel, and what beside it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from quicether.host.exits import TABLE, Ours, keep_exits
from quicether.host.netlink import NetlinkOwner, clean_leftovers
from support import netns
from support.cables import Cable
from support.device_state import CONFIG, FULL, ip, links, routes, rules
from support.hosts import LightHost

PYTHONPATH = {"PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def host() -> Iterator[LightHost]:
    with LightHost("dp") as one:
        yield one


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

        netns.on_loop(host.netns, scenario)


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

        netns.on_loop(host.netns, scenario)


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

        netns.on_loop(host.netns, scenario)


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

        netns.on_loop(host.netns, scenario)


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
    netns.on_loop(host.netns, clean_leftovers)
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

    netns.on_loop(host.netns, scenario)


def test_cleaning_spares_a_tunnel_that_runs(host: LightHost) -> None:
    async def scenario() -> None:
        owner = NetlinkOwner()
        await owner.attach(replace(CONFIG, full_tunnel=FULL))
        await clean_leftovers()
        assert len(rules(host)) == 4
        await owner.remove()

    netns.on_loop(host.netns, scenario)
