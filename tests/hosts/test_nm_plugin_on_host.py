"""The plugin under the real NetworkManager of a whole host, a fake service on its system bus."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from quicether.bus import contract
from support.cables import Cable
from support.fake_service import CONTROL
from support.hosts import LightHost, WholeHost

CHECKOUT = Path(__file__).parents[2]
PLUGIN_FILES = CHECKOUT / "nm_plugin"
SERVICE_POLICY = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <policy user="nobody"><allow own="org.quicether1"/></policy>
  <policy context="default"><allow send_destination="org.quicether1"/></policy>
</busconfig>
"""
SERVICE_ACTIVATION = """[D-BUS Service]
Name=org.quicether1
Exec=/bin/false
User=root
SystemdService=fake-quicether.service
"""
# The real service is not root, and bus policies look at that. It reads the checkout wherever it is.
SERVICE_UNIT = """[Service]
Type=dbus
BusName=org.quicether1
ExecStart=/opt/quicether/bin/fake-service
User=nobody
AmbientCapabilities=CAP_NET_ADMIN CAP_DAC_READ_SEARCH
"""


class Laptop:
    """A whole host with the plugin, the fake service, a cable and the profile `quicether`."""

    def __init__(self, host: WholeHost) -> None:
        self.host = host

    def install(self) -> None:
        """Put the plugin's files where a distribution would, and the fake where the service is."""
        root = self.host.root
        for source, target in (
            ("nm-quicether-service.name", "usr/lib/NetworkManager/VPN"),
            ("dbus/nm-quicether-service.conf", "usr/share/dbus-1/system.d"),
            ("conf.d/90-quicether.conf", "usr/lib/NetworkManager/conf.d"),
        ):
            self._write(root / target / Path(source).name, (PLUGIN_FILES / source).read_text())
        self._write(root / "usr/share/dbus-1/system.d/org.quicether1.conf", SERVICE_POLICY)
        services = root / "usr/share/dbus-1/system-services"
        self._write(services / "org.quicether1.service", SERVICE_ACTIVATION)
        self._write(root / "etc/systemd/system/fake-quicether.service", SERVICE_UNIT)
        self.host.run(["systemctl", "daemon-reload"])
        for program, module in (
            ("nm-quicether-service", "quicether_nm.main"),
            ("fake-service", "support.fake_service"),
        ):
            path = root / "opt/quicether/bin" / program
            folders = ":".join(str(CHECKOUT / each) for each in ("service", "nm_plugin", "tests"))
            flags = "--devices" if program == "fake-service" else '"$@"'
            self._write(
                path,
                f"#!/bin/sh\nexport PYTHONPATH={folders} PYTHONDONTWRITEBYTECODE=1\n"
                f"exec {sys.executable} -m {module} {flags}\n",
            )
            path.chmod(0o755)
        self.host.run(["systemctl", "reload", "dbus"])
        self.host.run(["systemctl", "restart", "NetworkManager"])
        self.nmcli("connection", "add", "type", "vpn", "con-name", "quicether")

    def nmcli(self, *arguments: str, check: bool = True) -> str:
        """Run nmcli; a VPN's type goes with `add`."""
        if arguments[:2] == ("connection", "add"):
            arguments = (*arguments, "vpn-type", "quicether", "vpn.data", "network=home")
        return self.host.run(["nmcli", *arguments], check=check).stdout

    def up(self) -> float:
        """Bring the connection up and return how long that took, in seconds."""
        start = time.monotonic()
        self.nmcli("connection", "up", "quicether")
        return time.monotonic() - start

    def active(self) -> str:
        """Return the state of the connection, empty where it is not active."""
        return self.nmcli("-g", "GENERAL.STATE", "connection", "show", "quicether").strip()

    def link(self) -> Any:
        """Return the overlay's device as iproute2 describes it."""
        return json.loads(self.host.run(["ip", "-j", "address", "show", "quicether0"]).stdout)[0]

    def addresses(self) -> set[str]:
        """Return the device's addresses, link-local ones left out."""
        return {each["local"] for each in self.link()["addr_info"] if each["scope"] == "global"}

    def hinted_journal(self) -> str:
        """Return what the journal holds where nmcli tells the user to look after a failure."""
        uuid = self.nmcli("-g", "connection.uuid", "connection", "show", "quicether").strip()
        return self.host.run(["journalctl", "--no-pager", f"NM_CONNECTION={uuid}"]).stdout

    def routes(self, version: int = 4) -> set[str]:
        """Return the destinations that the host routes to the overlay."""
        output = self.host.run(["ip", f"-{version}", "-j", "route", "show", "table", "all"]).stdout
        return {
            route["dst"]
            for route in json.loads(output)
            if route.get("dev") == "quicether0"
            and route.get("type", "unicast") == "unicast"
            and route.get("protocol") != "kernel"
            and not route["dst"].startswith("ff00")
        }

    def change(self, key: str, signature: str, *value: str) -> None:
        """Let the service want something else of the OS."""
        self.control("Change", "sa{sv}", "home", "1", key, signature, *value)

    def control(self, member: str, *arguments: str) -> str:
        """Drive the fake service."""
        where = (contract.BUS_NAME, contract.ROOT_PATH, CONTROL)
        return self.host.run(["busctl", "call", *where, member, *arguments]).stdout

    def until(self, condition: Any, deadline: float, what: str) -> None:
        """Wait for a condition on the host."""
        self.host.wait_until(condition, deadline, what)

    def leftovers(self) -> Sequence[str]:
        """Return what a tunnel could leave behind: device, routes, rules, processes."""
        links = self.host.run(["ip", "-br", "link"]).stdout
        gone = self.host.run(["pgrep", "-af", "quicether_nm.main"], check=False).stdout
        rules = self.host.run(["ip", "rule"]).stdout
        host_routes = self.host.run(["ip", "route"]).stdout
        return [
            *(line for line in links.splitlines() if "quicether" in line),
            *gone.splitlines(),
            *(line for line in rules.splitlines() if "fwmark" in line),
            *(line for line in host_routes.splitlines() if "metric 50" in line),
        ]

    def programs(self) -> set[str]:
        """Return the process ids of the plugin's programs that run."""
        return set(self.host.run(["pgrep", "-f", "quicether_nm.main"], check=False).stdout.split())

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture(scope="module")
def booted() -> Iterator[Laptop]:
    with (
        WholeHost("nm-laptop") as host,
        LightHost("nm-far") as far,
        Cable(host, far) as cable,
    ):
        far.configure_link(cable.b.ifname, ["192.0.2.2/24", "2001:db8::2/64"])
        laptop = Laptop(host)
        laptop.install()
        host.configure_link(
            cable.a.ifname, ["192.0.2.1/24", "2001:db8::1/64"], ["192.0.2.2", "2001:db8::2"]
        )
        yield laptop


