"""Sites that find each other: three whole hosts with NetworkManager, two plain ones, a LAN each.

    internet (a switch)      hq        plant     shop      depot     farm      …
    203.0.113.0/24           .1        .2        .3        .4        .5
    LAN 192.168.N.0/24       .1 and a machine at .10, which has a default route and nothing else

No node has a peer in its profile. Everyone knows the address of hq, and hq that of farm.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from support.cables import Cable, Port, Switch
from support.hosts import Host, LightHost, Router, WholeHost, together
from support.node import TUNNEL, Network, Node

WHOLE = ("hq", "plant", "shop")
PLAIN = ("depot", "farm")
SHARED = "10.77.0.0/24"
"""What depot and farm both lead to."""
RECORD_LIFE = 60
"""Seconds that records of plain nodes live: the least that there is."""


@dataclass(slots=True)
class Site:
    """A node, its LAN, and a machine in it. node: on plain hosts only."""

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
    def is_up(self) -> bool:
        """Tell whether the tunnel's device is there."""
        return self.host.run(["ip", "link", "show", "quicether0"], check=False).returncode == 0

    @property
    def known(self) -> str:
        """The one address that the node is told."""
        return "203.0.113.5" if self.number == 1 else "203.0.113.1"

    def configure(self, *prefixes: str) -> None:
        """Write what a plain node is told, in place of earlier: it advertises prefixes."""
        assert self.node is not None
        self.node.configuration.write_text(
            f"[network]\nadvertise_subnets = {json.dumps(prefixes)}\n"
            f"[discovery]\nbootstrap_nodes = {json.dumps([self.known])}\n"
        )

    def advertise(self, *prefixes: str) -> None:
        """Let a plain node that is up advertise prefixes from now on."""
        assert self.node is not None
        self.configure(*prefixes)
        self.node.reload()

    def has_route(self, prefix: str) -> bool:
        """Tell whether the OS leads a prefix into the tunnel."""
        return "dev quicether" in self.host.run(["ip", "route", "show", prefix]).stdout

    def reaches(self, address: str) -> bool:
        """Tell whether one ping from the machine in the LAN comes back."""
        ping = ["ping", "-c", "1", "-W", "1", address]
        return self.machine.run(ping, check=False).returncode == 0

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
        """Build a site with a plain node, whose certificate also covers prefixes; it is down."""
        router = self.stack.enter_context(Router(name))
        site = self._build(router)
        site.node = self.network.node(router, prefixes=[site.lan, *prefixes])
        site.configure(site.lan)
        return site

    def adopt(self, host: WholeHost) -> Site:
        """Build a site around a whole host, certify its node and add its profile."""
        site = self._build(host)
        host.sysctl({"net.ipv4.ip_forward": "1"})
        self.network.certify(host, [site.lan])
        data = f"network={TUNNEL}, bootstrap={site.known}, advertise-subnets={site.lan}"
        add = ["nmcli", "connection", "add", "type", "vpn", "con-name", "quicether"]
        host.run([*add, "vpn-type", "quicether", "vpn.data", data])
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
def town(layers: Sequence[Path], folder: Path) -> Iterator[Town]:
    """Boot five hosts that all know one address, and bring their tunnels up at once."""
    with ExitStack() as stack:
        network = stack.enter_context(Network(folder, record_life=RECORD_LIFE))
        internet = stack.enter_context(Switch("internet"))
        gateway = stack.enter_context(Router("gateway"))
        gateway.configure_link(internet.plug(gateway).ifname, ["203.0.113.254/24"])
        booted = stack.enter_context(
            together(*(WholeHost(name, "networkmanager", layers) for name in WHOLE))
        )
        built = Town(stack, internet, network)
        for host in booted:
            built.adopt(host)
        up = ["nmcli", "connection", "up", "quicether"]
        side_by_side(*(lambda host=host: host.run(up) for host in booted))
        plain = [built.join(name, SHARED).node for name in PLAIN]
        side_by_side(*(node.up for node in plain if node is not None))
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
