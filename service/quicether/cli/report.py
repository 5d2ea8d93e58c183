"""What the service says, as typed values: the content of tables and of `--json`.

The JSON schema in service/man/quicether-json.schema.json is generated from these classes and
those of `answers`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from quicether.bus.contract import HostConfigKey, LinkOwnerName, TunnelState
from quicether.bus.status import (
    LookupResult,
    PeerStatus,
    PingResult,
    RouteStatus,
    from_wire,
)
from quicether.cli.client import Daemon
from quicether.errors import ConfigError, HostError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TunnelReport:
    """One tunnel.

    endpoints: where other machines may reach this node. since: Unix time. mtu: bytes, None before
    it is known. offers: prefixes that this node leads others to.
    """

    name: str
    state: TunnelState
    ready: bool
    network: str
    node_id: str
    node_name: str
    listen_port: int
    endpoints: tuple[str, ...]
    link: LinkOwnerName
    link_reason: str
    since: float
    device: str | None
    mtu: int | None
    addresses: tuple[str, ...]
    prefixes: tuple[str, ...]
    dns_servers: tuple[str, ...]
    dns_domains: tuple[str, ...]
    full_tunnel: bool
    peer_count: int
    route_count: int
    counters: dict[str, int]
    offers: tuple[str, ...]
    refusals: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StatusReport:
    """`quicether status --json`. failures: tunnel → the sentence of its last failure."""

    version: str
    tunnels: tuple[TunnelReport, ...]
    failures: dict[str, str]


@dataclass(frozen=True, slots=True)
class PeersReport:
    """`quicether peers --json`."""

    tunnel: str
    peers: tuple[PeerStatus, ...]


@dataclass(frozen=True, slots=True)
class RoutesReport:
    """`quicether routes --json`."""

    tunnel: str
    routes: tuple[RouteStatus, ...]


@dataclass(frozen=True, slots=True)
class LookupReport:
    """`quicether lookup --json`."""

    tunnel: str
    result: LookupResult


@dataclass(frozen=True, slots=True)
class PingReport:
    """`quicether ping --json`, one object a line. error: why there was no answer."""

    tunnel: str
    sequence: int
    answer: PingResult | None = None
    error: str | None = None


def status(service: Daemon) -> StatusReport:
    """Ask for everything that `quicether status` shows. Raises HostError."""
    manager = service.manager()
    tunnels = tuple(_tunnel(found) for found in service.tunnels().values())
    return StatusReport(
        version=manager["Version"][1],
        tunnels=tuple(sorted(tunnels, key=lambda tunnel: tunnel.name)),
        failures=dict(manager["Failures"][1]),
    )


def choose(service: Daemon, name: str | None) -> tuple[str, str]:
    """Return the name and the object path of the tunnel that is meant.

    name: what the user gave; None means the only one that is up. Raises ConfigError.
    """
    up = {found["Name"][1]: path for path, found in service.tunnels().items()}
    if name is None and len(up) == 1:
        return next(iter(up.items()))
    if not up:
        raise ConfigError("no tunnel is up; `quicether up NAME` brings one up")
    listed = ", ".join(sorted(up))
    if name is None:
        raise ConfigError(f"several tunnels are up ({listed}); name one with --tunnel")
    if name not in up:
        raise ConfigError(f"tunnel {name} is not up; up is: {listed}")
    return name, up[name]


def peers(service: Daemon, name: str | None) -> PeersReport:
    """Ask for all peers of a tunnel."""
    tunnel, path = choose(service, name)
    found = service.listed(path, "ListPeers")
    return PeersReport(tunnel, tuple(read(PeerStatus, entry) for entry in found))


def routes(service: Daemon, name: str | None) -> RoutesReport:
    """Ask for all routes of a tunnel."""
    tunnel, path = choose(service, name)
    found = service.listed(path, "ListRoutes")
    return RoutesReport(tunnel, tuple(read(RouteStatus, entry) for entry in found))


def read(kind: type[T], wire: Mapping[str, tuple[str, Any]]) -> T:
    """Return a status from the bus. Raises HostError: the service is of another version."""
    try:
        return from_wire(kind, wire)
    except (ValueError, KeyError) as error:
        raise HostError(f"the service speaks another version than this command: {error}") from None


def plain(report: Any) -> Any:
    """Return a report as JSON takes it."""
    return dataclasses.asdict(report)


def _tunnel(found: Mapping[str, tuple[str, Any]]) -> TunnelReport:
    values = {name: value for name, (_, value) in found.items()}
    host = {key: value for key, (_, value) in values["HostConfig"].items()}
    try:
        return TunnelReport(
            name=values["Name"],
            state=TunnelState(values["State"]),
            ready=values["Ready"],
            network=values["Network"],
            node_id=values["NodeId"],
            node_name=values["NodeName"],
            listen_port=values["ListenPort"],
            endpoints=tuple(values["Endpoints"]),
            link=LinkOwnerName(values["Link"]),
            link_reason=values["LinkReason"],
            since=values["Since"],
            device=host.get(HostConfigKey.DEVICE),
            mtu=host.get(HostConfigKey.MTU),
            addresses=tuple(host.get(HostConfigKey.ADDRESSES, ())),
            prefixes=tuple(host.get(HostConfigKey.PREFIXES, ())),
            dns_servers=tuple(host.get(HostConfigKey.DNS_SERVERS, ())),
            dns_domains=tuple(host.get(HostConfigKey.DNS_DOMAINS, ())),
            full_tunnel=host.get(HostConfigKey.FULL_TUNNEL, False),
            peer_count=values["PeerCount"],
            route_count=values["RouteCount"],
            counters=dict(values["Counters"]),
            offers=tuple(values["Offers"]),
            refusals=tuple(values["Refusals"]),
        )
    except (KeyError, ValueError) as error:
        raise HostError(f"the service speaks another version than this command: {error}") from None
