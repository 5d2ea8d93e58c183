"""The first story: a laptop in a café, a node at home, and a machine in the LAN behind it.

    cafe-laptop ──── underlay ──── home ──── lan ──── nas
    198.51.100.2                198.51.100.1    192.168.77.1   192.168.77.10
    2001:db8::2                 2001:db8::1     fd77::1        fd77::10

Both hosts are whole (systemd, D-Bus, polkit, NetworkManager) with QuicEther installed; the nas
knows nothing of the overlay but a default route to home.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.cables import Cable
from support.hosts import LightHost, WholeHost, together

LAPTOP = ("198.51.100.2", "2001:db8::2")
HOME = ("198.51.100.1", "2001:db8::1")
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
    underlay: Cable
    show: Callable[[WholeHost, Sequence[str], str], None] = _silent

    def type(self, host: WholeHost, *command: str, timeout: float = 60) -> str:
        """Run what a user types as root, show it, and return what it printed."""
        output = host.run(command, timeout=timeout).stdout
        self.show(host, command, output)
        return output

    def found_network(self) -> None:
        """Make the network and give both hosts a certificate, as a user does it by hand."""
        self.type(self.home, "quicether", "network", "create", "home")
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
    mtu: int = 1500,
    show: Callable[[WholeHost, Sequence[str], str], None] = _silent,
) -> Iterator[Story]:
    """Boot and cable the hosts of the story; everything is gone afterwards."""
    with (
        together(
            WholeHost("cafe-laptop", "networkmanager", layers),
            WholeHost("home", "networkmanager", layers),
        ) as (laptop, home),
        LightHost("nas") as nas,
        Cable(laptop, home, mtu=mtu) as underlay,
        Cable(home, nas) as lan,
    ):
        for host, port, addresses in (
            (laptop, underlay.a, LAPTOP),
            (home, underlay.b, HOME),
        ):
            host.configure_link(port.ifname, [f"{addresses[0]}/24", f"{addresses[1]}/64"])
        home.configure_link(lan.a.ifname, ["192.168.77.1/24", "fd77::1/64"])
        nas.configure_link(
            lan.b.ifname, [f"{NAS[0]}/24", f"{NAS[1]}/64"], gateway=["192.168.77.1", "fd77::1"]
        )
        home.sysctl({"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"})
        yield Story(laptop, home, nas, underlay, show)
