"""Names of the network through the resolvers that hosts really have, as any program asks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from support.cables import Cable
from support.hosts import LightHost, Manager, WholeHost
from support.install import resolved_layer


def use_resolved(host: WholeHost) -> None:
    """Let systemd-resolved answer, as its package sets it up."""
    host.run(["systemd-sysusers", "systemd-resolve.conf"])
    host.run(["systemctl", "start", "systemd-resolved.service"])
    host.run(["ln", "-sf", "/run/systemd/resolve/stub-resolv.conf", "/etc/resolv.conf"])


def use_dnsmasq(host: WholeHost) -> None:
    """Let NetworkManager run dnsmasq, as its manual says."""
    conf = host.root / "etc/NetworkManager/conf.d/dns.conf"
    # On Ubuntu NetworkManager would tell resolvconf, which there is systemd-resolved in disguise.
    conf.write_text("[main]\ndns=dnsmasq\nrc-manager=symlink\n")
    host.run(["systemctl", "restart", "NetworkManager.service"])


def resolves(host: WholeHost, address: str) -> bool:
    return address in host.run(["getent", "ahosts", "attic.home.quicether"]).stdout.split()


@pytest.mark.parametrize(
    ("manager", "use"),
    [("networkd", use_resolved), ("networkmanager", use_dnsmasq)],
    ids=["networkd-resolved", "networkmanager-dnsmasq"],
)
def test_every_program_resolves_the_names_of_the_network(
    installed: list[Path], manager: Manager, use: Callable[[WholeHost], None]
) -> None:
    layers = [*installed, *resolved_layer()]
    with WholeHost("attic", manager, layers) as host, LightHost("router") as router:
        use(host)
        with Cable(host, router) as cable:
            host.configure_link(cable.a.ifname, ["192.0.2.1/24"], "192.0.2.254")
            create = ["quicether", "network", "create", "home", "--json"]
            created = json.loads(host.run(create, timeout=60).stdout)
            ipv4, ipv6 = created["node"]["addresses"]
            for address in (ipv4, ipv6):
                host.wait_until(lambda address=address: resolves(host, address), 10, address)
            nobody = host.run(["getent", "hosts", "nobody.home.quicether"], check=False)
            assert nobody.returncode == 2