@pytest.fixture
def laptop(booted: Laptop) -> Iterator[Laptop]:
    yield booted
    booted.nmcli("connection", "down", "quicether", check=False)
    booted.host.run(["pkill", "-f", "support.fake_service"], check=False)
    booted.host.run(["ip", "link", "del", "quicether0"], check=False)
    booted.until(lambda: not booted.leftovers(), 5, "nothing of the last test is left")


def test_up_puts_addresses_and_routes_there_and_down_leaves_nothing(laptop: Laptop) -> None:
    assert laptop.up() < 2.0
    assert laptop.active() == "activated"
    assert laptop.addresses() == {"100.64.0.1", "fd12:3456:789a::1"}
    assert laptop.routes(4) == {"192.168.1.0/24"}
    assert "fd12:3456:789a:1::/64" in laptop.routes(6)
    assert laptop.link()["mtu"] == 1380
    laptop.nmcli("connection", "down", "quicether")
    laptop.until(lambda: not laptop.leftovers(), 5, "device, routes and program are gone")


def test_prefixes_of_the_overlay_come_and_go_as_routes_while_it_is_up(laptop: Laptop) -> None:
    laptop.up()
    laptop.change("prefixes", "as", "2", "192.168.1.0/24", "10.1.0.0/16")
    laptop.until(lambda: laptop.routes() == {"192.168.1.0/24", "10.1.0.0/16"}, 5, "both routes")
    assert not any("fd12:3456:789a:1::" in route for route in laptop.routes(6))
    laptop.change("prefixes", "as", "2", "10.1.0.0/16", "fd12:3456:789a:2::/64")
    laptop.until(lambda: laptop.routes() == {"10.1.0.0/16"}, 5, "the last IPv4 route alone")
    laptop.until(lambda: "fd12:3456:789a:2::/64" in laptop.routes(6), 5, "the IPv6 route")
    assert laptop.active() == "activated"


