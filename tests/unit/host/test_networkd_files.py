"""What is written for systemd-networkd, word by word."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from quicether.errors import HostError
from quicether.host.desired import Dns, FullTunnel, HostConfig
from quicether.host.kernel_state import wanted
from quicether.host.networkd import DIRECTORY, LINKS
from quicether.host.networkd_files import SLOTS, device_of, file_names, netdev, network

CONFIG = HostConfig(
    device="quicether0",
    mtu=1400,
    addresses=(ip_interface("100.64.0.1/32"), ip_interface("fd00::1/128")),
    prefixes=(ip_network("10.0.0.0/8"), ip_network("fd01::/48")),
    dns=Dns((ip_address("100.64.0.1"),), ("~home.quicether",)),
)


def text(config: HostConfig) -> str:
    return network(config, wanted(config, addressing=True, ipv6=True).state)


def test_names_are_those_that_root_links() -> None:
    assert file_names(7) == ("05-quicether-7.netdev", "05-quicether-7.network")
    tmpfiles = (Path(__file__).parents[3] / "systemd/quicether.tmpfiles").read_text()
    linked = [tuple(line.split()[1:]) for line in tmpfiles.splitlines() if line.startswith("L+ ")]
    assert linked == [
        (f"{LINKS / name}", "-", "-", "-", "-", f"{DIRECTORY / name}")
        for slot in SLOTS
        for name in file_names(slot)
    ]


def test_a_file_says_whose_it_is() -> None:
    assert device_of(netdev("vpn7", "quicether")) == "vpn7"
    assert device_of("") == ""


def test_the_device() -> None:
    assert (
        netdev("quicether0", "quicether")
        == """\
# Written by quicether.service; it goes when the tunnel goes down.

[NetDev]
Name=quicether0
Kind=tun

[Tun]
PacketInfo=no
VNetHeader=yes
MultiQueue=no
User=quicether
"""
    )
    assert "User=" not in netdev("quicether0", None)


def test_everything_on_it() -> None:
    assert (
        text(CONFIG)
        == """\
# Written by quicether.service; it goes when the tunnel goes down.

[Match]
Name=quicether0

[Link]
MTUBytes=1400
RequiredForOnline=no

[Network]
Description=QuicEther tunnel
ConfigureWithoutCarrier=yes
IgnoreCarrierLoss=yes
KeepConfiguration=static
LinkLocalAddressing=no
IPv6AcceptRA=no
DNS=100.64.0.1
Domains=~home.quicether
DNSDefaultRoute=no

[Address]
Address=100.64.0.1/32
DuplicateAddressDetection=none

[Address]
Address=fd00::1/128
DuplicateAddressDetection=none

[Route]
Destination=10.0.0.0/8
Table=254
Metric=50
Protocol=209
Scope=link

[Route]
Destination=fd01::/48
Table=254
Metric=50
Protocol=209
"""
    )


def test_full_tunnel_takes_all_names_too() -> None:
    full = replace(
        CONFIG,
        full_tunnel=FullTunnel(mark=81, table=9000, priority=5200, ipv6=False, port=9000, uid=997),
        dns=replace(CONFIG.dns, default_route=True),
    )
    written = text(full)
    assert "Domains=~home.quicether ~.\nDNSDefaultRoute=yes\n" in written
    assert "Destination=0.0.0.0/0\nTable=9000\n" in written
    assert written.endswith("""\
[RoutingPolicyRule]
Family=ipv4
Priority=5200
Table=254
IPProtocol=udp
SourcePort=9000

[RoutingPolicyRule]
Family=ipv4
Priority=5200
Table=254
User=997

[RoutingPolicyRule]
Family=ipv4
Priority=5201
Table=254
SuppressPrefixLength=0

[RoutingPolicyRule]
Family=ipv4
Priority=5202
Table=9000
FirewallMark=81
InvertRule=yes
""")


def test_what_cannot_carry_ipv6_keeps_it_from_leaking() -> None:
    full = replace(CONFIG, mtu=1200, full_tunnel=FullTunnel(mark=81, table=9000, priority=5200))
    assert "Destination=::/0\nTable=9000\nMetric=50\nProtocol=209\nType=unreachable\n" in text(full)


def test_the_text_depends_on_nothing_but_the_state() -> None:
    turned = replace(CONFIG, addresses=CONFIG.addresses[::-1], prefixes=CONFIG.prefixes[::-1])
    assert text(turned) == text(CONFIG)


def test_no_value_can_bring_a_line_of_its_own() -> None:
    evil = replace(CONFIG, dns=replace(CONFIG.dns, domains=("x\n[Match]\nName=eth0",)))
    with pytest.raises(HostError, match="Domains of the device"):
        text(evil)
