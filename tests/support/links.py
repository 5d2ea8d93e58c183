"""Bringing up a link on a whole host the way its user would, through the network manager."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from support.hosts import WholeHost

_ONLINE: Final = 20
"""Seconds that a manager gets to bring a link up."""


def configure_networkmanager(
    host: WholeHost, ifname: str, addresses: list[str], gateways: list[str]
) -> None:
    """Make a profile named as the link, and activate it."""
    settings = []
    for version, without in ((4, "disabled"), (6, "link-local")):
        mine = [a for a in addresses if ip_interface(a).version == version]
        gateway = [g for g in gateways if ip_address(g).version == version]
        settings += [f"ipv{version}.method", "manual" if mine else without]
        settings += [f"ipv{version}.addresses", ",".join(mine)] if mine else []
        settings += [f"ipv{version}.gateway", gateway[0]] if gateway else []
    host.run(["nmcli", "connection", "delete", ifname], check=False)
    profile = ["type", "ethernet", "con-name", ifname, "ifname", ifname, *settings]
    # Autoconnect would race with `up`; later it brings the link back after a restart.
    host.run(["nmcli", "connection", "add", *profile, "connection.autoconnect", "no"])
    host.run(["nmcli", "--wait", str(_ONLINE), "connection", "up", ifname])
    host.run(["nmcli", "connection", "modify", ifname, "connection.autoconnect", "yes"])


def configure_networkd(
    host: WholeHost, ifname: str, addresses: list[str], gateways: list[str]
) -> None:
    """Write the link's .network file, and wait until networkd has done what it says."""
    lines = [
        f"[Match]\nName={ifname}\n\n[Network]\nIPv6AcceptRA=no\nLinkLocalAddressing=ipv6",
        *(f"Address={address}" for address in addresses),
        *(f"Gateway={gateway}" for gateway in gateways),
    ]
    file = host.root / "etc/systemd/network" / f"10-{ifname}.network"
    file.write_text("\n".join(lines) + "\n")
    host.run(["networkctl", "reload"])
    wait_online = "/lib/systemd/systemd-networkd-wait-online"
    host.run([wait_online, f"--interface={ifname}", f"--timeout={_ONLINE}"])
