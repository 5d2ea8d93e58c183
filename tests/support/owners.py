"""Three whole machines on one network, each with another owner of its tunnel's link.

      desk (systemd-networkd)    shed (no manager: netlink)    lap (NetworkManager)
           10.1.0.0/16                  10.2.0.0/16                10.3.0.0/16
                  └───────────── one switch, 198.51.100.0/24 ──────────────┘

All three are peers of each other. Each has the first address of its prefix on its loopback device,
so that the prefix carries traffic without a fourth machine.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from support.cables import Switch
from support.hosts import Manager, WholeHost, together

NETWORK: Final = "home"
UNIT: Final = f"quicether@{NETWORK}.service"
SERVICE: Final = "quicether.service"
_MANAGERS: Final[dict[str, Manager]] = {
    "desk": "networkd",
    "shed": "none",
    "lap": "networkmanager",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine. number: the last byte of its underlay address."""

    host: WholeHost
    number: int

    @property
    def name(self) -> str:
        """Its name, which its certificate bears too."""
        return self.host.name

    @property
    def underlay(self) -> str:
        """Its address on the switch."""
        return f"198.51.100.{self.number}"

    @property
    def prefix(self) -> str:
        """What it advertises from the start."""
        return f"10.{self.number}.0.0/16"

    @property
    def inside(self) -> str:
        """Its own address in that prefix."""
        return f"10.{self.number}.0.1"

    @property
    def managed(self) -> bool:
        """Whether its tunnel is a profile of NetworkManager."""
        return self.host.manager == "networkmanager"

    def up(self) -> None:
        """Bring the tunnel up as its user does, where it is not up."""
        if self.managed:
            if not self._profile_is_up():
                self.host.run(["nmcli", "connection", "up", "quicether"])
        else:
            self.host.run(["systemctl", "start", UNIT])

    def down(self) -> None:
        """Take the tunnel down as its user does, where it is up."""
        if not self.managed:
            self.host.run(["systemctl", "stop", UNIT])
        elif self._profile_is_up():
            self.host.run(["nmcli", "connection", "down", "quicether"])

    def _profile_is_up(self) -> bool:
        active = self.host.run(["nmcli", "-g", "NAME", "connection", "show", "--active"])
        return "quicether" in active.stdout.split()

    def configure(
        self,
        *advertised: str,
        link: str = "auto",
        gateway: str = "",
        device: str = "quicether0",
    ) -> None:
        """Write the stored configuration. advertised: prefixes. gateway: the default one."""
        peers = [f"{name}@198.51.100.{number}" for number, name in _numbered() if name != self.name]
        (self.host.root / f"etc/quicether/{NETWORK}.toml").write_text(
            f"[network]\nlink = {json.dumps(link)}\ntun_name = {json.dumps(device)}\n"
            f"advertise_subnets = {json.dumps(advertised)}\n"
            f"[overlay]\npeers = {json.dumps(peers)}\n"
            f"default_gateway = {json.dumps(gateway)}\n"
        )

    def status(self) -> dict[str, Any]:
        """The tunnel's status, empty while there is no tunnel."""
        said = self.host.run(["quicether", "status", "--json"], check=False)
        if said.returncode != 0:
            return {}
        tunnels = json.loads(said.stdout)["tunnels"]
        return dict(tunnels[0]) if tunnels else {}

    def reaches(self, address: str) -> bool:
        """Tell whether one ping comes back."""
        return self.host.run(["ping", "-c1", "-W1", address], check=False).returncode == 0

    def routes(self) -> set[str]:
        """The destinations that lead into the tunnel."""
        found: list[dict[str, Any]] = []
        for family in ("-4", "-6"):
            command = ["ip", "-j", family, "route", "show", "dev", "quicether0"]
            said = self.host.run(command, check=False)
            found += json.loads(said.stdout or "[]") if said.returncode == 0 else []
        return {route["dst"] for route in found}

    def index(self) -> int:
        """The kernel's number of the tunnel's device, 0 where there is none."""
        said = self.host.run(["ip", "-j", "link", "show", "quicether0"], check=False)
        return json.loads(said.stdout)[0]["ifindex"] if said.returncode == 0 else 0

    def traces(self) -> list[str]:
        """What of a tunnel is on the machine: device, routes, rules, files, the plugin."""
        found: list[str] = []
        for command in (["ip", "-br", "link"], ["ip", "route", "show", "table", "all"]):
            lines = self.host.run(command).stdout.splitlines()
            found += [line for line in lines if "quicether" in line]
        found += self.rules()
        found += self.host.run(["ls", "/run/quicether-networkd"]).stdout.split()
        plugins = self.host.run(["pgrep", "-fa", "nm-quicether-service"], check=False)
        return [*found, *plugins.stdout.splitlines()]

    def rules(self) -> set[str]:
        """The policy routing rules that bear the overlay's protocol."""
        found: set[str] = set()
        for family in ("-4", "-6"):
            rules = json.loads(self.host.run(["ip", "-j", family, "rule"]).stdout)
            found |= {f"{family} {rule}" for rule in rules if rule.get("protocol") == "209"}
        return found

    def is_clean(self) -> bool:
        """Tell whether nothing of a tunnel is on the machine."""
        return not self.traces()


@contextlib.contextmanager
def machines(layers: Sequence[Path]) -> Iterator[list[Machine]]:
    """Boot the three machines as one network; no tunnel is up."""
    booting = (WholeHost(name, manager, layers) for name, manager in _MANAGERS.items())
    with together(*booting) as hosts, Switch() as lan:
        found = [Machine(host, number) for number, host in enumerate(hosts, 1)]
        for each in found:
            port = lan.plug(each.host)
            # NetworkManager puts a VPN on a connection with a default route.
            each.host.configure_link(port.ifname, [f"{each.underlay}/24"], "198.51.100.254")
            each.host.run(["ip", "address", "add", f"{each.inside}/32", "dev", "lo"])
        _found_network(found)
        yield found


def _found_network(found: Sequence[Machine]) -> None:
    """Give every machine a certificate and its configuration."""
    first, *others = found
    first.host.run(["quicether", "network", "create", NETWORK, "--authority-only"])
    sign = ["quicether", "network", "sign", NETWORK, "--prefix", "10.0.0.0/8", "--name"]
    first.host.run([*sign, first.name, "--local"])
    for each in others:
        key = each.host.run(["quicether", "keygen", NETWORK]).stdout.split()[-1]
        bundle = f"/root/{each.name}.pem"
        first.host.run([*sign, each.name, "--public-key", key, "--out", bundle])
        content = (first.host.root / bundle.lstrip("/")).read_bytes()
        (each.host.root / bundle.lstrip("/")).write_bytes(content)
        each.host.run(["quicether", "network", "install", NETWORK, bundle])
    for each in found:
        each.configure(each.prefix)
        if each.managed:
            kind = ["type", "vpn", "vpn-type", "quicether", "con-name", "quicether"]
            data = ["vpn.data", f"network={NETWORK}"]
            each.host.run(["nmcli", "connection", "add", *kind, *data])


def _numbered() -> Iterator[tuple[int, str]]:
    return enumerate(_MANAGERS, 1)
