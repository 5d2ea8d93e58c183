"""The device as the tests of its owners want it, and what a host's kernel has of it."""

from __future__ import annotations

import json
from ipaddress import ip_interface, ip_network
from typing import Any

from quicether.host.desired import FullTunnel, HostConfig
from support.hosts import Host

FULL = FullTunnel(mark=0x51, table=9000, priority=5200)
CONFIG = HostConfig(
    device="quicether0",
    mtu=1400,
    addresses=(ip_interface("100.64.0.1/32"), ip_interface("fd00::1/128")),
    prefixes=(ip_network("10.0.0.0/8"), ip_network("192.168.7.0/24"), ip_network("fd01::/48")),
)


def ip(host: Host, *arguments: str) -> Any:
    return json.loads(host.run(["ip", "-j", *arguments]).stdout or "[]")


def routes(host: Host, table: str = "main") -> set[str]:
    """The destinations of our own routes."""
    return {
        route["dst"]
        for family in ("-4", "-6")
        for route in ip(host, family, "route", "show", "table", table, "proto", "209")
    }


def addresses(host: Host, device: str = "quicether0") -> set[str]:
    (link,) = ip(host, "address", "show", "dev", device)
    return {f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"]}


def rules(host: Host) -> list[str]:
    """Our own rules, both versions."""
    return [
        line
        for family in ("-4", "-6")
        for line in host.run(["ip", family, "rule"]).stdout.splitlines()
        if "proto 209" in line
    ]


def links(host: Host) -> set[str]:
    return {link["ifname"] for link in ip(host, "link")}
