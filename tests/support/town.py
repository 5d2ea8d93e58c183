"""Sites that find each other: five whole hosts with the service, and who joins them, a LAN each.

    internet (a switch)      hq        plant     shop      depot     farm      …
    203.0.113.0/24           .1        .2        .3        .4        .5
    LAN 192.168.N.0/24       .1 and a machine at .10, which has a default route and nothing else

No node has a peer in its settings. Everyone knows the address of hq, and hq that of farm.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from support.cables import Cable, Port, Switch
from support.hosts import Host, LightHost, Manager, Router, WholeHost, together
from support.node import TUNNEL, Network, Node

NAMES: Final = ("hq", "plant", "shop", "depot", "farm")
MANAGERS: Final[tuple[Manager, ...]] = (*("networkmanager",) * 3, *("none",) * 2)
SHARED = "10.77.0.0/24"
"""What depot and farm both lead to."""
RECORD_LIFE = 60
"""Seconds that records of hosts without a network manager live: the least that there is."""


@dataclass(slots=True)
class Site:
    """A node, its LAN, and a machine in it. node: on light hosts only."""

    number: int
    host: Host
    machine: LightHost
    port: Port
    node: Node | None = None

    @property
    def lan(self) -> str:
        """The LAN's prefix."""
        return f"192.168.{self.number}.0/24"

    @property
    def address(self) -> str:
        """Where the machine in the LAN is."""
        return f"192.168.{self.number}.10"

    @property
    def underlay(self) -> str:
        """Where the node is on the internet."""
        return f"203.0.113.{self.number}"

    @property
    def known(self) -> str:
        """The one address that the node is told."""
        return "203.0.113.5" if self.number == 1 else "203.0.113.1"

    @property
    def manager(self) -> Manager:
        """What manages the host's networks."""
        return self.host.manager if isinstance(self.host, WholeHost) else "none"

    def status(self) -> dict[str, Any]:
        """Return what a whole host shows of its tunnel."""
        found = json.loads(self.host.run(["quicether", "status", "--json"]).stdout)
        status: dict[str, Any] = found["tunnels"][0]
        return status

    def configure(self, *prefixes: str, accept_conflicts: Sequence[str] = ()) -> None:
        """Write what the node is told, in place of earlier: it advertises prefixes."""
        if self.node is not None:
            file = self.node.configuration
        else:
            assert isinstance(self.host, WholeHost)
            file = self.host.root / f"etc/quicether/{TUNNEL}.toml"
        lines = [
            "[network]",
            f"advertise_subnets = {json.dumps(prefixes)}",
            "[discovery]",
            f"bootstrap_nodes = {json.dumps([self.known])}",
            f"accept_conflicts = {json.dumps(accept_conflicts)}",
        ]
        if self.manager == "none":
            lines.append(f"record_life = {RECORD_LIFE}")
        file.write_text("\n".join(lines) + "\n")

    def advertise(self, *prefixes: str, accept_conflicts: Sequence[str] = ()) -> None:
        """Let a node that is up advertise prefixes from now on, and nothing else."""
        self.configure(*prefixes, accept_conflicts=accept_conflicts)
        if self.node is not None:
            self.node.reload()
        else:
            self.host.run(["quicether", "reload", TUNNEL])

    def up(self) -> None:
        """Bring the tunnel up, as its host's user does."""
        if self.node is not None:
            self.node.up()
        elif self.manager == "networkmanager":
            self.host.run(["nmcli", "connection", "up", "quicether"])
        else:
            self.host.run(["systemctl", "start", f"quicether@{TUNNEL}.service"])

    def has_route(self, prefix: str) -> bool:
        """Tell whether the OS leads a prefix into the tunnel."""
        return "dev quicether" in self.host.run(["ip", "route", "show", prefix]).stdout

    def reaches(self, address: str) -> bool:
        """Tell whether one ping from the machine in the LAN comes back."""
        ping = ["ping", "-c", "1", "-W", "1", address]
        return self.machine.run(ping, check=False).returncode == 0

    def reach_all(self, others: Iterable[Site], deadline: float = 5) -> None:
        """Wait until the machine in each of the other LANs answers the machine in this one."""
        for other in others:
            if other is not self:
                what = f"{other.host.name}'s LAN to answer"
                self.host.wait_until(partial(self.reaches, other.address), deadline, what)

    def wait_for(self, prefix: str, deadline: float, *, gone: bool = False) -> None:
        """Wait until the OS leads a prefix into the tunnel, or no longer does."""
        what = f"route {prefix} to {'go' if gone else 'come'}"
        self.host.wait_until(lambda: self.has_route(prefix) is not gone, deadline, what)