def test_mtu_and_addresses_change_while_it_is_up(laptop: Laptop) -> None:
    laptop.up()
    laptop.change("mtu", "u", "1300")
    laptop.until(lambda: laptop.link()["mtu"] == 1300, 5, "the new MTU")
    laptop.change("addresses", "as", "1", "100.64.0.2/32")
    laptop.until(lambda: "100.64.0.2" in laptop.addresses(), 5, "the new address")
    assert "100.64.0.1" not in laptop.addresses()
    assert laptop.routes() == {"192.168.1.0/24"}
    # NetworkManager never takes the last address of a family back, but nothing is routed there.
    laptop.until(lambda: not laptop.routes(6), 5, "no IPv6 route")
    assert laptop.active() == "activated"


def test_name_servers_of_the_overlay_are_used_while_it_is_up(laptop: Laptop) -> None:
    resolv = laptop.host.root / "etc/resolv.conf"
    laptop.change("dns-domains", "as", "1", "home.quicether")
    laptop.change("dns-servers", "as", "2", "100.64.0.53", "fd12:3456:789a::53")
    laptop.up()
    laptop.until(lambda: "nameserver 100.64.0.53" in resolv.read_text(), 5, "the name server")
    assert "nameserver fd12:3456:789a::53" in resolv.read_text()
    assert "search home.quicether" in resolv.read_text()
    laptop.nmcli("connection", "down", "quicether")
    laptop.until(lambda: "100.64.0.53" not in resolv.read_text(), 5, "no name server")


def test_a_killed_service_takes_the_vpn_down_and_up_works_again(laptop: Laptop) -> None:
    laptop.up()
    start = time.monotonic()
    laptop.host.run(["pkill", "-KILL", "-f", "support.fake_service"])
    laptop.until(lambda: laptop.active() == "", 5, "NetworkManager shows it down")
    assert time.monotonic() - start < 5
    # A device that is not persistent ends with its service; the fake's has to be removed.
    laptop.host.run(["ip", "link", "del", "quicether0"])
    laptop.until(lambda: not laptop.leftovers(), 5, "nothing is left")
    laptop.up()
    assert laptop.routes() == {"192.168.1.0/24"}


def test_a_tunnel_that_fails_is_shown_down_with_its_reason_in_the_journal(laptop: Laptop) -> None:
    laptop.up()
    laptop.control("Fail", "ss", "home", "the certificate expired on 2026-01-01")
    laptop.until(lambda: laptop.active() == "", 5, "NetworkManager shows it down")
    laptop.until(lambda: not laptop.leftovers(), 5, "nothing is left")
    assert "the certificate expired on 2026-01-01" in laptop.hinted_journal()


def test_up_right_behind_down_works(laptop: Laptop) -> None:
    for _ in range(5):
        laptop.up()
        laptop.nmcli("connection", "down", "quicether")
    laptop.up()
    assert laptop.routes() == {"192.168.1.0/24"}


def test_a_wrong_key_is_named_where_nmcli_says_to_look(laptop: Laptop) -> None:
    laptop.nmcli("connection", "modify", "quicether", "+vpn.data", "lisen-port=9000")
    try:
        refused = laptop.host.run(["nmcli", "connection", "up", "quicether"], check=False)
    finally:
        laptop.nmcli("connection", "modify", "quicether", "-vpn.data", "lisen-port")
    assert refused.returncode != 0
    assert "NM_CONNECTION=" in refused.stderr
    assert "option 'lisen-port' is not known" in laptop.hinted_journal()
    assert laptop.active() == ""


def test_nobody_but_root_calls_the_plugin_or_takes_its_name(laptop: Laptop) -> None:
    laptop.up()
    names = laptop.host.run(["busctl", "list", "--acquired", "--no-legend"]).stdout
    plugin = next(
        line.split()[0] for line in names.splitlines() if ".NetworkManager.quicether" in line
    )
    path = "/org/freedesktop/NetworkManager/VPN/Plugin"
    call = ["busctl", "call", plugin, path, "org.freedesktop.NetworkManager.VPN.Plugin"]
    refused = laptop.host.run([*call, "Disconnect"], user="nobody", check=False)
    assert refused.returncode != 0
    assert "Access denied" in refused.stderr
    name = "org.freedesktop.NetworkManager.quicether.Connection_99"
    bus = ["org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus"]
    request = ["busctl", "call", *bus, "RequestName", "su", name, "4"]
    refused = laptop.host.run(request, user="nobody", check=False)
    assert refused.returncode != 0
    assert laptop.active() == "activated"


