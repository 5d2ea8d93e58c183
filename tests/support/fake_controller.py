"""A fake of the daemon behind the D-Bus API: tunnels that are only values.

As a program (`python -m support.fake_controller ADDRESS [--refusing] [--peers=N]
[--ready-after=SECONDS] [TUNNEL …]`) it serves the real `BusService` on a bus, with a fake authority
in polkit's place.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, ip_network
from typing import Any, Final

from quicether.bus.authorise import NotAuthorizedError
from quicether.bus.contract import Action, LinkOwnerName, TunnelState
from quicether.bus.controller import AlreadyUpError, NoSuchTunnelError, UpRequest
from quicether.bus.service import BusService
from quicether.bus.status import (
    JoinResult,
    LookupResult,
    PeerStatus,
    PingResult,
    PolicyVerdict,
    RouteStatus,
)
from quicether.config.settings import Settings
from quicether.counters import Counters
from quicether.errors import ConfigError, HostError, TrustError, UnreachableError
from quicether.host.desired import Dns, HostConfig
from quicether.identity.invite_code import InviteCode
from quicether.model import (
    Address,
    DropReason,
    NextHopKind,
    NodeId,
    PeerState,
    Prefix,
    RouteSource,
    UnderlayAddress,
)

SINCE: Final = 1_700_000_000.0
HOME: Final = PeerStatus(
    node_id="11" * 20,
    name="home",
    state=PeerState.CONNECTED,
    address="203.0.113.7:9000",
    rtt=0.0123,
    addresses=("100.64.0.1", "fd12:3456:789a::1"),
    prefixes=("192.168.1.0/24",),
    max_packet=1380,
    since=SINCE,
)
OFFICE: Final = PeerStatus(
    node_id="22" * 20,
    name="office",
    state=PeerState.VIA_GATEWAY,
    via="home",
    prefixes=("10.0.0.0/8",),
    since=SINCE,
)
GONE: Final = PeerStatus(
    node_id="33" * 20,
    name="attic",
    state=PeerState.UNREACHABLE,
    detail="nobody answers at 198.51.100.9:9000",
)
ROUTES: Final = (
    RouteStatus("192.168.1.0/24", NextHopKind.NODE, RouteSource.ANNOUNCED, True, True, "11" * 20,
                "home", 0.0123),
    RouteStatus("192.168.7.0/24", NextHopKind.LOCAL, RouteSource.CONFIGURED, True, True),
    RouteStatus("10.0.0.0/8", NextHopKind.GATEWAY, RouteSource.DISCOVERED, True, True, "11" * 20,
                "home"),
)  # fmt: skip


@dataclass
class FakeTunnel:
    """One tunnel; every attribute can be set by a test."""

    name: str
    state: TunnelState = TunnelState.RUNNING
    ready: bool = True
    network: str = "homenet"
    node_id: NodeId = field(default_factory=lambda: NodeId(b"\x0a" * 20))
    node_name: str = "laptop"
    listen_port: int = 9000
    endpoints: Sequence[UnderlayAddress] = (UnderlayAddress("192.0.2.1", 9000),)
    link: LinkOwnerName = LinkOwnerName.NETLINK
    link_reason: str = "link = netlink is configured"
    since: float = SINCE
    host_config: HostConfig | None = field(
        default_factory=lambda: HostConfig(
            device="quicether0",
            mtu=1380,
            addresses=(IPv4Interface("100.64.0.2/32"), IPv6Interface("fd12:3456:789a::2/128")),
            prefixes=(IPv4Network("192.168.1.0/24"), IPv4Network("10.0.0.0/8")),
            dns=Dns((IPv4Address("192.168.1.1"),), ("home.example",)),
        )
    )
    counters: Counters = field(
        default_factory=lambda: Counters(
            sent_packets=10, sent_bytes=1000, drops=Counters().drops + _drops()
        )
    )
    offers: Sequence[Prefix] = (ip_network("192.168.77.0/24"),)
    refusals: Sequence[str] = ("172.16.0.0/12 covers 172.16.3.0/24 of eth0",)
    all_peers: list[PeerStatus] = field(default_factory=lambda: [GONE, HOME, OFFICE])
    all_routes: list[RouteStatus] = field(default_factory=lambda: list(ROUTES))
    ping_gate: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled_pings: int = 0
    listed: int = 0

    @property
    def peer_count(self) -> int:
        return len(self.all_peers)

    @property
    def route_count(self) -> int:
        return len(self.all_routes)

    def peers(self, start: int, count: int) -> Sequence[PeerStatus]:
        self.listed += 1
        return self.all_peers[start : start + count]

    @property
    def peers_revision(self) -> object:
        return tuple(self.all_peers)

    @property
    def routes_revision(self) -> object:
        return tuple(self.all_routes)

    def routes(self, start: int, count: int) -> Sequence[RouteStatus]:
        self.listed += 1
        return self.all_routes[start : start + count]

    async def lookup(self, address: Address) -> LookupResult:
        for route in self.all_routes:
            if address in IPv4Network(route.prefix):
                return LookupResult(str(address), route.prefix, route.next_hop, route.source,
                                    route.node_id, route.node_name, route.reachable)  # fmt: skip
        return LookupResult(str(address), asked=True)

    async def ping(self, node: str) -> PingResult:
        if node == "slow":
            try:
                await self.ping_gate.wait()
            except asyncio.CancelledError:
                self.cancelled_pings += 1
                raise
        if node == "attic":
            raise UnreachableError("attic did not answer within 5 s")
        if node == "bug":
            raise RuntimeError("a secret of the implementation")
        for peer in self.all_peers:
            if node in (peer.name, peer.node_id):
                return PingResult(peer.node_id, peer.name, 0.0123, peer.address, peer.via)
        raise ConfigError(f"node {node!r} is not known")

    async def policy_test(
        self, source: str, destination: Address, protocol: str, port: int | None
    ) -> PolicyVerdict:
        return PolicyVerdict(port == 443, f"{source} to {destination} {protocol} {port}", "web")


def _drops() -> Any:
    counters = Counters()
    counters.drop(DropReason.NO_ROUTE, 3)
    return counters.drops


class FakeController:
    """Brings fake tunnels up.

    ready_after: seconds from `up` until packets flow.
    gate: `up` waits for it. stored: names that `up` takes without options. calls: in order.
    """

    def __init__(self, *tunnels: str) -> None:
        self.tunnels: dict[str, FakeTunnel] = {name: FakeTunnel(name) for name in tunnels}
        self.failures: dict[str, str] = {}
        self.ready_after = 0.0
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls: list[tuple[str, str]] = []
        self.joined: list[str] = []
        self.options: dict[str, str] = {}
        self.request = UpRequest()
        self.cancelled = 0
        self._changed: list[Callable[[], None]] = []
        self._news = asyncio.Event()

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._changed.append(changed)

    def change(self) -> None:
        """Say that something is different."""
        self._news.set()
        for changed in self._changed:
            changed()

    async def until(self, done: Callable[[], bool], deadline: float = 5.0) -> None:
        """Wait until something that `change` told of is as asked for."""
        try:
            async with asyncio.timeout(deadline):
                while not done():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"after {deadline} s only {self.calls}") from None

    def grow(self, name: str, peers: int) -> None:
        """Give a tunnel many peers."""
        self.tunnels[name].all_peers = [
            replace(HOME, node_id=f"{number:040x}", name=f"n{number}") for number in range(peers)
        ]
        self.change()

    def overridden(
        self, name: str, options: Mapping[str, str], request: UpRequest
    ) -> Sequence[str]:
        Settings.from_options(options)
        return ("policy-file",) if request.transient else ()

    async def up(self, name: str, options: Mapping[str, str], request: UpRequest) -> FakeTunnel:
        self.calls.append(("up", name))
        self.options, self.request = dict(options), request
        self.change()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            self.change()
            raise
        if name in self.tunnels:
            raise AlreadyUpError(f"tunnel {name} is up already")
        try:
            Settings.from_options(options)
            if name == "broken":
                raise HostError("quicether0: no such device can be made")
            if name == "nowhere" and not options:
                raise NoSuchTunnelError(f"tunnel {name} is not stored in /etc/quicether")
        except (ConfigError, HostError) as error:
            self.failures[name] = str(error)
            self.change()
            raise
        tunnel = FakeTunnel(name, link=request.owner or LinkOwnerName.NETLINK)
        self.tunnels[name] = tunnel
        if self.ready_after:
            tunnel.ready = False
            asyncio.get_running_loop().call_later(self.ready_after, self._become_ready, tunnel)
        self.failures.pop(name, None)
        self.change()
        return self.tunnels[name]

    def _become_ready(self, tunnel: FakeTunnel) -> None:
        tunnel.ready = True
        self.change()

    async def down(self, name: str) -> None:
        self.calls.append(("down", name))
        if self.tunnels.pop(name, None) is None:
            raise NoSuchTunnelError(f"tunnel {name} is not up")
        self.change()

    async def reload(self, name: str) -> None:
        self.calls.append(("reload", name))
        if name not in self.tunnels:
            raise NoSuchTunnelError(f"tunnel {name} is not up")

    async def renew(self, name: str) -> datetime:
        self.calls.append(("renew", name))
        if name not in self.tunnels:
            raise NoSuchTunnelError(f"tunnel {name} is not up")
        return datetime.fromtimestamp(SINCE, UTC)

    async def join(self, code: InviteCode) -> JoinResult:
        self.calls.append(("join", code.network))
        self.change()
        await self.gate.wait()
        if code.network == "stolen":
            raise TrustError("the inviter refuses this code")
        if code.network == "silent":
            raise UnreachableError("the inviter does not answer")
        self.joined.append(code.network)
        self.change()
        return JoinResult(
            code.network, "laptop", "0a" * 20, "home", "home@192.0.2.1:9000",
            f"/etc/quicether/{code.network}.toml", settings_current=True,
            next="nmcli connection up quicether", addresses=("100.64.0.2",), valid_until=SINCE,
        )  # fmt: skip


class FakeAuthority:
    """Lets everybody do everything, or nobody anything."""

    def __init__(self, *, refusing: bool = False) -> None:
        self._refusing = refusing

    async def check(self, sender: str, action: Action, interactive: bool) -> None:
        if self._refusing:
            raise NotAuthorizedError(f"you may not: {action} is refused")


async def _main() -> None:
    address, *words = sys.argv[1:]
    tunnels = [word for word in words if not word.startswith("--")]
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    controller = FakeController(*tunnels)
    for word in words:
        if word.startswith("--peers="):
            for name in tunnels:
                controller.grow(name, int(word.removeprefix("--peers=")))
        if word.startswith("--ready-after="):
            controller.ready_after = float(word.removeprefix("--ready-after="))
    authority = FakeAuthority(refusing="--refusing" in words)
    service = BusService(controller, "1.2.3", authority=authority, address=address)
    await service.open()
    print("ready", flush=True)
    await ended.wait()
    await service.close()


if __name__ == "__main__":
    asyncio.run(_main())