@dataclass(slots=True)
class Town:
    """All sites by name, and what more of them are built with."""

    stack: ExitStack
    internet: Switch
    network: Network
    sites: dict[str, Site] = field(default_factory=dict)

    def join(self, name: str, *prefixes: str) -> Site:
        """Build a site on a light host, whose certificate also covers prefixes; it is down."""
        router = self.stack.enter_context(Router(name))
        site = self._build(router)
        site.node = self.network.node(router, prefixes=[site.lan, *prefixes])
        site.configure(site.lan)
        return site

    def adopt(self, host: WholeHost, *prefixes: str) -> Site:
        """Build a site around a whole host, and certify its node for prefixes too; it is down."""
        site = self._build(host)
        host.sysctl({"net.ipv4.ip_forward": "1"})
        self.network.certify(host, [site.lan, *prefixes])
        site.configure(site.lan)
        if site.manager == "networkmanager":
            add = ["nmcli", "connection", "add", "type", "vpn", "con-name", "quicether"]
            host.run([*add, "vpn-type", "quicether", "vpn.data", f"network={TUNNEL}"])
        return site

    def _build(self, host: Host) -> Site:
        number = len(self.sites) + 1
        machine = self.stack.enter_context(LightHost(f"{host.name}-pc"))
        port = self.internet.plug(host)
        site = self.sites[host.name] = Site(number, host, machine, port)
        cable = self.stack.enter_context(Cable(host, machine))
        host.configure_link(port.ifname, [f"{site.underlay}/24"], gateway="203.0.113.254")
        host.configure_link(cable.a.ifname, [f"192.168.{number}.1/24"])
        machine.configure_link(
            cable.b.ifname, [f"{site.address}/24"], gateway=f"192.168.{number}.1"
        )
        return site


def side_by_side(*work: Callable[[], object]) -> None:
    """Do several things at once."""
    with ThreadPoolExecutor(max_workers=len(work)) as pool:
        for done in [pool.submit(each) for each in work]:
            done.result()


@contextlib.contextmanager
def town(
    layers: Sequence[Path], folder: Path, managers: Sequence[Manager] = MANAGERS
) -> Iterator[Town]:
    """Boot five hosts that all know one address, and bring their tunnels up at once.

    managers: of the hosts' networks, in their order.
    """
    with ExitStack() as stack:
        network = stack.enter_context(Network(folder))
        internet = stack.enter_context(Switch("internet"))
        gateway = stack.enter_context(Router("gateway"))
        gateway.configure_link(internet.plug(gateway).ifname, ["203.0.113.254/24"])
        hosts = zip(NAMES, managers, strict=True)
        booted = stack.enter_context(
            together(*(WholeHost(name, manager, layers) for name, manager in hosts))
        )
        built = Town(stack, internet, network)
        side_by_side(*[built.adopt(host, SHARED).up for host in booted])
        yield built


def looked_up(site: Site, address: str) -> str | None:
    """Return the name of the node that owns an address, as a site's node finds out."""
    if site.node is not None:
        found = site.node.lookup(address)
    else:
        # Exits with 1 where nobody owns the address.
        command = ["quicether", "lookup", address, "--json"]
        found = json.loads(site.host.run(command, check=False).stdout)["result"]
    assert found["asked"]
    name: str | None = found["node_name"]
    return name
