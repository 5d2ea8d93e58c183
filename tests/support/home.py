"""The first story: a laptop in a café, a node at home, and a machine in the LAN behind it.

    cafe-laptop ───── internet ───── home ───────── nas
    203.0.113.2    (a router)    198.51.100.1   192.168.77.10
    2001:db8:2::2                2001:db8:1::1  fd77::10
                                 192.168.77.1
                                 fd77::1

Both hosts are whole (systemd, D-Bus, polkit, NetworkManager) with QuicEther installed; the nas
knows nothing of the overlay but a default route to home.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

from support.cables import Cable
from support.hosts import LightHost, Router, WholeHost, together
from support.relay import Impairment, Relay

LAPTOP = ("203.0.113.2", "2001:db8:2::2")
HOME = ("198.51.100.1", "2001:db8:1::1")
LAN = ("192.168.77.0/24", "fd77::/64")
NAS = ("192.168.77.10", "fd77::10")


def _silent(host: WholeHost, command: Sequence[str], output: str) -> None:
    """Show nothing."""


@dataclass(slots=True)
class Story:
    """The hosts of the story, once they are booted and cabled.

    show: told each command that a user types, and what it printed.
    """

    laptop: WholeHost
    home: WholeHost
    nas: LightHost
    internet: Router
    cafe_cable: Cable
    home_cable: Cable
    show: Callable[[WholeHost, Sequence[str], str], None] = _silent

    def type(self, host: WholeHost, *command: str, timeout: float = 60) -> str:
        """Run what a user types as root, show it, and return what it printed."""
        output = host.run(command, timeout=timeout).stdout
        self.show(host, command, output)
        return output

    def found_network(self) -> None:
        """Make the network and give both hosts a certificate, as a user does it by hand."""
        self.type(self.home, "quicether", "network", "create", "home", "--authority-only")
        prefixes = [word for prefix in LAN for word in ("--prefix", prefix)]
        self.type(
            self.home,
            "quicether",
            "network",
            "sign",
            "home",
            "--local",
            "--name",
            "home",
            *prefixes,
        )
        key = self.type(self.laptop, "quicether", "keygen", "home").split()[-1]
        sign = ("quicether", "network", "sign", "home", "--name", "cafe-laptop")
        self.type(self.home, *sign, "--public-key", key, "--out", "/root/cafe-laptop.pem")
        bundle = (self.home.root / "root/cafe-laptop.pem").read_text()
        (self.laptop.root / "root/cafe-laptop.pem").write_text(bundle)
        self.type(self.laptop, "quicether", "network", "install", "home", "/root/cafe-laptop.pem")

    def add_profiles(self, home: str = "", laptop: str = "") -> None:
        """Add the NetworkManager profiles; home, laptop: more settings, as in vpn.data."""
        lan = " ".join(LAN)
        self.add_profile(self.home, f"network=home, advertise-subnets={lan}" + home)
        self.add_profile(self.laptop, f"network=home, peers=home@{HOME[0]}" + laptop)

    def add_profile(self, host: WholeHost, data: str) -> None:
        """Add the profile `quicether` to a host's NetworkManager."""
        add = ("nmcli", "connection", "add", "type", "vpn", "con-name", "quicether")
        self.type(host, *add, "vpn-type", "quicether", "vpn.data", data)

    def overlay_addresses(self, host: WholeHost) -> list[str]:
        """Return a host's overlay addresses, IPv4 first."""
        shown = json.loads(host.run(["ip", "-j", "addr", "show", "quicether0"]).stdout)
        return [
            info["local"]
            for family in ("inet", "inet6")
            for info in shown[0]["addr_info"]
            if info["family"] == family and info["scope"] == "global"
        ]

    def up(self, host: WholeHost) -> str:
        """Bring the tunnel up as a user does."""
        return self.type(host, "nmcli", "connection", "up", "quicether")

    def down(self, host: WholeHost) -> str:
        """Take the tunnel down as a user does."""
        return self.type(host, "nmcli", "connection", "down", "quicether")


@contextlib.contextmanager
def story(
    layers: Sequence[Path],
    *,
    home_mtu: int = 1500,
    impairment: Impairment | None = None,
    show: Callable[[WholeHost, Sequence[str], str], None] = _silent,
) -> Iterator[Story]:
    """Boot and cable the hosts of the story; everything is gone afterwards.

    home_mtu: of the line between the internet and home, in bytes; both ends of the way have 1500.
    impairment: what happens to frames on the laptop's line, both ways.
    """
    with (
        together(
            WholeHost("cafe-laptop", "networkmanager", layers),
            WholeHost("home", "networkmanager", layers),
        ) as (laptop, home),
        Router("internet") as internet,
        LightHost("nas") as nas,
        _line(laptop, internet, impairment) as cafe_cable,
        Cable(home, internet) as home_cable,
        Cable(home, nas) as lan,
    ):
        for host, cable, addresses in ((laptop, cafe_cable, LAPTOP), (home, home_cable, HOME)):
            networks = [ip_interface(f"{addresses[0]}/24"), ip_interface(f"{addresses[1]}/64")]
            gateways = [str(network.network[-2]) for network in networks]
            internet.configure_link(
                cable.b.ifname,
                [
                    f"{gateway}/{network.network.prefixlen}"
                    for gateway, network in zip(gateways, networks, strict=True)
                ],
            )
            host.configure_link(cable.a.ifname, list(map(str, networks)), gateway=gateways)
        internet.run(["ip", "link", "set", home_cable.b.ifname, "mtu", str(home_mtu)])
        home.configure_link(lan.a.ifname, ["192.168.77.1/24", "fd77::1/64"])
        nas.configure_link(
            lan.b.ifname, [f"{NAS[0]}/24", f"{NAS[1]}/64"], gateway=["192.168.77.1", "fd77::1"]
        )
        home.sysctl({"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"})
        yield Story(laptop, home, nas, internet, cafe_cable, home_cable, show)


def _line(laptop: WholeHost, internet: Router, impairment: Impairment | None) -> Cable:
    return Cable(laptop, internet) if impairment is None else Relay(laptop, internet, impairment)