def test_a_networkmanager_that_was_killed_has_its_connection_back_and_the_program_goes(
    laptop: Laptop,
) -> None:
    laptop.up()
    (before,) = laptop.programs()
    laptop.host.run(["systemctl", "kill", "--kill-whom=main", "--signal=KILL", "NetworkManager"])
    laptop.until(lambda: before not in laptop.programs(), 20, "the program has gone")
    laptop.until(
        lambda: (
            "activated"
            in laptop.nmcli("-g", "GENERAL.STATE", "connection", "show", "quicether", check=False)
        ),
        10,
        "the connection is back",
    )
    assert len(laptop.programs()) == 1
    assert laptop.routes() == {"192.168.1.0/24"}


def test_the_device_is_not_listed_a_second_time(laptop: Laptop) -> None:
    laptop.up()
    active = laptop.nmcli("-g", "NAME,TYPE", "connection", "show", "--active").split()
    assert "quicether:vpn" in active
    assert not any(line.startswith("quicether0:") for line in active)


def test_a_profile_private_to_a_user_is_marked_for_the_service(laptop: Laptop) -> None:
    laptop.nmcli("connection", "modify", "quicether", "connection.permissions", "user:root")
    try:
        laptop.up()
    finally:
        laptop.nmcli("connection", "modify", "quicether", "connection.permissions", "")
    assert '\\"private\\": true' in laptop.control("Calls")


def test_a_family_that_the_profile_does_not_want_is_left_out(laptop: Laptop) -> None:
    laptop.nmcli("connection", "modify", "quicether", "ipv6.method", "disabled")
    try:
        laptop.up()
    finally:
        laptop.nmcli("connection", "modify", "quicether", "ipv6.method", "auto")
    assert laptop.addresses() == {"100.64.0.1"}
    assert laptop.routes() == {"192.168.1.0/24"}


def test_two_networks_at_once_have_a_process_each(laptop: Laptop) -> None:
    laptop.nmcli("connection", "add", "type", "vpn", "con-name", "office")
    laptop.nmcli("connection", "modify", "office", "vpn.data", "network=office")
    try:
        laptop.up()
        for key, signature, value in (
            ("device", "s", ["quicether1"]),
            ("addresses", "as", ["1", "100.64.9.1/32"]),
            ("prefixes", "as", ["1", "10.9.0.0/16"]),
        ):
            laptop.control("Change", "sa{sv}", "office", "1", key, signature, *value)
        laptop.nmcli("connection", "up", "office")
        routes = laptop.host.run(["ip", "route"]).stdout
        assert "192.168.1.0/24 dev quicether0" in routes
        assert "10.9.0.0/16 dev quicether1" in routes
        laptop.nmcli("connection", "down", "office")
        laptop.until(
            lambda: "quicether1" not in laptop.host.run(["ip", "-br", "link"]).stdout, 5, "one gone"
        )
        assert laptop.active() == "activated"
        assert laptop.routes() == {"192.168.1.0/24"}
    finally:
        laptop.nmcli("connection", "delete", "office")


def test_a_persistent_vpn_survives_the_loss_of_its_link(laptop: Laptop) -> None:
    laptop.nmcli("connection", "modify", "quicether", "vpn.persistent", "yes")
    try:
        laptop.up()
        laptop.nmcli("connection", "down", "eth0")
        assert laptop.active() == "activated"
        laptop.nmcli("connection", "up", "eth0")
        assert laptop.active() == "activated"
        assert laptop.routes() == {"192.168.1.0/24"}
        laptop.change("prefixes", "as", "1", "10.1.0.0/16")
        laptop.until(lambda: laptop.routes() == {"10.1.0.0/16"}, 5, "the new route")
    finally:
        laptop.nmcli("connection", "modify", "quicether", "vpn.persistent", "no")


def test_a_vpn_goes_down_with_its_link_and_comes_back_with_the_next_up(laptop: Laptop) -> None:
    laptop.up()
    laptop.nmcli("connection", "down", "eth0")
    laptop.until(lambda: not laptop.leftovers(), 5, "nothing is left")
    laptop.nmcli("connection", "up", "eth0")
    laptop.up()
